"""A refined texture comes to its object: one undo step, everything old kept until Apply.

What was put where is written on the object itself, so that before / after, Apply and Discard work in any later
session and after any undo: `dreamflow_refined` as JSON, and the materials as pointers beside it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from numpy.typing import NDArray

from ..contract import meshfile
from ..contract.jobfolder import JobFolder
from ..contract.meshfile import BadMeshFile, MeshArrays
from ..gather.material import principled_of
from ..gather.object import column, loop_print
from . import objects
from .nodes import add_nodes, new_material, packed, show, shown_by
from .objects import CannotImport

KEY = "dreamflow_refined"
OLD, NEW = "dreamflow_refined_old_", "dreamflow_refined_new_"
UV_NAME = "DreamFlow"


@dataclass(frozen=True)
class Texture:
    """names: of the object's materials, as the job knows them."""

    png: bytes
    names: tuple[str, ...]
    new_uvs: bool


@dataclass(frozen=True)
class Refined:
    arrays: MeshArrays
    polygon: NDArray[np.int32]
    textures: tuple[Texture, ...]
    record: dict[str, Any]


def read(folder: Path) -> Refined:
    """What a refine job has delivered. Raises CannotImport."""
    try:
        files = JobFolder(folder)
        arrays = meshfile.read(files.mesh_npz)
        with np.load(files.object_npz, allow_pickle=False) as stored:
            polygon = stored["polygon"]
        said = json.loads(files.materials.read_text(encoding="utf-8"))["textures"]
        textures = tuple(
            Texture((folder / Path(t["file"]).name).read_bytes(), tuple(t["materials"]), bool(t["new_uvs"]))
            for t in said
        )
    except FileNotFoundError as error:
        raise CannotImport(f"There is no result in {folder}.") from error
    except (OSError, BadMeshFile, ValueError, KeyError, TypeError) as error:
        raise CannotImport(f"The result in {folder} cannot be read: {error}") from error
    return Refined(arrays, polygon, textures, objects.read_record(folder))


def find_object(place: dict[str, Any], scene: bpy.types.Scene) -> bpy.types.Object:
    """The one that the job was begun with, even if it has another name now. Raises CannotImport."""
    uid, name = place.get("uid"), str(place.get("object", ""))
    found = next((o for o in bpy.data.objects if o.session_uid == uid and o.type == "MESH"), None)
    found = found or scene.objects.get(name) or bpy.data.objects.get(name)
    if found is None or found.type != "MESH":
        raise CannotImport(f"There is no mesh object “{name}” in this file.")
    return found


def put(
    refined: Refined, place: dict[str, Any], made: bpy.types.Object, context: bpy.types.Context
) -> bpy.types.Object:
    """Show the refined textures on the object, or on a copy of it; which is returned. Raises CannotImport.

    Everything is checked before anything is changed.
    """
    if KEY in made:
        raise CannotImport(f"{made.name} shows another refined texture: press Apply or Discard first.")
    new_uvs = any(texture.new_uvs for texture in refined.textures)
    copied = made.library is not None or (new_uvs and not (place["own_loops"] and made.data.library is None))
    shown = made
    selected = made.select_get()
    if copied:
        shown = _copy(made, place, context)
    elif new_uvs and loop_print(made.data) != place["print"]:
        raise CannotImport(
            f"The faces of {made.name} have changed since it was refined: the new UVs do not fit."
        )
    state: dict[str, Any] = {
        "shown": "after",
        "slots": [],
        "uv": "",
        "added": 0,
        "of": made.name if copied else "",
    }
    state["selected"] = selected
    state["job"] = str(refined.record.get("job", {}).get("id", ""))
    if new_uvs:
        try:
            state["uv"] = _add_uvs(shown, refined)
        except CannotImport:
            if copied:
                drop_copy(shown, made, context)
                made.select_set(selected)
            raise
    if not len(shown.material_slots):
        shown.data.materials.append(None)
        state["added"] = 1
    for number, texture in enumerate(refined.textures):
        _place(shown, refined, texture, number, place, state)
    shown[KEY] = json.dumps(state)
    return shown


