"""The buttons under candidates: go on with one, or leave the rest."""

# ruff: noqa: N801  Blender's own naming

import bpy
from bpy.props import StringProperty

from ..session import candidates
from .base import BaseOperator, JobOperator


class DREAMFLOW_OT_choose_candidate(JobOperator):
    bl_idname = "dreamflow.choose_candidate"
    bl_label = "Continue"
    bl_description = "Finish this candidate: the result is the same as if its seed had run alone"

    def run(self, context: bpy.types.Context) -> None:
        entry = self.entry()
        if entry.state != "candidate":
            raise ValueError("This job is not waiting to be chosen")
        candidates.choose(entry)


class DREAMFLOW_OT_leave_candidates(BaseOperator):
    bl_idname = "dreamflow.leave_candidates"
    bl_label = "Done"
    bl_description = "Close this choice; what was not chosen stays in the history"

    group: StringProperty(options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]

    def run(self, context: bpy.types.Context) -> None:
        if not self.group:
            raise ValueError("Choose a candidate in the sidebar")
        candidates.leave(self.group)


CLASSES = (DREAMFLOW_OT_choose_candidate, DREAMFLOW_OT_leave_candidates)
