"""A refined texture comes to its object: one undo step, everything old kept until Apply.

What was put where is written on the object itself, so that before / after, Apply and Discard work in any later
session and after any undo: `dreamflow_refined` as JSON, and the materials as pointers in properties of their own.
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
from ..contract.files import read_plain
from ..contract.jobfolder import JobFolder
from ..contract.meshfile import BadMeshFile, MeshArrays
from ..gather import identity
from ..gather.material import principled_of
from ..gather.object import column, topology_hash
from . import copies, objects
from .nodes import add_nodes, new_material, show, shown_by
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
        polygon = meshfile.read_rows(files.object_npz, "polygon")
        said = json.loads(read_plain(files.materials))["textures"]
        textures = tuple(
            Texture(read_plain(folder / Path(t["file"]).name), tuple(t["materials"]), bool(t["new_uvs"]))
            for t in said
        )
    except FileNotFoundError as error:
        raise CannotImport(f"There is no result in {folder}.") from error
    except (OSError, BadMeshFile, ValueError, KeyError, TypeError) as error:
        raise CannotImport(f"The result in {folder} cannot be read: {error}") from error
    return Refined(arrays, polygon, textures, objects.read_record(folder))


def find_object(target: dict[str, Any], active: bpy.types.Object | None) -> bpy.types.Object:
    """The one that the job was begun with, whatever it is called now. Raises CannotImport."""
    try:
        return identity.find_object(target, active)
    except identity.NotFound as error:
        raise CannotImport(f"{error}.") from error


def apply_result(
    refined: Refined, target: dict[str, Any], obj: bpy.types.Object, context: bpy.types.Context
) -> bpy.types.Object:
    """Show the refined textures on the object, or on a copy of it; which is returned. Raises CannotImport.

    Everything is checked before anything is changed.
    """
    if KEY in obj:
        raise CannotImport(f"{obj.name} shows another refined texture: press Apply or Discard first.")
    if obj.mode == "EDIT":
        raise CannotImport(f"{obj.name} is in Edit Mode: switch to Object Mode first.")
    new_uvs = any(texture.new_uvs for texture in refined.textures)
    copied = obj.library is not None or (new_uvs and not (target["own_loops"] and obj.data.library is None))
    slots = _find_slots(refined, target, obj)
    if new_uvs and not copied and topology_hash(obj.data) != target["print"]:
        raise CannotImport(
            f"The faces of {obj.name} have changed since it was refined: the new UVs do not fit."
        )
    state: dict[str, Any] = {"shown": "after", "slots": [], "uv": "", "added": 0, "copied": None}
    state["selected"] = obj.select_get()
    state["job"] = str(refined.record.get("job", {}).get("id", ""))
    with objects.undone_on_failure():  # until here no slot is changed
        images = [objects.pack_image(f"{obj.name} refined", texture.png) for texture in refined.textures]
        shown = copies.make(obj, target["print"], context) if copied else obj
        if new_uvs:
            state["uv"] = _add_uvs(shown, refined)
    if copied:
        state["copied"] = copies.stand_in(obj, shown)
    if not len(shown.material_slots):
        shown.data.materials.append(None)
        state["added"] = 1
    for texture, image in zip(refined.textures, images, strict=True):
        image["dreamflow_record"] = json.dumps(refined.record)
        _place(shown, refined, texture, image, target, slots, state)
    shown[KEY] = json.dumps(state)
    return shown


def _find_slots(refined: Refined, target: dict[str, Any], obj: bpy.types.Object) -> list[list[int]]:
    """For each material of the job the slots that show it now; [] where it has no texture. Raises CannotImport."""
    found: list[list[int]] = []
    try:
        for row, name in enumerate(target["names"]):
            textures = [texture for texture in refined.textures if name in texture.names]
            found.append(identity.find_slots(target, obj, target["slots"][row], name) if textures else [])
            if any(not texture.new_uvs for texture in textures):
                identity.check_uvs(target, obj, target["uv"][row])
    except identity.NotFound as error:
        raise CannotImport(f"{error}.") from error
    return found


def _place(
    shown: bpy.types.Object,
    refined: Refined,
    texture: Texture,
    image: bpy.types.Image,
    target: dict[str, Any],
    slots: list[list[int]],
    state: dict[str, Any],
) -> None:
    job = refined.record.get("job", {})
    for row, name in enumerate(target["names"]):
        if name not in texture.names:
            continue
        uv_name = state["uv"] if texture.new_uvs else target["uv"][row]
        material: bpy.types.Material | None = None
        for at in slots[row] or [0]:
            slot = shown.material_slots[at]
            old = slot.material
            own = old is not None and old.library is None and principled_of(old) is not None
            if target["keep"] == "IMAGE" and own:
                before = shown_by(old)
                ours = (OLD + str(entry["slot"]) for entry in state["slots"] if entry["way"] == "image")
                if all(shown.get(key) != old for key in ours):
                    show(old, add_nodes(old, image, uv_name))
                    state["slots"].append({"slot": at, "way": "image", "before": before})
                    shown[OLD + str(at)] = old
                continue
            if material is None:
                material = new_material(old, image, uv_name, f"{old.name if old else shown.name} refined")
                material["dreamflow_prompt"] = str(job.get("prompt", ""))
            fake = bool(old.use_fake_user) if old is not None and old.library is None else None
            state["slots"].append({"slot": at, "way": "material", "link": slot.link, "fake": fake})
            if old is not None:
                shown[OLD + str(at)] = old
                if fake is not None:
                    old.use_fake_user = True
            shown[NEW + str(at)] = material
            if slot.link == "DATA" and (shown.data.users > 1 or shown.data.library is not None):
                slot.link = "OBJECT"  # other objects with this mesh keep their material
            slot.material = material


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
