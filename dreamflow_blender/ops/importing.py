"""Import results into the scene, each in an undo step of its own."""

# ruff: noqa: N801  Blender's own naming

from pathlib import Path
from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as translated
from bpy.props import BoolProperty, EnumProperty, FloatProperty, FloatVectorProperty, StringProperty

from ..contract.jobfolder import JobFolder
from ..scene import assets, objects
from ..session import importing, jobs, tasks
from ..settings import addon
from ..ui import asset as ui_asset
from ..ui.parts import DIALOG, in_dialog
from .base import BaseOperator, JobOperator


class DREAMFLOW_OT_import_result(JobOperator):
    bl_idname = "dreamflow.import_result"
    bl_label = "Import DreamFlow object"
    bl_description = "Import the finished object into the scene"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012

    folder: StringProperty(options={"HIDDEN", "SKIP_SAVE"}, subtype="DIR_PATH")  # type: ignore[valid-type]
    scene: StringProperty(options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]
    partial: BoolProperty(options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]
    select: BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]
    height: FloatProperty(  # type: ignore[valid-type]
        name="Height", default=-1.0, min=-1.0, subtype="DISTANCE", options={"SKIP_SAVE"}
    )
    location: FloatVectorProperty(  # type: ignore[valid-type]
        name="Location", size=3, subtype="TRANSLATION", options={"SKIP_SAVE"}
    )

    @classmethod
    def unavailable(cls, context: bpy.types.Context) -> str:
        return "" if context.mode == "OBJECT" else "Switch to Object Mode to import"

    def run(self, context: bpy.types.Context) -> str:
        entry = None if self.folder else self.entry()
        target = entry.place if entry else {}
        folder = Path(entry.job.folder if entry else bpy.path.abspath(self.folder))
        if self.height < 0 and not self.properties.is_property_set("location"):  # a first time, not F9
            self.location = target.get("location", (0.0, 0.0, 0.0))
        if self.height < 0:
            self.height = float(target.get("height", 1.0))
        scene = importing.find_scene(self.scene) if self.scene else context.scene
        if scene is None:
            raise ValueError("The scene of this job has been deleted")
        result = (objects.read_partial if self.partial else objects.read_result)(folder)
        prompt = entry.job.prompt if entry else str(result.record.get("job", {}).get("prompt", "object"))
        collection = str(target.get("collection", addon.setting("collection", "DreamFlow")))
        obj = objects.add_result(result, prompt, self.height, self.location, collection, scene)
        if target.get("asset"):
            assets.mark(obj, prompt, JobFolder(folder).preview)
        layer = objects.open_layer(scene)
        if self.select and layer is not None:
            objects.select_only(obj, layer)
            importing.remember_selection(layer)
        where = obj.users_collection[0]
        aside = collection and where == scene.collection
        said = (
            "{name}: {count} faces, not in the collection “{collection}”, which is hidden here"
            if aside
            else "{name}: {count} faces"
        )
        count = f"{len(obj.data.polygons):,}"
        return translated(said).format(name=obj.name, count=count, collection=collection)


class DREAMFLOW_OT_import_now(BaseOperator):
    bl_idname = "dreamflow.import_now"
    bl_label = "Import now"
    bl_description = "Switch to Object Mode if needed, and import the finished result"

    @classmethod
    def unavailable(cls, context: bpy.types.Context) -> str:
        if not importing.pending() and not (tasks.current and tasks.current.held):
            return "No result is waiting"
        return "Wait for the render to end" if importing.rendering() else ""

    def run(self, context: bpy.types.Context) -> None:
        if context.mode != "OBJECT":
            bpy.ops.object.mode_set(mode="OBJECT")
        if importing.pending():
            jobs.import_result()
        else:
            jobs.wake()  # a task's own is imported by the next tick


def _library_items(self: Any, context: bpy.types.Context | None) -> list[tuple[str, str, str]]:
    """This file, and every asset library."""
    this = (THIS_FILE, "This file", "The object itself becomes an asset of this file")
    found = [(name, name, str(folder)) for name, folder in assets.libraries().items()]
    _shown[:] = [this, *found]  # Blender reads the strings later
    return _shown


THIS_FILE = "*"  # no library's name
_shown: list[tuple[str, str, str]] = []


class DREAMFLOW_OT_mark_asset(BaseOperator):
    bl_idname = "dreamflow.mark_asset"
    bl_label = "Mark as asset"
    bl_description = (
        "Mark this object as an asset of this file, or save a copy of it in an asset library; with its preview"
        " image, tagged with the words of its prompt"
    )
    bl_options = {"UNDO"}  # noqa: RUF012  no REGISTER: to adjust it would save another copy

    library: EnumProperty(  # type: ignore[valid-type]
        name="Where", description="Where the asset is kept", items=_library_items, options={"SKIP_SAVE"}
    )

    @classmethod
    def unavailable(cls, context: bpy.types.Context) -> str:
        obj = context.object
        made_here = obj is not None and "dreamflow_prompt" in obj and obj.library is None
        return "" if made_here else "Select an object made by DreamFlow"

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if bpy.app.background:
            return self.execute(context)
        return context.window_manager.invoke_props_dialog(self, width=DIALOG, confirm_text="Mark as asset")

    def draw(self, context: bpy.types.Context) -> None:
        with in_dialog(DIALOG):
            ui_asset.draw_dialog(
                self.layout, context, self, "" if self.library == THIS_FILE else self.library
            )

    def run(self, context: bpy.types.Context) -> str:
        obj, library = context.object, "" if self.library == THIS_FILE else self.library
        was_marked = obj.asset_data is not None
        obj.update_from_editmode()
        entry = jobs.get_store().find(str(obj.get("dreamflow_job", "")))
        assets.mark(obj, str(obj["dreamflow_prompt"]), JobFolder(entry.job.folder if entry else "").preview)
        if not library:
            return translated("{name} is an asset of this file").format(name=obj.name)
        try:
            path = assets.save_copy(obj, library)
        finally:
            if not was_marked:  # the asset is the copy
                obj.asset_clear()
        return translated("A copy is an asset of “{library}”: {path}").format(library=library, path=path)


class DREAMFLOW_OT_save_textures(BaseOperator):
    bl_idname = "dreamflow.save_textures"
    bl_label = "Save textures next to the file"
    bl_description = "Save this object's packed textures as PNG files, which exporters such as OBJ need"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012

    @classmethod
    def unavailable(cls, context: bpy.types.Context) -> str:
        if not objects.packed_images(context.object):
            return "Select an object with a packed texture made by DreamFlow"
        return "" if bpy.data.filepath else "Save the file first"

    def run(self, context: bpy.types.Context) -> str:
        folder = Path(bpy.data.filepath).parent
        written = [objects.write_out(image, folder) for image in objects.packed_images(context.object)]
        names = ", ".join(path.name for path in written)
        return translated("Saved next to the file: {names}").format(names=names)


CLASSES = (
    DREAMFLOW_OT_import_result,
    DREAMFLOW_OT_import_now,
    DREAMFLOW_OT_mark_asset,
    DREAMFLOW_OT_save_textures,
)
