"""The object's own texture while it is refined: a shell drawn over the object, which stays what it is until the end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import bpy
import numpy as np

from ..backlog.entries import PLACE
from ..backlog.store import Entry
from ..contract import meshfile
from ..contract.colour import to_srgb
from ..contract.files import read_plain
from ..contract.jobfolder import JobFolder, indexed_filename
from ..contract.meshfile import BadMeshFile
from . import preview
from .objects import CannotImport
from .preview import Part
from .refined import find_object

MOST = 60_000  # faces; more would take Blender too long in one go
LIFT = 0.003  # of the object's size: how far the shell stands off, so that it hides what is below


def show(entry: Entry, path: Path, scene: bpy.types.Scene) -> None:
    """Make the shell, or show its newest texture. path: the snapshot; further textures have theirs next to it."""
    place = entry.place.get(PLACE)
    if not isinstance(place, dict):
        return
    now = preview.shown()
    try:
        if now is not None and now.job_id == entry.job.id:
            parts = now.parts
        else:
            parts = _read(entry.folder, place, find_object(place, None))
        pictures = [preview.read_picture(part.file) for part in parts]
    except (CannotImport, OSError, BadMeshFile, ValueError, KeyError, RuntimeError):
        return  # the picture in the panel has to do
    if 0 < sum(len(part.t_pos_idx) for part in parts) <= MOST:
        painted = zip(parts, pictures, strict=True)
        preview.show_parts(tuple(replace(part, picture=p) for part, p in painted), scene, entry.job.id)


def _read(folder: Path, place: dict[str, Any], target: bpy.types.Object) -> tuple[Part, ...]:
    """A part for each texture, still without its picture. Raises OSError, BadMeshFile, ValueError and KeyError."""
    job = JobFolder(folder)
    arrays = meshfile.read(job.uvs)
    textures = json.loads(read_plain(job.materials))["textures"]
    names = list(place["names"])
    of_row = np.full(len(names) + 1, -1)
    for number, texture in enumerate(textures):
        for name in texture["materials"]:
            of_row[names.index(name)] = number
    of_face = of_row[meshfile.read_rows(job.object_npz, "material")]
    smooth = bool(target.data.polygons) and target.data.polygons[0].use_smooth
    size = float(np.ptp(arrays.v_pos, axis=0).max())
    lifted = (
        arrays.v_pos
        + np.float32(LIFT * size) * arrays.normal
        + np.array(target.matrix_world.translation, np.float32)
    )
    parts = []
    for number in range(len(textures)):
        chosen = of_face == number
        corners = arrays.t_pos_idx[chosen]
        v_pos = lifted[corners.ravel()]
        if smooth:
            normal = arrays.normal[corners.ravel()]
        else:
            a, b, c = v_pos[0::3], v_pos[1::3], v_pos[2::3]
            across = np.cross(b - a, c - a)
            across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-12)
            normal = np.repeat(across, 3, axis=0)
        shade = np.repeat(to_srgb(preview.light(normal)), 3, axis=1)
        faces = np.arange(len(v_pos), dtype=np.int32).reshape(-1, 3)
        uv = arrays.v_tex[arrays.t_tex_idx[chosen].ravel()]
        parts.append(Part(v_pos, faces, shade, uv, indexed_filename(job.snapshot_png, number + 1)))
    return tuple(part for part in parts if len(part.t_pos_idx))
