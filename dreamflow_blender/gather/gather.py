"""What a refine job begins with: object.npz of the object as it stands, and where its result will go."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import bpy
import numpy as np
from numpy.typing import NDArray

from ..contract.meshfile import BadMeshFile, ObjectArrays
from .bake import Baked, sources_of
from .identity import describe
from .images import pixels_of
from .material import GREY, CannotRefine, Source
from .object import Evaluated, column, evaluated, topology_hash

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Gathered:
    """place: for the job's entry, JSON. notes: what the user should know."""

    arrays: ObjectArrays
    place: dict[str, Any]
    notes: tuple[str, ...]


@dataclass
class _Row:
    """A material, and the slots that show it."""

    name: str
    source: Source
    slots: list[int]
    image: int = -1
    uv_name: str = ""


def gather(
    context: bpy.types.Context,
    obj: bpy.types.Object,
    faces: str = "ALL",
    keep: str = "NEW",
    baked: Baked | None = None,
) -> Gathered:
    """faces: "ALL", "SELECTED", or the active "SLOT" or "GROUP". keep: "NEW" material or new "IMAGE".

    `baked` where a material's colours are (needs_bake). Raises CannotRefine.
    """
    sources = sources_of(obj)
    with evaluated(context, obj) as shown:
        weight = _weights(obj, shown, faces)
        rows, row_of_slot = _rows(obj, sources)
        material = row_of_slot[shown.slot]
        used = set(material.tolist())
        notes: list[str] = []
        images: list[NDArray[np.uint8]] = []
        for number, row in enumerate(rows):
            changes = bool((weight[material == number] > 0).any())
            if number in used:
                _read_image(row, images, changes, notes)
        uv, source_uv = _uvs(shown, rows, material, baked)
        notes += _tiling(rows, material, uv, images)
        if baked is not None:
            _take_baked(rows, baked, images)
        colour = _colours(shown, rows, material)
        place = {
            **describe(obj),
            "keep": keep,
            "names": [row.name for row in rows],
            "slots": [row.slots for row in rows],
            "uv": [getattr(_uv_layer(shown.mesh, row.uv_name), "name", row.uv_name) for row in rows],
            "own_loops": shown.own_loops,
            "print": topology_hash(shown.mesh),
            "copy": obj.library is not None,
        }
        try:
            arrays = ObjectArrays(
                v_pos=shown.v_pos,
                t_pos_idx=shown.tri,
                uv=uv,
                source_uv=source_uv,
                colour=colour,
                weight=weight,
                polygon=shown.polygon,
                material=material.astype(np.int32),
                base=np.array([row.source.base for row in rows], np.float32),
                image=np.array([row.image for row in rows], np.int32),
                wrap=np.array([(row.source.wrap, row.source.wrap) for row in rows], np.int32),
                names=np.array([row.name for row in rows]),
                images=tuple(images),
            )
        except BadMeshFile as error:
            raise CannotRefine(f"{obj.name} cannot be used: {error}") from error
    if obj.library is not None:
        notes.append(f"{obj.name} is linked: the result is a copy of it in this file.")
    if not place["own_loops"]:
        notes.append(
            "Parts duplicated by modifiers share their part of the texture: they get the same colours."
        )
    return Gathered(arrays, place, tuple(notes))


def _rows(obj: bpy.types.Object, sources: list[Source]) -> tuple[list[_Row], NDArray[np.int64]]:
    rows: list[_Row] = []
    known: dict[Any, int] = {}
    of_slot = []
    taken: set[str] = set()
    for number, source in enumerate(sources):
        material = obj.material_slots[number].material if len(obj.material_slots) else None
        key = material.as_pointer() if material else 0
        if key not in known:
            name = base = material.name if material else ""
            while name in taken:  # one of this file and one of a library
                name = f"{base} ({len(taken)})"
            taken.add(name)
            known[key] = len(rows)
            rows.append(_Row(name, source, [], uv_name=source.uv_name))
        rows[known[key]].slots.append(number)
        of_slot.append(known[key])
    return rows, np.array(of_slot)


def _read_image(row: _Row, images: list[NDArray[np.uint8]], changes: bool, notes: list[str]) -> None:
    if row.source.kind != "image":
        return
    assert row.source.image is not None
    try:
        images.append(pixels_of(row.source.image, row.source.alpha))
    except CannotRefine as error:
        if changes:
            raise
        notes.append(f"{error} Its faces stay as they are.")
        row.source = Source("plain", GREY)
        return
    row.image = len(images) - 1


