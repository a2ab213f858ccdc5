"""Refine an object of the user's own; compare, apply or discard the result."""

# ruff: noqa: N801  Blender's own naming

from pathlib import Path
from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as translated

from ..backlog import entries, work
from ..gather.object import cannot_refine_reason, front_of
from ..scene import decide
from ..scene import refined as scene_refined
from ..scene.objects import select_only
from ..session import models, service
from ..session import refine as refine_session
from ..settings import addon
from ..settings import refine as refine_settings
from ..ui import refine as ui_refine
from ..ui.parts import DIALOG, in_dialog
from .base import BaseOperator, JobOperator


class DREAMFLOW_OT_refine(BaseOperator):
    bl_idname = "dreamflow.refine"
    bl_label = "Refine"
    bl_description = "Give this object a better texture; its shape and UVs do not change"
    bl_options = {"REGISTER"}  # noqa: RUF012

    @classmethod
    def unavailable(cls, context: bpy.types.Context) -> str:
        if service.python() is None:
            return "Set up DreamFlow first"
        if context.scene is None or context.scene.library is not None:
            return "Switch to a scene of this file first"
        if bpy.app.background and context.mode != "OBJECT":  # where the result is put on at the end
            return "Switch to Object Mode first"
        reason = cannot_refine_reason(context.object)
        if not reason and decide.state_of(context.object) is not None:
            reason = "Apply or discard the refined texture of this object first"
        return reason or models.missing(context.scene.dreamflow_refine)

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        settings = context.scene.dreamflow_refine
        ui_refine.fill_prompt(settings, context.object)
        if bpy.app.background:
            return self.execute(context)
        return context.window_manager.invoke_props_dialog(self, width=DIALOG, confirm_text="Refine")

    def draw(self, context: bpy.types.Context) -> None:
        with in_dialog(DIALOG):
            ui_refine.draw_dialog(self.layout, context)

    def run(self, context: bpy.types.Context) -> str | None:
        settings = context.scene.dreamflow_refine
        if not bpy.app.background:
            report = refine_session.begin_all(context, settings)
            refine_session.tidy()
            return report
        for obj in refine_session.chosen(context):
            self.run_blocking(context, obj, settings)
        return None

    def run_blocking(self, context: bpy.types.Context, obj: bpy.types.Object, settings: Any) -> None:
        """For scripts: the object shows its refined texture at the end."""
        interpreter = service.python()
        assert interpreter is not None, "poll"
        refine_session.prepare_uvs(context, obj, settings)
        baked = refine_session.bake_now(obj, context.scene.frame_current)
        front = front_of(obj, settings.front, context)
        job, target = refine_session.make(context, obj, refine_settings.frozen(settings), front, baked)
        client = service.make_client(interpreter, addon.jobs_folder())
        try:
            work.run_job(client, job, "new", lambda event: None)
        finally:
            client.close()
        refined = scene_refined.read(Path(job.folder))
        scene_refined.apply_result(refined, target[entries.PLACE], obj, context)
        bpy.ops.ed.undo_push(message="Refine")


class DREAMFLOW_OT_show_refined(JobOperator):
    bl_idname = "dreamflow.show_refined"
    bl_label = "Put on the object"
    bl_description = "Show the refined texture on the object it was made for"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012

    @classmethod
    def unavailable(cls, context: bpy.types.Context) -> str:
        return "" if context.mode == "OBJECT" else "Switch to Object Mode first"

    def run(self, context: bpy.types.Context) -> str:
        entry = self.entry()
        target = entry.place.get(entries.PLACE)
        if target is None:
            raise ValueError("It is not recorded which object this texture is for")
        active = context.view_layer.objects.active
        obj = scene_refined.find_object(target, active)
        shown = scene_refined.apply_result(scene_refined.read(entry.folder), target, obj, context)
        if shown != obj and active == obj:
            select_only(shown, context.view_layer)
        said = "{name} is refined: compare, apply or discard it in the sidebar"
        return translated(said).format(name=shown.name)


class RefinedOperator(BaseOperator):
    """A button on an object whose refined texture is not yet applied or discarded."""

    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012

    @classmethod
    def unavailable(cls, context: bpy.types.Context) -> str:
        if decide.state_of(context.object) is None:
            return "Select a refined object"
        return "" if context.mode == "OBJECT" else "Switch to Object Mode first"


class DREAMFLOW_OT_before_after(RefinedOperator):
    bl_idname = "dreamflow.before_after"
    bl_label = "Before / after"
    bl_description = "Switch between the original and the refined texture"

    def run(self, context: bpy.types.Context) -> None:
        state = decide.state_of(context.object)
        assert state is not None, "poll"
        decide.show_version(context.object, "before" if state["shown"] == "after" else "after")


class DREAMFLOW_OT_apply_refined(RefinedOperator):
    bl_idname = "dreamflow.apply_refined"
    bl_label = "Apply"
    bl_description = "Keep the refined texture; the old material stays in the file"

    def run(self, context: bpy.types.Context) -> None:
        decide.apply(context.object)


class DREAMFLOW_OT_discard_refined(RefinedOperator):
    bl_idname = "dreamflow.discard_refined"
    bl_label = "Discard"
    bl_description = "Remove the refined texture and restore the object as it was"

    def run(self, context: bpy.types.Context) -> None:
        original = decide.discard(context.object, context)
        if original is not None and original.name in context.view_layer.objects:
            context.view_layer.objects.active = original


class DREAMFLOW_OT_refine_built_in(BaseOperator):
    bl_idname = "dreamflow.refine_built_in"
    bl_label = "Use built-in"
    bl_description = "Refine with the built-in model, which knows this kind of object and needs no download"
    bl_options = {"UNDO"}  # noqa: RUF012

    def run(self, context: bpy.types.Context) -> None:
        context.scene.dreamflow_refine.model = "BUILT_IN"


CLASSES = (
    DREAMFLOW_OT_refine,
    DREAMFLOW_OT_show_refined,
    DREAMFLOW_OT_before_after,
    DREAMFLOW_OT_apply_refined,
    DREAMFLOW_OT_discard_refined,
    DREAMFLOW_OT_refine_built_in,
)
