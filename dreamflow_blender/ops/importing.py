"""Results into the scene, each in an undo step of its own."""

# ruff: noqa: N801  Blender's own naming

from pathlib import Path

import bpy
from bpy.props import BoolProperty, FloatProperty, FloatVectorProperty, StringProperty

from ..contract.jobfolder import JobFolder
from ..scene import assets, objects
from ..session import importing, jobs
from ..settings import addon


class DREAMFLOW_OT_import_result(bpy.types.Operator):
    bl_idname = "dreamflow.import_result"
    bl_label = "Import DreamFlow object"
    bl_description = "Bring the finished object into the scene"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012

    number: StringProperty(options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]
    folder: StringProperty(options={"HIDDEN", "SKIP_SAVE"}, subtype="DIR_PATH")  # type: ignore[valid-type]
    scene: StringProperty(options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]
    so_far: BoolProperty(options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]
    select: BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]
    height: FloatProperty(  # type: ignore[valid-type]
        name="Height", default=-1.0, min=-1.0, subtype="DISTANCE", options={"SKIP_SAVE"}
    )
    location: FloatVectorProperty(  # type: ignore[valid-type]
        name="Location", size=3, subtype="TRANSLATION", options={"SKIP_SAVE"}
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if context.mode != "OBJECT":
            cls.poll_message_set("Leave this mode first: an object comes in in Object Mode")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        entry = jobs.need_store().find(self.number) if self.number else None
        place = entry.place if entry else {}
        folder = entry.job.folder if entry else bpy.path.abspath(self.folder)
        if self.height < 0 and not self.properties.is_property_set("location"):  # a first time, not F9
            self.location = place.get("location", (0.0, 0.0, 0.0))
        if self.height < 0:
            self.height = float(place.get("height", 1.0))
        scene = bpy.data.scenes.get(self.scene) or context.scene
        try:
            result = (objects.read_so_far if self.so_far else objects.read_result)(Path(folder))
            prompt = entry.job.prompt if entry else str(result.record.get("job", {}).get("prompt", "object"))
            collection = str(place.get("collection", addon.setting("collection", "DreamFlow")))
            made = objects.add_result(result, prompt, self.height, self.location, collection, scene)
        except objects.CannotImport as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        if place.get("asset"):
            assets.mark(made, prompt, JobFolder(folder).preview)
        if self.select and scene == context.scene:
            objects.select_only(made, context.view_layer)
            importing.remember_selection(context.view_layer)
        self.report({"INFO"}, f"{made.name}: {len(made.data.polygons):,} faces")
        return {"FINISHED"}


class DREAMFLOW_OT_mark_asset(bpy.types.Operator):
    bl_idname = "dreamflow.mark_asset"
    bl_label = "Mark as asset"
    bl_description = "Put the object in the asset library, with its prompt as tags and its picture"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        made = context.object
        if made is None or "dreamflow_prompt" not in made or made.library is not None:
            cls.poll_message_set("Select an object that DreamFlow has made")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        made = context.object
        entry = jobs.need_store().find(str(made.get("dreamflow_job", "")))
        picture = JobFolder(entry.job.folder if entry else "").preview
        assets.mark(made, str(made["dreamflow_prompt"]), picture)
        return {"FINISHED"}


CLASSES = (DREAMFLOW_OT_import_result, DREAMFLOW_OT_mark_asset)
