"""Make a finished object ready for a game, as quads, or for a printer; a baked mesh is imported beside it."""

# ruff: noqa: N801  Blender's own naming

from functools import partial
from pathlib import Path
from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as translated
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, StringProperty

from ..contract import protocol as p
from ..scene import objects
from ..session import importing, jobs, tasks
from ..settings.generate import TEXTURE_ITEMS
from ..ui.parts import DIALOG, in_dialog
from .base import BaseOperator
from .setup import BackendOperator, backend

BESIDE = 1.3  # of the object's width: how far from it the light mesh stands
SIZES = TEXTURE_ITEMS[1:]  # without the preset's
PROFILES = (
    (
        "game",
        "Game",
        "Few triangles with the detail in normal and occlusion maps, three LODs and a collision hull",
    ),
    ("quads", "Quads", "A closed mesh of quads with the same maps, to edit and to animate"),
    ("print", "3D print", "A closed STL and 3MF in millimeters"),
    ("detailed", "Other programs", "The mesh as it is, in a format of other programs"),
)
FORMATS = [(name.lower(), name, "") for name in ("GLB", "OBJ", "PLY", "STL", "3MF", "USDZ", "USD")]
FORMATS.append(("fbx-through-blender", "FBX", ""))
TURNS = ("obj", "ply", "stl")  # formats whose up axis can be chosen
AXES = (("auto", "Usual", "The axis that the format's readers expect"), ("y", "Y", ""), ("z", "Z", ""))
ORIGINS = (
    ("base", "Base", "On the ground below the middle of the object"),
    ("centre", "Center", "The middle of its bounds"),
    ("middle", "Center of mass", "The center of mass of its surface"),
)