def _uvs(
    shown: Evaluated, rows: list[_Row], material: NDArray[np.int64], baked: Baked | None
) -> tuple[Floats, Floats]:
    """uv and source_uv of the corners. The texture goes where the material's image is read now, or by the UV map
    for rendering."""
    none = np.zeros((0, 3, 2), np.float32)
    uv = np.zeros((len(shown.tri), 3, 2), np.float32)
    there = True
    for number, row in enumerate(rows):
        here = material == number
        if not here.any():
            continue
        layer = _uv_layer(shown.mesh, row.uv_name)
        if layer is None and row.uv_name:
            raise CannotRefine(
                f"“{row.name}” reads the UV map “{row.uv_name}”, which is not there: choose another."
            )
        if layer is None:
            there = False
            continue
        loop_uv = column(layer.uv, "vector", 2, np.float32)
        uv[here] = np.nan_to_num(loop_uv, nan=-9, posinf=-9, neginf=-9)[shown.loops[here]]
    if not there:
        if any(row.image >= 0 for row in rows):
            raise CannotRefine("Its image needs a UV map, and the object has none: unwrap it first.")
        uv = none
    if baked is None:
        return uv, none
    if baked.of != topology_hash(shown.mesh):
        raise CannotRefine("The object has changed while its colours were baked: refine it again.")
    source_uv = uv.copy() if len(uv) else np.zeros((len(shown.tri), 3, 2), np.float32)
    for number, row in enumerate(rows):
        if row.source.kind == "bake":
            here = material == number
            source_uv[here] = baked.loop_uv[shown.loops[here]]
    return uv, source_uv


def _tiling(
    rows: list[_Row], material: NDArray[np.int64], uv: Floats, images: list[NDArray[np.uint8]]
) -> list[str]:
    """Which texture sizes keep the detail of images that repeat: new UVs show every part of the object once."""
    notes = []
    for number, row in enumerate(rows):
        corners = uv[material == number].astype(np.float64) if len(uv) else uv
        if row.image < 0 or not len(corners):
            continue
        one, two = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        area = float(np.abs(one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]).sum() / 2)  # in images
        outside = corners.min() < -0.01 or corners.max() > 1.01
        if outside and area > 1.5:
            size = max(images[row.image].shape[:2]) * area**0.5
            notes.append(
                f"The image of “{row.name}” is repeated {area:.0f} times:"
                f" a texture of about {2 ** math.ceil(math.log2(size)):,} px keeps its detail."
            )
    return notes


def _take_baked(rows: list[_Row], baked: Baked, images: list[NDArray[np.uint8]]) -> None:
    number_of: dict[str, int] = {}
    for row in rows:
        if row.source.kind == "bake":
            kind = baked.kinds[row.slots[0]]
            if kind not in number_of:
                number_of[kind] = len(images)
                images.append(baked.images[kind])
            row.image = number_of[kind]
            row.source = Source("bake", wrap=1)


def _colours(shown: Evaluated, rows: list[_Row], material: NDArray[np.int64]) -> Floats:
    """[F,3,4], or no rows where no material reads an attribute."""
    if not any(row.source.kind == "colours" for row in rows):
        return np.zeros((0, 3, 4), np.float32)
    colour = np.ones((len(shown.tri), 3, 4), np.float32)
    for number, row in enumerate(rows):
        here = material == number
        if row.source.kind != "colours" or not here.any():
            continue
        found = shown.mesh.color_attributes
        name = row.source.attribute or found.default_color_name
        attribute = found.get(name)
        if attribute is None:
            raise CannotRefine(f"“{row.name}” reads the colours “{name}”, which the object does not have.")
        values = np.clip(np.nan_to_num(column(attribute.data, "color_srgb", 4, np.float32)[:, :3]), 0, 1)
        rows_of = shown.tri if attribute.domain == "POINT" else shown.loops
        colour[here, :, :3] = values[rows_of[here]]
    return colour


def _weights(obj: bpy.types.Object, shown: Evaluated, faces: str) -> Floats:
    """[F,3]. Raises CannotRefine where nothing is chosen."""
    if faces == "SELECTED":
        chosen = column(shown.mesh.polygons, "select", 1, np.bool_)[:, 0][shown.polygon]
        nothing = "No face is selected: select some in Edit Mode, or refine all."
    elif faces == "SLOT":
        chosen = shown.slot == obj.active_material_index
        nothing = "No face has the active material slot: choose another slot, or refine all."
    elif faces == "GROUP":
        group = obj.vertex_groups.active
        if group is None:
            raise CannotRefine(f"{obj.name} has no vertex group: paint one, or refine all.")
        of_vertex = np.zeros(len(shown.mesh.vertices), np.float32)
        for vertex in shown.mesh.vertices:
            for element in vertex.groups:
                if element.group == group.index:
                    of_vertex[vertex.index] = element.weight
        chosen = np.clip(of_vertex, 0, 1)[shown.tri]
        nothing = f"All weights of the vertex group “{group.name}” are zero."
    else:
        chosen, nothing = np.ones(len(shown.tri), np.bool_), ""
    if nothing and not chosen.any():
        raise CannotRefine(nothing)
    return np.broadcast_to(chosen.reshape(len(chosen), -1), (len(chosen), 3)).astype(np.float32)


def _uv_layer(mesh: bpy.types.Mesh, name: str) -> Any:
    """The UV map of this name, "": the one for rendering; None where there is none."""
    layers: Any = mesh.uv_layers
    return layers.get(name) if name else next((each for each in layers if each.active_render), layers.active)


def needs_bake(obj: bpy.types.Object) -> list[int]:
    """Material slots whose colours have to be baked first. Raises CannotRefine."""
    return [number for number, source in enumerate(sources_of(obj)) if source.kind == "bake"]
