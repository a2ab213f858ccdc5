"""The growing mesh of the running job, where its result will stand: one object outside the user's file.

It cannot be selected and is not rendered. Blender leaves run-time data out of saved files; undo and autosave
do hold it, so whatever undo, redo or opening a file brings back is taken away at once. The job's own is put
where it was by the next snapshot. It is known by a mark, never by its name or by a kept reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import bpy
from bpy.app.handlers import persistent

from ..contract import meshfile
from ..contract.colour import to_linear
from ..contract.meshfile import BadMeshFile, SnapshotArrays
from .objects import make_material, set_colours, set_triangles, stand

MARK = "dreamflow_preview"
NAME = "DreamFlow preview"

_shown: tuple[SnapshotArrays, float, tuple[float, ...], int] | None = (
    None  # what stands where, to put it back
)


def read(path: Path) -> SnapshotArrays | None:
    """None while it is not there, or cannot be read."""
    try:
        return meshfile.read_snapshot(path)
    except (OSError, BadMeshFile):
        return None


def show(arrays: SnapshotArrays, height: float, location: Sequence[float], scene: bpy.types.Scene) -> None:
    """Put this mesh in the scene, in the place of the one before."""
    global _shown
    _shown = (arrays, height, tuple(location), scene.session_uid)
    if not len(arrays.t_pos_idx) or scene.library is not None:
        return
    obj = find()
    if obj is not None and obj.name not in scene.objects:  # the last job's, in another scene
        remove()
        obj = None
    if obj is None:
        obj = _make(scene)
    obj.location = location
    _fill(obj.data, arrays, height)


def find() -> bpy.types.Object | None:
    """The one with the mark, if it is there."""
    return next((o for o in bpy.data.objects if MARK in o and o.library is None), None)


def clear() -> None:
    """The job has ended: nothing of it stays."""
    global _shown
    _shown = None
    remove()


def remove() -> None:
    """Take away every object, mesh, material and image with the mark."""
    for blocks in (bpy.data.objects, bpy.data.meshes, bpy.data.materials, bpy.data.images):
        for block in [b for b in blocks if MARK in b and b.library is None]:
            blocks.remove(block)


def _make(scene: bpy.types.Scene) -> bpy.types.Object:
    mesh = bpy.data.meshes.new(NAME)
    material = make_material(NAME, b"", (0.8, 0.8, 0.8))
    mesh.materials.append(material)
    obj = bpy.data.objects.new(NAME, mesh)
    obj.hide_select = obj.hide_render = True
    for block in (obj, mesh, material):
        block[MARK] = True
        block.is_runtime_data = True
    scene.collection.objects.link(obj)
    return obj


def _fill(mesh: bpy.types.Mesh, arrays: SnapshotArrays, height: float) -> None:
    """In place: the object and its material stay what they were."""
    mesh.clear_geometry()
    set_triangles(mesh, stand(arrays.v_pos, height), arrays.t_pos_idx)
    set_colours(mesh, arrays.colour)
    mesh.shade_smooth()
    mesh.update(calc_edges=True)
    material = mesh.materials[0]
    material.diffuse_color = (*to_linear(arrays.colour.mean(axis=0)), 1.0)


@persistent
def _put_back(*_: object) -> None:
    """After undo and redo."""
    remove()
    if _shown is not None:
        arrays, height, location, uid = _shown
        for scene in bpy.data.scenes:
            if scene.session_uid == uid:
                show(arrays, height, location, scene)


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