class DREAMFLOW_OT_deliver(BackendOperator):
    bl_idname = "dreamflow.deliver"
    bl_label = "Make ready"
    bl_description = "Make this object ready for a game, as quads, or for a 3D printer"

    profile: EnumProperty(name="For", description="What it is made ready for", items=PROFILES)  # type: ignore[valid-type]
    faces: IntProperty(  # type: ignore[valid-type]
        name="Faces", description="Maximum number of triangles", default=1500, min=100, max=200_000
    )
    quads: IntProperty(  # type: ignore[valid-type]
        name="Quads", description="Number of quads, about", default=8000, min=400, max=200_000
    )
    texture_size: EnumProperty(  # type: ignore[valid-type]
        name="Texture", description="Size of the maps in pixels", items=SIZES, default="1024"
    )
    origin: EnumProperty(name="Origin", description="Where its origin lies", items=ORIGINS)  # type: ignore[valid-type]
    format: EnumProperty(name="Format", description="Format of the file", items=FORMATS, default="obj")  # type: ignore[valid-type]
    up: EnumProperty(name="Up", description="The axis that points up in the file", items=AXES)  # type: ignore[valid-type]
    size: FloatProperty(  # type: ignore[valid-type]
        name="Height",
        description="Height of the result, 0 for that of the object",
        default=0.0,
        min=0.0,
        max=10_000.0,
        subtype="DISTANCE",
        unit="LENGTH",
        options={"SKIP_SAVE"},  # another object has another
    )
    height: FloatProperty(  # type: ignore[valid-type]
        name="Height",
        description="Height of the print",
        default=0.1,
        min=0.001,
        max=10.0,
        subtype="DISTANCE",
        unit="LENGTH",
    )
    flat_base: BoolProperty(  # type: ignore[valid-type]
        name="Flat base", description="Press the lowest part flat, so that it holds on the bed"
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
        self.size = self.size or context.object.dimensions.z
        return context.window_manager.invoke_props_dialog(self, width=DIALOG, confirm_text="Make ready")

    def draw(self, context: bpy.types.Context) -> None:
        shown = {
            "game": ("faces", "texture_size", "size", "origin"),
            "quads": ("quads", "texture_size", "size", "origin"),
            "print": ("height", "flat_base"),
            "detailed": ("format", "size", "origin", *(["up"] if self.format in TURNS else [])),
        }
        with in_dialog(DIALOG):
            column = self.layout.column()
            column.use_property_split = True
            column.use_property_decorate = False
            for name in ("profile", *shown[self.profile]):
                column.prop(self, name)

    def run(self, context: bpy.types.Context) -> None:
        obj = context.object
        entry = jobs.get_store().find(str(obj["dreamflow_job"]))
        if entry is None or entry.result is None:
            raise ValueError("The files of this object's job no longer exist")
        words = ["export", str(entry.folder), "--deliver", self.profile, "--json", "--height"]
        if self.profile == "print":
            words += [str(self.height), *(["--flat-base"] if self.flat_base else [])]
            tasks.begin("print", "Preparing the print", backend(*words), show_files)
            return
        words += [str(self.size or obj.dimensions.z), "--origin", self.origin]
        if self.profile == "detailed":
            words += ["--format", self.format, "--blender", bpy.app.binary_path or "blender"]
            words += ["--up", self.up] if self.up != "auto" and self.format in TURNS else []
            tasks.begin("print", "Writing the file", backend(*words), show_files)
            return
        faces = self.quads if self.profile == "quads" else self.faces
        words += ["--faces", str(faces), "--texture-size", self.texture_size]
        done = partial(add_game_mesh, obj.session_uid)
        tasks.begin("game", "Baking", backend(*words), done, importing.waiting_line)


def files_of(said: list[Any]) -> list[str]:
    """What the backend says that it has written; [] where it has not come so far."""
    return next((one["files"] for one in reversed(said) if isinstance(one, dict) and "files" in one), [])


def show_files(said: list[Any]) -> None:
    """The folder of what was written, in the system's file browser."""
    files = files_of(said)
    if files and jobs.has_timer():
        bpy.ops.wm.path_open(filepath=str(Path(files[0]).parent))


def add_game_mesh(uid: int, said: list[Any]) -> None:
    """Import the light mesh that the backend has named, in an undo step of its own.

    uid  the session_uid of its object: in another file there is none
    """
    files = files_of(said)
    path = next((file for ending in (".obj", ".glb") for file in files if file.endswith(ending)), "")
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
        jobs.problem = jobs.Problem(p.Failed("import", message, f"Import {path} by File > Import."))


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
            raise ValueError("Choose an object and press Make ready")
        source = bpy.data.objects.get(self.beside)
        before, images = set(bpy.data.objects), set(bpy.data.images)
        with objects.undone_on_failure():
            path = Path(self.filepath)
            bpy.ops.import_scene.gltf(filepath=str(path.with_suffix(".glb")))
            if path.suffix == ".obj":
                take_quads(path, next(obj for obj in set(bpy.data.objects) - before if obj.type == "MESH"))
            for image in set(bpy.data.images) - images:
                objects.name_image(image, f"{self.beside or 'game'} {image.name}")
            for obj in set(bpy.data.objects) - before if source is not None else ():
                stand_beside(obj, source)
                if obj.type == "MESH":
                    is_made_from(obj, source, "quads" if path.suffix == ".obj" else "game")


def take_quads(path: Path, obj: bpy.types.Object) -> None:
    """The object, which came as a GLB with all its maps, gets the same mesh in quads from the OBJ."""
    blocks = bpy.data.objects, bpy.data.materials, bpy.data.images
    before = [set(block) for block in blocks]
    bpy.ops.wm.obj_import(filepath=str(path))
    (made,) = set(bpy.data.objects) - before[0]
    mesh, old = made.data, obj.data
    mesh.transform(obj.matrix_world.inverted() @ made.matrix_world)
    mesh.materials.clear()
    for material in old.materials:
        mesh.materials.append(material)
    obj.data = mesh
    bpy.data.meshes.remove(old)
    for block, known in zip(blocks, before, strict=True):  # what the OBJ's own material has brought
        for one in set(block) - known:
            block.remove(one)


def is_made_from(obj: bpy.types.Object, source: bpy.types.Object, profile: str) -> None:
    """Its name and what the panel says of it are its source's."""
    obj.name = obj.data.name = f"{source.name} {profile}"
    for name in ("dreamflow_prompt", "dreamflow_seed", "dreamflow_job"):
        if name in source:
            obj[name] = source[name]


def stand_beside(obj: bpy.types.Object, source: bpy.types.Object) -> None:
    """In its collections, which may be another scene's than the open one's."""
    for collection in obj.users_collection:
        collection.objects.unlink(obj)
    for collection in source.users_collection:
        collection.objects.link(obj)
    if obj.parent is None:
        obj.location = source.location
        obj.location.x += BESIDE * source.dimensions.x


CLASSES = (DREAMFLOW_OT_deliver, DREAMFLOW_OT_import_game_mesh)
