"""Make a finished object ready for a game: the backend bakes it, and the light mesh is imported beside it."""

# ruff: noqa: N801  Blender's own naming

from functools import partial
from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as translated
from bpy.props import EnumProperty, IntProperty, StringProperty

from ..contract import protocol as p
from ..scene import objects
from ..session import importing, jobs, tasks
from ..settings.generate import TEXTURE_ITEMS
from ..ui.parts import DIALOG, in_dialog
from .base import BaseOperator
from .setup import BackendOperator, backend

BESIDE = 1.3  # of the object's width: how far from it the light mesh stands
SIZES = TEXTURE_ITEMS[1:]  # without the preset's


class DREAMFLOW_OT_make_game_ready(BackendOperator):
    bl_idname = "dreamflow.make_game_ready"
    bl_label = "Make game-ready"
    bl_description = (
        "Bake the detail into normal and occlusion maps on few triangles, with three levels of detail and a collision"
        " hull as files; the light mesh is imported beside the object"
    )

    faces: IntProperty(  # type: ignore[valid-type]
        name="Faces", description="Maximum number of triangles", default=1500, min=100, max=200_000
    )
    texture_size: EnumProperty(  # type: ignore[valid-type]
        name="Texture", description="Size of the maps in pixels", items=SIZES, default="1024"
    )

    @classmethod
    def unavailable(cls, context: bpy.types.Context) -> str:
        obj = context.object
        if obj is None or "dreamflow_job" not in obj:
            return "Select an object made by DreamFlow"
        return super().unavailable(context)

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if bpy.app.background:
            return self.execute(context)
        return context.window_manager.invoke_props_dialog(self, width=DIALOG, confirm_text="Bake")

    def draw(self, context: bpy.types.Context) -> None:
        with in_dialog(DIALOG):
            column = self.layout.column()
            column.use_property_split = True
            column.use_property_decorate = False
            column.prop(self, "faces")
            column.prop(self, "texture_size")

    def run(self, context: bpy.types.Context) -> None:
        obj = context.object
        entry = jobs.get_store().find(str(obj["dreamflow_job"]))
        if entry is None or entry.result is None:
            raise ValueError("The files of this object's job no longer exist")
        sizes = [
            "--faces",
            str(self.faces),
            "--texture-size",
            self.texture_size,
            "--height",
            str(obj.dimensions.z),
        ]
        work = backend("export", str(entry.folder), "--profile", "game", "--origin", "base", "--json", *sizes)
        tasks.begin("game", "Baking", work, partial(add_game_mesh, obj.session_uid), importing.waiting_line)


def add_game_mesh(uid: int, said: list[Any]) -> None:
    """Import the light mesh that the backend has named, in an undo step of its own.

    uid  the session_uid of its object: in another file there is none
    """
    files: list[str] = next(
        (one["files"] for one in reversed(said) if isinstance(one, dict) and "files" in one), []
    )
    path = next((file for file in files if file.endswith(".glb")), "")
    source = next((obj for obj in bpy.data.objects if obj.session_uid == uid and obj.users_scene), None)
    try:
        if source is None:
            raise RuntimeError(
                translated("The object that this mesh was made for is not in this file any more.")
            )
        bpy.ops.dreamflow.import_game_mesh("EXEC_DEFAULT", True, filepath=path, beside=source.name)
    except RuntimeError as error:  # what the operator reports
        message = str(error).split(": ", 1)[-1].strip()  # Blender begins it with its own word
        if not jobs.has_timer():
            raise ValueError(message) from error
        jobs.problem = jobs.Problem(
            p.Failed("import", message, f"Import {path} by File > Import > glTF 2.0.")
        )


class DREAMFLOW_OT_import_game_mesh(BaseOperator):
    bl_idname = "dreamflow.import_game_mesh"
    bl_label = "Import game mesh"
    bl_description = "Import a light mesh that was made for a game"
    bl_options = {"UNDO"}  # noqa: RUF012

    filepath: StringProperty(options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]
    beside: StringProperty(options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]

    @classmethod
    def unavailable(cls, context: bpy.types.Context) -> str:
        return "" if context.mode == "OBJECT" else "Switch to Object Mode to import"

    def run(self, context: bpy.types.Context) -> None:
        if not self.filepath:
            raise ValueError("Choose an object and press Make game-ready")
        source = bpy.data.objects.get(self.beside)
        before, images = set(bpy.data.objects), set(bpy.data.images)
        with objects.undone_on_failure():
            bpy.ops.import_scene.gltf(filepath=self.filepath)
            for image in set(bpy.data.images) - images:
                objects.name_image(image, f"{self.beside or 'game'} {image.name}")
            for obj in set(bpy.data.objects) - before if source is not None else ():
                stand_beside(obj, source)


def stand_beside(obj: bpy.types.Object, source: bpy.types.Object) -> None:
    """In its collections, which may be another scene's than the open one's."""
    for collection in obj.users_collection:
        collection.objects.unlink(obj)
    for collection in source.users_collection:
        collection.objects.link(obj)
    if obj.parent is None:
        obj.location = source.location
        obj.location.x += BESIDE * source.dimensions.x


CLASSES = (DREAMFLOW_OT_make_game_ready, DREAMFLOW_OT_import_game_mesh)
