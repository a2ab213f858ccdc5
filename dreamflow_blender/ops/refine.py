"""Refine an object of the user's own; and look at, keep or drop what came of it."""

# ruff: noqa: N801  Blender's own naming

from pathlib import Path

import bpy
from bpy.props import StringProperty

from ..backlog import entries, work
from ..client.steps import SetupError
from ..gather.object import front_of, refusal
from ..scene import decide
from ..scene import refined as scene_refined
from ..scene.objects import CannotImport, select_only
from ..session import jobs, models, service
from ..session import refine as refine_session
from ..settings import addon
from ..ui import refine as ui_refine


class DREAMFLOW_OT_refine(bpy.types.Operator):
    bl_idname = "dreamflow.refine"
    bl_label = "Refine"
    bl_description = "Give this object a better texture; its shape, UVs and everything else stay as they are"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if service.python() is None:
            cls.poll_message_set("Set DreamFlow up first")
            return False
        if context.scene is None or context.scene.library is not None:
            cls.poll_message_set("Open a scene of this file first")
            return False
        said = refusal(context.object)
        if not said and decide.state_of(context.object) is not None:
            said = "Press Apply or Discard first: it shows a refined texture"
        said = said or models.missing(context.scene.dreamflow_refine)
        if said:
            cls.poll_message_set(said)
        return not said

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        settings = context.scene.dreamflow_refine
        if not settings.prompt:
            settings.prompt = ui_refine.first_prompt(context.object)
        if bpy.app.background:
            return self.execute(context)
        return context.window_manager.invoke_props_dialog(self, width=340, confirm_text="Refine")

    def draw(self, context: bpy.types.Context) -> None:
        ui_refine.draw_dialog(self.layout, context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        if bpy.app.background:
            return self.blocking(context)
        try:
            said = refine_session.begin(context, context.object, context.scene.dreamflow_refine, jobs.add)
            refine_session.tidy()
        except (ValueError, OSError) as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        if said:
            self.report({"INFO"}, said)
        return {"FINISHED"}

    def blocking(self, context: bpy.types.Context) -> set[str]:
        """For scripts: the object shows its refined texture at the end."""
        interpreter = service.python()
        assert interpreter is not None, "poll"
        made, settings = context.object, context.scene.dreamflow_refine
        try:
            baked = refine_session.bake_now(made, context.scene.frame_current)
            front = front_of(made, settings.front, context)
            job, place = refine_session.make(context, made, settings, front, baked)
            client = service.make_client(interpreter, addon.jobs_folder())
            try:
                work.run_job(client, job, "new", lambda event: None)
            finally:
                client.close()
                Path(job.mesh).unlink(missing_ok=True)
            refined = scene_refined.read(Path(job.folder))
            scene_refined.put(refined, place[entries.PLACE], made, context)
        except (ValueError, OSError, SetupError, CannotImport, work.JobFailed, work.JobCancelled) as error:
            self.report({"ERROR"}, str(error) or "The job was stopped")
            return {"CANCELLED"}
        bpy.ops.ed.undo_push(message="Refine")
        return {"FINISHED"}


class DREAMFLOW_OT_show_refined(bpy.types.Operator):
    bl_idname = "dreamflow.show_refined"
    bl_label = "Put on the object"
    bl_description = "Show the refined texture on the object that it was made for"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012

    number: StringProperty(options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if context.mode != "OBJECT":
            cls.poll_message_set("Leave this mode first")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        entry = jobs.need_store().find(self.number)
        place = entry.place.get(entries.PLACE) if entry is not None else None
        if entry is None or not isinstance(place, dict):
            gone = (
                "This job is not there any more"
                if entry is None
                else "It is not known for which object this was"
            )
            self.report({"ERROR"}, gone)
            return {"CANCELLED"}
        try:
            made = scene_refined.find_object(place, context.scene)
            refined = scene_refined.read(entry.folder)
            shown = scene_refined.put(refined, place, made, context)
            if shown != made and context.view_layer.objects.active == made:
                select_only(shown, context.view_layer)
        except CannotImport as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        self.report(
            {"INFO"}, f"{shown.name} is refined: Before / after, Apply and Discard are in the sidebar"
        )
        return {"FINISHED"}


class _OfRefined(bpy.types.Operator):
    """Buttons on an object with a refined texture that is not decided on."""

    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if decide.state_of(context.object) is None:
            cls.poll_message_set("Select an object that was refined")
            return False
        if context.mode != "OBJECT":
            cls.poll_message_set("Leave this mode first")
            return False
        return True


class DREAMFLOW_OT_before_after(_OfRefined):
    bl_idname = "dreamflow.before_after"
    bl_label = "Before / after"
    bl_description = "Show the object as it was, or refined"

    def execute(self, context: bpy.types.Context) -> set[str]:
        made = context.object
        state = decide.state_of(made)
        assert state is not None, "poll"
        decide.turn(made, "before" if state["shown"] == "after" else "after")
        return {"FINISHED"}


class DREAMFLOW_OT_apply_refined(_OfRefined):
    bl_idname = "dreamflow.apply_refined"
    bl_label = "Apply"
    bl_description = "Keep the refined texture; the old material stays in the file"

    def execute(self, context: bpy.types.Context) -> set[str]:
        decide.apply(context.object)
        return {"FINISHED"}


class DREAMFLOW_OT_discard_refined(_OfRefined):
    bl_idname = "dreamflow.discard_refined"
    bl_label = "Discard"
    bl_description = "Take the refined texture away: everything is as it was"

    def execute(self, context: bpy.types.Context) -> set[str]:
        original = decide.discard(context.object, context)
        if original is not None and original.name in context.view_layer.objects:
            context.view_layer.objects.active = original
        return {"FINISHED"}


class DREAMFLOW_OT_refine_built_in(bpy.types.Operator):
    bl_idname = "dreamflow.refine_built_in"
    bl_label = "Use built-in"
    bl_description = "Refine with the built-in model, which knows this thing and needs no download"
    bl_options = {"INTERNAL", "UNDO"}  # noqa: RUF012

    def execute(self, context: bpy.types.Context) -> set[str]:
        context.scene.dreamflow_refine.model = "BUILT_IN"
        return {"FINISHED"}


CLASSES = (
    DREAMFLOW_OT_refine,
    DREAMFLOW_OT_show_refined,
    DREAMFLOW_OT_before_after,
    DREAMFLOW_OT_apply_refined,
    DREAMFLOW_OT_discard_refined,
    DREAMFLOW_OT_refine_built_in,
)
