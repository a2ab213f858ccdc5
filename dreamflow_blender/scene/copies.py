"""A copy that stands for an object whose own mesh cannot take the texture: its modifiers applied, all else kept.

While the copy is there, its original is neither seen nor rendered: a local one is hidden, a linked one, whose
properties a file cannot keep, is taken out of this file's collections. `remove` puts everything back.
"""

from __future__ import annotations

from typing import Any

import bpy
import numpy as np

from ..gather.object import topology_hash
from .objects import CannotImport

ORIGINAL, HOME = "dreamflow_original", "dreamflow_original_in_"  # pointers on the copy


def make(obj: bpy.types.Object, topology: str, context: bpy.types.Context) -> bpy.types.Object:
    """The object as it is evaluated now, with its parent, constraints, collections and properties.

    topology  the faces that the texture was made for. Raises CannotImport where they have changed
    """
    scene, layer = _where(obj, context)
    with context.temp_override(scene=scene, view_layer=layer):
        depsgraph = bpy.context.evaluated_depsgraph_get()
        evaluated = obj.evaluated_get(depsgraph)
        matrix = evaluated.matrix_world.copy()
        mesh = bpy.data.meshes.new_from_object(evaluated, preserve_all_data_layers=True, depsgraph=depsgraph)
    if topology_hash(mesh) != topology:
        bpy.data.meshes.remove(mesh)
        raise CannotImport(f"The faces of {obj.name} have changed since it was refined.")
    copy = obj.copy()
    if copy.override_library is not None:
        copy.make_local(clear_liboverride=True)
    copy.name = f"{obj.name} refined"
    copy.modifiers.clear()
    copy.data = mesh
    mesh.materials.clear()
    for slot in obj.material_slots:
        mesh.materials.append(slot.material)
    for slot in copy.material_slots:
        slot.link = "DATA"
    if copy.parent_type == "ARMATURE":  # the mesh has its pose already
        copy.parent_type = "OBJECT"
    if copy.asset_data is not None:
        copy.asset_clear()
    for collection in _homes(obj) or [scene.collection]:
        collection.objects.link(copy)
    layer.update()
    if not np.allclose(matrix, copy.matrix_world, atol=1e-5):
        copy.constraints.clear()  # what moves it is not copied: it stands where it stood
        copy.animation_data_clear()
        copy.matrix_world = matrix
    return copy


def stand_in(obj: bpy.types.Object, copy: bpy.types.Object) -> dict[str, Any]:
    """Hide the original; what `remove` needs to know besides the pointers on the copy. JSON."""
    copy[ORIGINAL] = obj
    if obj.library is not None:
        for number, collection in enumerate(_homes(obj)):
            scene = next((s for s in bpy.data.scenes if s.collection == collection), None)
            copy[HOME + str(number)] = scene or collection
            collection.objects.unlink(obj)
        return {"linked": True}
    hidden = []
    for layer in _layers(obj):
        if obj.hide_get(view_layer=layer):
            hidden.append(layer.name)
        obj.hide_set(True, view_layer=layer)
    rendered = not obj.hide_render
    obj.hide_render = True
    return {"linked": False, "hidden": hidden, "rendered": rendered}


def remove(copy: bpy.types.Object, state: dict[str, Any]) -> bpy.types.Object | None:
    """Delete the copy and show the original, which is returned; None where it is gone."""
    obj = copy.get(ORIGINAL)
    homes = [copy[key] for key in sorted(copy.keys()) if key.startswith(HOME)]
    mesh = copy.data
    bpy.data.objects.remove(copy)
    if mesh.users == 0:
        bpy.data.meshes.remove(mesh)
    if obj is None:
        return None
    if state["linked"]:
        for home in homes:
            if home is not None:
                (home.collection if isinstance(home, bpy.types.Scene) else home).objects.link(obj)
        return obj
    if state["rendered"]:
        obj.hide_render = False
    for layer in _layers(obj):
        if layer.name not in state["hidden"]:
            obj.hide_set(False, view_layer=layer)
    return obj


def _homes(obj: bpy.types.Object) -> list[bpy.types.Collection]:
    """The collections of this file that it is in."""
    return [c for c in obj.users_collection if c.library is None and c.override_library is None]


def _layers(obj: bpy.types.Object) -> list[bpy.types.ViewLayer]:
    layers = (layer for scene in bpy.data.scenes if scene.library is None for layer in scene.view_layers)
    return [layer for layer in layers if any(each == obj for each in layer.objects)]


def _where(obj: bpy.types.Object, context: bpy.types.Context) -> tuple[bpy.types.Scene, bpy.types.ViewLayer]:
    """The scene and view layer to evaluate it in: the open ones, where it is in them."""
    layers = _layers(obj)
    if not layers or context.view_layer in layers:
        return context.scene, context.view_layer
    return layers[0].id_data, layers[0]