def _place(
    shown: bpy.types.Object,
    refined: Refined,
    texture: Texture,
    number: int,
    place: dict[str, Any],
    state: dict[str, Any],
) -> None:
    job = refined.record.get("job", {})
    image = packed(f"{shown.name} refined{'' if number == 0 else f' {number + 1}'}", texture.png)
    image["dreamflow_record"] = json.dumps(refined.record)
    for row, name in enumerate(place["names"]):
        if name not in texture.names:
            continue
        uv_name = state["uv"] if texture.new_uvs else place["uv"][row]
        made: bpy.types.Material | None = None
        for at in place["slots"][row] or [0]:
            if at >= len(shown.material_slots):
                continue
            slot = shown.material_slots[at]
            old = slot.material
            own = old is not None and old.library is None and principled_of(old) is not None
            if place["keep"] == "IMAGE" and own:
                before = shown_by(old)
                ours = (OLD + str(entry["slot"]) for entry in state["slots"] if entry["way"] == "image")
                if all(shown.get(key) != old for key in ours):
                    show(old, add_nodes(old, image, uv_name))
                    state["slots"].append({"slot": at, "way": "image", "before": before})
                    shown[OLD + str(at)] = old
                continue
            if made is None:
                made = new_material(old, image, uv_name, f"{old.name if old else shown.name} refined")
                made["dreamflow_prompt"] = str(job.get("prompt", ""))
            fake = bool(old.use_fake_user) if old is not None and old.library is None else None
            state["slots"].append({"slot": at, "way": "material", "link": slot.link, "fake": fake})
            if old is not None:
                shown[OLD + str(at)] = old
                if fake is not None:
                    old.use_fake_user = True
            shown[NEW + str(at)] = made
            if slot.link == "DATA" and (shown.data.users > 1 or shown.data.library is not None):
                slot.link = "OBJECT"  # others that show this mesh keep theirs
            slot.material = made


def _add_uvs(shown: bpy.types.Object, refined: Refined) -> str:
    """A further UV map, and its name; the others, and which of them is active, stay as they are."""
    mesh = shown.data
    total = column(mesh.polygons, "loop_total", 1, np.int32)[:, 0]
    vertex = column(mesh.loops, "vertex_index", 1, np.int32)[:, 0].astype(np.int64)
    wide = len(mesh.vertices) + 1
    key = np.repeat(np.arange(len(total)), total) * wide + vertex
    order = np.argsort(key, kind="stable")
    corner = refined.polygon.astype(np.int64).repeat(3) * wide + refined.arrays.t_pos_idx.reshape(-1)
    at = order[np.searchsorted(key, corner, sorter=order).clip(max=max(0, len(order) - 1))]
    if not np.array_equal(key[at], corner):
        raise CannotImport(
            f"The faces of {shown.name} have changed since it was refined: the new UVs do not fit."
        )
    active = mesh.uv_layers.active_index
    rendered = next((i for i, each in enumerate(mesh.uv_layers) if each.active_render), 0)
    first = not len(mesh.uv_layers)
    layer = mesh.uv_layers.new(name=UV_NAME, do_init=not first)
    if layer is None:
        raise CannotImport(f"{shown.name} has eight UV maps, as many as there can be: remove one.")
    name = str(layer.name)
    values = column(layer.uv, "vector", 2, np.float32)
    values[at] = refined.arrays.v_tex[refined.arrays.t_tex_idx.reshape(-1)]
    layer.uv.foreach_set("vector", values.ravel())
    if not first:
        mesh.uv_layers.active_index = active
        mesh.uv_layers[rendered].active_render = True
    return name


def _copy(made: bpy.types.Object, place: dict[str, Any], context: bpy.types.Context) -> bpy.types.Object:
    """The object as it is evaluated now, in this file and in its place; the original is hidden in this view layer."""
    depsgraph = context.evaluated_depsgraph_get()
    seen = made.evaluated_get(depsgraph)
    mesh = bpy.data.meshes.new_from_object(seen, preserve_all_data_layers=True, depsgraph=depsgraph)
    if loop_print(mesh) != place["print"]:
        bpy.data.meshes.remove(mesh)
        raise CannotImport(f"The faces of {made.name} have changed since it was refined.")
    shown = bpy.data.objects.new(f"{made.name} refined", mesh)
    shown.matrix_world = seen.matrix_world.copy()
    mesh.materials.clear()
    for slot in made.material_slots:
        mesh.materials.append(slot.material)
    context.scene.collection.objects.link(shown)
    if made.name in context.view_layer.objects:
        made.hide_set(True)
    return shown


def drop_copy(shown: bpy.types.Object, original: bpy.types.Object | None, context: bpy.types.Context) -> None:
    """The copy goes, and the original is seen again."""
    mesh = shown.data
    bpy.data.objects.remove(shown)
    bpy.data.meshes.remove(mesh)
    if original is not None and original.name in context.view_layer.objects:
        original.hide_set(False)
