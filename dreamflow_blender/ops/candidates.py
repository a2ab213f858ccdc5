"""The buttons under candidates: go on with one, or leave the rest."""

# ruff: noqa: N801  Blender's own naming

import random

import bpy
from bpy.props import StringProperty

from ..contract.files import read_json
from ..contract.jobfolder import JobFolder
from ..session import candidates, jobs
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


class DREAMFLOW_OT_more_like_this(JobOperator):
    bl_idname = "dreamflow.more_like_this"
    bl_label = "More like this"
    bl_description = (
        "Begin another object as this one began, and use another seed from half of the first stage on"
    )

    def run(self, context: bpy.types.Context) -> None:
        entry = self.entry()
        if entry.job.kind == "refine":
            raise ValueError("A refined object has no first stage to begin with")
        record = read_json(JobFolder(entry.folder).job)
        if record is None:
            raise ValueError("The files of this object's job no longer exist")
        again = {"like": entry.job.first_seed, "threads": record.get("threads", 0)}  # those of its bytes
        jobs.requeue(entry, "new", seed=random.randrange(100_000), **again)


class DREAMFLOW_OT_leave_candidates(BaseOperator):
    bl_idname = "dreamflow.leave_candidates"
    bl_label = "Done"
    bl_description = "Close this choice; what was not chosen stays in the history"

    group: StringProperty(options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]

    def run(self, context: bpy.types.Context) -> None:
        if not self.group:
            raise ValueError("Choose a candidate in the sidebar")
        candidates.leave(self.group)


CLASSES = (DREAMFLOW_OT_choose_candidate, DREAMFLOW_OT_more_like_this, DREAMFLOW_OT_leave_candidates)
