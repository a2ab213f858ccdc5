"""The object's own texture while it is refined: a shell on the object, which stays what it is until the end.

Like the preview of a job that grows, it is not part of the user's file: marked; not saved, rendered or selectable.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import numpy as np

from ..backlog.entries import PLACE
from ..backlog.store import Entry
from ..contract import meshfile
from ..contract.jobfolder import JobFolder, indexed_filename
from ..contract.meshfile import BadMeshFile, MeshArrays
from . import windows
from .nodes import new_material
from .objects import CannotImport, set_triangles
from .preview import MARK, NAME, find, remove
from .refined import find_object

MOST = 60_000  # faces; more would take Blender too long in one go
LIFT = 0.003  # of the object's size: how far the shell stands off, so that it hides what is below


@dataclass(frozen=True)
class _Shell:
    arrays: MeshArrays
    texture: np.ndarray  # [F] which of the files, -1: none
    files: list[Path]


def show(entry: Entry, path: Path, scene: bpy.types.Scene) -> None:
    """Make the shell, or show its newest texture. path: the snapshot; further textures have theirs next to it."""
    place = entry.place.get(PLACE)
    if not isinstance(place, dict) or scene.library is not None:
        return
    obj = find()
    if obj is not None and obj[MARK] == entry.job.id:
        for image in (i for i in bpy.data.images if MARK in i):
            image.reload()
        for material in obj.data.materials:
            material.update_tag()
        windows.redraw_views()
        return
    remove()
    try:
        target = find_object(place, None)
        shell = _read(entry.folder, place)
    except (CannotImport, OSError, BadMeshFile, ValueError, KeyError):
        return  # the picture in the panel has to do
    if 0 < (shell.texture >= 0).sum() <= MOST and all(file.is_file() for file in shell.files):
        _build(shell, target, scene, entry.job.id)


def _read(folder: Path, place: dict[str, Any]) -> _Shell:
    job = JobFolder(folder)
    arrays = meshfile.read(job.uvs)
    textures = json.loads(job.materials.read_text(encoding="utf-8"))["textures"]
    with np.load(job.object_npz, allow_pickle=False) as stored:
        material = stored["material"]
    names = list(place["names"])
    of_row = np.full(len(names) + 1, -1)
    files = []
    for number, texture in enumerate(textures):
        files.append(indexed_filename(job.snapshot_png, number + 1))
        for name in texture["materials"]:
            of_row[names.index(name)] = number
    return _Shell(arrays, of_row[material], files)


def _build(shell: _Shell, target: bpy.types.Object, scene: bpy.types.Scene, job_id: str) -> None:
    chosen = shell.texture >= 0
    arrays = shell.arrays
    size = float(np.ptp(arrays.v_pos, axis=0).max())
    mesh = bpy.data.meshes.new(NAME)
    set_triangles(mesh, arrays.v_pos + np.float32(LIFT * size) * arrays.normal, arrays.t_pos_idx[chosen])
    layer = mesh.uv_layers.new(name="UVMap")
    layer.uv.foreach_set("vector", arrays.v_tex[arrays.t_tex_idx[chosen].ravel()].ravel())
    mesh.polygons.foreach_set("material_index", shell.texture[chosen].astype(np.int32))
    blocks: list[Any] = [mesh]
    for file in shell.files:
        image = bpy.data.images.load(str(file), check_existing=False)
        material = new_material(None, image, "", NAME)
        mesh.materials.append(material)
        blocks += [image, material]
    if target.data.polygons and target.data.polygons[0].use_smooth:
        mesh.shade_smooth()
    else:
        mesh.shade_flat()
    mesh.update(calc_edges=True)
    obj = bpy.data.objects.new(NAME, mesh)
    obj.hide_select = obj.hide_render = True
    obj.location = target.matrix_world.translation
    for block in (obj, *blocks):
        block[MARK] = job_id
        block.is_runtime_data = True
    scene.collection.objects.link(obj)
