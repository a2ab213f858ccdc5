"""The mesh of a job at work, growing where its result will stand: one object that belongs to nobody.

It cannot be selected and is not rendered. Blender leaves run-time data out of saved files; undo and autosave
do hold it, so whatever undo, redo or opening a file brings back is taken away at once. The job's own is put
where it was by the next snapshot. It is known by a mark, never by its name or by a kept reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import bpy
import numpy as np
from bpy.app.handlers import persistent

from .contract import meshfile
from .contract.meshfile import BadMeshFile, SnapshotArrays
from .objects import linear, set_triangles, stand

MARK = "dreamflow_preview"
NAME = "DreamFlow preview"
COLOUR = "Colour"  # the mesh's attribute

_shown: tuple[SnapshotArrays, float, tuple[float, ...]] | None = None  # what stands there, to put it back


def read(path: Path) -> SnapshotArrays | None:
    """None while it is not there, or cannot be read."""
    try:
        return meshfile.read_snapshot(path)
    except (OSError, BadMeshFile):
        return None


def show(arrays: SnapshotArrays, height: float, location: Sequence[float]) -> None:
    """Put this mesh in the current scene, in the place of the one before."""
    global _shown
    _shown = (arrays, height, tuple(location))
    scene = bpy.context.scene
    if not len(arrays.t_pos_idx) or scene.library is not None:
        return
    made = find()
    if made is not None and made.name not in scene.objects:  # the user has gone to another scene
        remove()
        made = None
    if made is None:
        made = _make(scene)
    made.location = location
    _fill(made.data, arrays, height)


def find() -> bpy.types.Object | None:
    """The one with the mark, if it is there."""
    return next((o for o in bpy.data.objects if MARK in o and o.library is None), None)


def clear() -> None:
    """The job has ended: nothing of it stays."""
    global _shown
    _shown = None
    remove()


def remove() -> None:
    """Take away every object, mesh and material with the mark."""
    for blocks in (bpy.data.objects, bpy.data.meshes, bpy.data.materials):
        for block in [b for b in blocks if MARK in b and b.library is None]:
            blocks.remove(block)


def _make(scene: bpy.types.Scene) -> bpy.types.Object:
    mesh = bpy.data.meshes.new(NAME)
    material = bpy.data.materials.new(NAME)
    if bpy.app.version < (5, 0):
        material.use_nodes = True
    tree = material.node_tree
    tree.nodes.clear()
    output = tree.nodes.new("ShaderNodeOutputMaterial")
    principled = tree.nodes.new("ShaderNodeBsdfPrincipled")
    colour = tree.nodes.new("ShaderNodeVertexColor")
    colour.layer_name = COLOUR
    principled.inputs["Roughness"].default_value = 1.0
    tree.links.new(colour.outputs["Color"], principled.inputs["Base Color"])
    tree.links.new(principled.outputs["BSDF"], output.inputs["Surface"])
    mesh.materials.append(material)
    made = bpy.data.objects.new(NAME, mesh)
    made.hide_select = made.hide_render = True
    for block in (made, mesh, material):
        block[MARK] = True
        block.is_runtime_data = True
    scene.collection.objects.link(made)
    return made


def _fill(mesh: bpy.types.Mesh, arrays: SnapshotArrays, height: float) -> None:
    """In place: the object and its material stay what they were."""
    mesh.clear_geometry()
    set_triangles(mesh, stand(arrays.v_pos, height), arrays.t_pos_idx)
    if COLOUR not in mesh.color_attributes:
        mesh.color_attributes.new(COLOUR, "BYTE_COLOR", "POINT")
    rgba = np.ones((len(arrays.colour), 4), np.float32)
    rgba[:, :3] = np.clip(arrays.colour, 0, 1)
    mesh.color_attributes[COLOUR].data.foreach_set("color_srgb", rgba.ravel())
    mesh.shade_smooth()
    mesh.update(calc_edges=True)
    material = mesh.materials[0]
    material.diffuse_color = (*linear(arrays.colour.mean(axis=0)), 1.0)


@persistent
def _put_back(*_: object) -> None:
    """After undo and redo."""
    remove()
    if _shown is not None:
        show(*_shown)


@persistent
def _forget(*_: object) -> None:
    """After opening a file: it is not the one that the job was begun in."""
    clear()


def register() -> None:
    handlers = bpy.app.handlers
    handlers.undo_post.append(_put_back)
    handlers.redo_post.append(_put_back)
    handlers.load_post.append(_forget)


def unregister() -> None:
    handlers = bpy.app.handlers
    for listed, handler in (
        (handlers.undo_post, _put_back),
        (handlers.redo_post, _put_back),
        (handlers.load_post, _forget),
    ):
        if handler in listed:
            listed.remove(handler)
    clear()
