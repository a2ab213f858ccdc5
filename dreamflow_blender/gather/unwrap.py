"""A UV map for a mesh that has none, made by Blender's Smart UV Project on a copy of it."""

from __future__ import annotations

import math

import bpy
import numpy as np

from .material import CannotRefine
from .object import column

NAME = "UVMap"
_DEFORM_ONLY = {  # modifiers that move vertices, or change what is no face
    "ARMATURE", "CAST", "CLOTH", "COLLISION", "CORRECTIVE_SMOOTH", "CURVE", "DATA_TRANSFER", "DISPLACE",
    "DYNAMIC_PAINT", "HOOK", "LAPLACIANDEFORM", "LAPLACIANSMOOTH", "LATTICE", "MESH_CACHE", "MESH_DEFORM",
    "MESH_SEQUENCE_CACHE", "NORMAL_EDIT", "PARTICLE_SYSTEM", "SHRINKWRAP", "SIMPLE_DEFORM", "SMOOTH", "SOFT_BODY",
    "SURFACE", "SURFACE_DEFORM", "UV_PROJECT", "UV_WARP", "VERTEX_WEIGHT_EDIT", "VERTEX_WEIGHT_MIX",
    "VERTEX_WEIGHT_PROXIMITY", "WARP", "WAVE", "WEIGHTED_NORMAL",
}  # fmt: skip


def modifiers_make_faces(obj: bpy.types.Object) -> bool:
    """As far as one sees without evaluating them."""
    return any(m.show_viewport and m.type not in _DEFORM_ONLY for m in obj.modifiers)


def can_unwrap(obj: bpy.types.Object) -> bool:
    """Whether its own mesh may get a first UV map."""
    return obj.library is None and obj.data.library is None and not obj.data.uv_layers


def unwrap(obj: bpy.types.Object, context: bpy.types.Context) -> None:
    """Give the object's own mesh a UV map; modifiers hand it on. Selection and mode stay. Raises CannotRefine."""
    if not can_unwrap(obj):
        raise CannotRefine(f"{obj.name} cannot be unwrapped: it has UVs, or its mesh is linked.")
    layer, mode = context.view_layer, obj.mode
    if mode != "OBJECT":
        bpy.ops.object.mode_set(mode="OBJECT")
    selected, active = list(layer.objects.selected), layer.objects.active
    mesh = obj.data.copy()
    for element in (mesh.vertices, mesh.edges, mesh.polygons):
        element.foreach_set("hide", np.zeros(len(element), np.bool_))
    if mesh.shape_keys is not None:
        mesh.shape_keys.animation_data_clear()
    copy = bpy.data.objects.new("DreamFlow unwrap", mesh)
    context.scene.collection.objects.link(copy)
    try:
        for each in selected:
            each.select_set(False)
        copy.select_set(True)
        layer.objects.active = copy
        bpy.ops.object.mode_set(mode="EDIT")
        bpy.ops.mesh.select_all(action="SELECT")
        bpy.ops.uv.smart_project(angle_limit=math.radians(66), island_margin=0.005)
        bpy.ops.object.mode_set(mode="OBJECT")
        values = column(mesh.uv_layers[0].uv, "vector", 2, np.float32)
    finally:
        bpy.data.objects.remove(copy)
        bpy.data.meshes.remove(mesh)
        for each in selected:
            each.select_set(True)
        layer.objects.active = active
    obj.data.uv_layers.new(name=NAME, do_init=False).uv.foreach_set("vector", values.ravel())
    layer.update()
    if mode != "OBJECT":
        bpy.ops.object.mode_set(mode=mode)
