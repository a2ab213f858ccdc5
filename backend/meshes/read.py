"""An artist's mesh from a file: object.npz as Blender writes it, OBJ, PLY or GLB. Nothing of it is changed.

OBJ is taken as y up, facing +Z, as Blender and most others write it; PLY as z up, facing -Y; GLB as the
standard says. Everything comes back z up. What a file cannot say (weights, polygons) is filled in.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from backend.errors import InputError
from backend.files import disk_errors
from dreamflow_blender.contract import meshfile
from dreamflow_blender.contract.meshfile import BadMeshFile, ObjectArrays

MOST_FACES = 2_000_000


def read_mesh(path: Path) -> tuple[ObjectArrays, list[str]]:
    """The object, and what a person should know about it. Raises InputError and DiskError."""
    if not path.is_file():
        raise InputError(f"There is no file {path}.", "Give the path of a .glb, .obj, .ply or .npz file.")
    suffix = path.suffix.lower()
    notes: list[str] = []
    try:
        with disk_errors(path):
            if suffix == ".npz":
                mesh = meshfile.read_object(path)
            elif suffix == ".glb":
                from backend.meshes.glb import read_glb

                mesh = read_glb(path.read_bytes(), notes)
            elif suffix == ".obj":
                from backend.meshes.obj import read_obj

                mesh = read_obj(path, notes)
            elif suffix == ".ply":
                from backend.meshes.ply import read_ply

                mesh = read_ply(path.read_bytes())
            else:
                raise InputError(
                    f"{path.name} is none of .glb, .obj, .ply, .npz.", "Save it as one of these."
                )
    except BadMeshFile as error:
        raise InputError(f"{path.name} cannot be used: {error}", "Export the object again.") from error
    check_size(mesh, path.name)
    return mesh, notes


def check_size(mesh: ObjectArrays, name: str) -> None:
    """InputError where there is nothing to paint on, or too much."""
    if not len(mesh.t_pos_idx):
        raise InputError(f"{name} has no faces.", "Choose an object with faces: a mesh, not points or edges.")
    if len(mesh.t_pos_idx) > MOST_FACES:
        raise InputError(
            f"{name} has {len(mesh.t_pos_idx):,} triangles, more than {MOST_FACES:,}.",
            "Decimate it, or refine its parts.",
        )
    a, b, c = mesh.v_pos[mesh.t_pos_idx].astype(np.float64).transpose(1, 0, 2)
    if not np.cross(b - a, c - a).any():
        raise InputError(f"{name} has no surface: all of its faces have zero area.", "Repair the mesh.")
