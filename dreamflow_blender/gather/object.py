"""The object that is to be refined, as it stands at this frame: evaluated, triangulated, in its own surroundings.

Everything is read from an evaluated copy. Of the user's file nothing is changed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import bpy
import numpy as np
from bpy.app.translations import pgettext_iface as translated
from mathutils import Vector
from numpy.typing import NDArray

from .material import CannotRefine

_CONVERTIBLE = {"CURVE", "SURFACE", "FONT", "META", "CURVES", "POINTCLOUD"}
_MODES = {"OBJECT", "EDIT", "TEXTURE_PAINT", "VERTEX_PAINT", "WEIGHT_PAINT"}


@dataclass(frozen=True)
class Evaluated:
    """mesh is Blender's, and lives as long as `evaluated`'s block.

    v_pos       [V,3] float32 metres, turned and scaled as in the scene, from the object's own origin
    tri         [F,3] int32 rows of v_pos, counter-clockwise seen from outside
    loops       [F,3] int32 the mesh's loops at these corners
    polygon     [F] int32
    slot        [F] int32 material slots, of those that there are
    own_loops   the mesh has the loops of the object's own one: no modifier has made faces
    """

    mesh: bpy.types.Mesh
    v_pos: NDArray[np.float32]
    tri: NDArray[np.int32]
    loops: NDArray[np.int32]
    polygon: NDArray[np.int32]
    slot: NDArray[np.int32]
    own_loops: bool


def cannot_refine_reason(obj: bpy.types.Object | None) -> str:
    """Why this object cannot be refined, as far as one sees at once; "" where it can. Cheap: panels ask."""
    if obj is None:
        return "Select the object to refine"
    if obj.type == "EMPTY" and obj.instance_type == "COLLECTION":
        said = "{name} shows a collection: make its objects real first (Object > Apply > Make Instances Real)"
        return translated(said).format(name=obj.name)
    if obj.type in _CONVERTIBLE:
        return translated("{name} is not a mesh: convert it first (Object > Convert > Mesh)").format(
            name=obj.name
        )
    if obj.type != "MESH":
        return translated("{name} is not a mesh").format(name=obj.name)
    if obj.mode not in _MODES:
        return "Switch to Object Mode first"
    if obj.library is not None and all(c.library for c in obj.users_collection):
        said = "{name} is in a linked collection: make a library override first (Object > Library Override > Make)"
        return translated(said).format(name=obj.name)
    if not obj.visible_get():
        return translated("{name} is hidden: show it first").format(name=obj.name)
    if obj.mode != "EDIT" and not len(obj.data.polygons) and not len(obj.modifiers):
        return translated("{name} has no faces").format(name=obj.name)
    return ""


@contextmanager
def evaluated(context: bpy.types.Context, obj: bpy.types.Object) -> Iterator[Evaluated]:
    """Raises CannotRefine."""
    said = cannot_refine_reason(obj)
    if said:
        raise CannotRefine(f"{said}.")
    if obj.mode == "EDIT":
        obj.update_from_editmode()  # as saving does
    depsgraph = context.evaluated_depsgraph_get()
    shown = obj.evaluated_get(depsgraph)
    mesh = shown.to_mesh(preserve_all_data_layers=True, depsgraph=depsgraph)
    try:
        if mesh is None or not len(mesh.polygons):
            by_nodes = any(m.type == "NODES" and m.show_viewport for m in obj.modifiers)
            raise CannotRefine(
                f"{obj.name} shows only instances: add a Realize Instances node, or apply its modifiers."
                if by_nodes
                else f"{obj.name} has no faces."
            )
        if [m.original if m else None for m in mesh.materials] != list(obj.data.materials):
            raise CannotRefine(
                f"The modifiers of {obj.name} set its materials (a Set Material node):"
                " give the object itself these materials, or apply the modifiers."
            )
        yield _read(obj, mesh, np.array(shown.matrix_world.to_3x3(), np.float64))
    finally:
        shown.to_mesh_clear()


def _read(obj: bpy.types.Object, mesh: bpy.types.Mesh, matrix: NDArray[np.float64]) -> Evaluated:
    mesh.calc_loop_triangles()
    triangles = mesh.loop_triangles
    v_pos = column(mesh.vertices, "co", 3, np.float32).astype(np.float64) @ matrix.T
    if not np.isfinite(v_pos).all():
        raise CannotRefine(f"{obj.name} has vertices with invalid coordinates (NaN): delete them.")
    tri, loops = column(triangles, "vertices", 3, np.int32), column(triangles, "loops", 3, np.int32)
    if np.linalg.det(matrix) < 0:  # mirrored by its scale: its outside is still outside
        tri, loops = tri[:, ::-1].copy(), loops[:, ::-1].copy()
    polygon = column(triangles, "polygon_index", 1, np.int32)[:, 0]
    slot = column(mesh.polygons, "material_index", 1, np.int32)[:, 0][polygon]
    slot = np.clip(slot, 0, max(0, len(obj.material_slots) - 1))
    own = topology_hash(mesh) == topology_hash(obj.data)
    return Evaluated(mesh, v_pos.astype(np.float32), tri, loops, polygon, slot, own)


def column(blocks: Any, name: str, width: int, kind: type) -> NDArray[Any]:
    """[N,width] of a collection's values."""
    flat: NDArray[Any] = np.empty(len(blocks) * width, kind)
    blocks.foreach_get(name, flat)
    return flat.reshape(-1, width)


def topology_hash(mesh: bpy.types.Mesh) -> str:
    """The same for meshes whose faces have the same vertices in the same order, wherever these are."""
    found = hashlib.sha1(column(mesh.loops, "vertex_index", 1, np.int32).tobytes())
    found.update(column(mesh.polygons, "loop_total", 1, np.int32).tobytes())
    return found.hexdigest()[:16]


def front_of(obj: bpy.types.Object, front: str, context: bpy.types.Context) -> float:
    """The azimuth, in degrees from -Y towards +X, that the object faces in the scene.

    front  "OBJECT": its own -Y; "CAMERA": where the scene's camera is; "VIEW": where one looks from
    """
    if front == "CAMERA":
        camera = context.scene.camera
        if camera is None:
            raise CannotRefine("The scene has no camera: choose another front.")
        if getattr(camera.data, "type", "") == "ORTHO":
            towards = camera.matrix_world.to_3x3() @ Vector((0, 0, 1))
        else:
            middle = obj.matrix_world @ (sum((Vector(c) for c in obj.bound_box), Vector()) / 8)
            towards = camera.matrix_world.translation - middle
    elif front == "VIEW":
        area = context.area  # that of the button: its own region has no view
        if area is None or area.type != "VIEW_3D":
            raise CannotRefine("This is not a 3D viewport: choose another front.")
        towards = area.spaces.active.region_3d.view_rotation @ Vector((0, 0, 1))
    else:
        turned = obj.matrix_world.to_3x3()
        towards = turned @ Vector((0, -1, 0))
        # a file whose Y is up, laid down by a turn
        if math.hypot(towards.x, towards.y) < 0.5 * towards.length:
            towards = turned @ Vector((0, 0, 1))
    if math.hypot(towards.x, towards.y) < 1e-6:
        return 0.0
    return math.degrees(math.atan2(towards.x, -towards.y))
