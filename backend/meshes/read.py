"""An artist's mesh from a file: object.npz as Blender writes it, OBJ, PLY, GLB or glTF. Nothing of it is changed.

OBJ is taken as y up, facing +Z, as Blender and most others write it; PLY as z up, facing -Y; GLB as the
standard says. Everything comes back z up. What a file cannot say (weights, polygons) is filled in.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from backend.errors import InputError
from backend.files import disk_errors
from backend.meshes.beside import MOST_BYTES
from backend.meshes.glb import parse
from backend.meshes.glb_scene import read_glb
from backend.meshes.obj import read_obj
from backend.meshes.obj_edit import kept_obj
from backend.meshes.parts import MOST_FACES
from backend.meshes.ply import read_ply
from dreamflow_blender.contract import meshfile
from dreamflow_blender.contract.job import MESHES
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.meshfile import BadMeshFile, ObjectArrays


def read_mesh(path: Path) -> tuple[ObjectArrays, list[str]]:
    """The object, and what a person should know about it. Raises InputError and DiskError."""
    suffix, notes = _suffix(path), list[str]()
    try:
        with disk_errors(path):
            if suffix == ".npz":
                mesh = meshfile.read_object(path.resolve())  # the user may give a link
            elif suffix == ".obj":
                mesh = read_obj(path, notes)
            elif suffix == ".ply":
                mesh = read_ply(path, notes)
            else:
                mesh = read_glb(path.read_bytes(), notes, path.parent)
    except BadMeshFile as error:
        raise InputError(f"{path.name} cannot be used: {error}", "Export the object again.") from error
    check_size(mesh, path.name)
    return mesh, notes


def kept_source(path: Path) -> dict[str, bytes]:
    """What a job keeps of the file that its object came from, to give it back with new colours: name -> content.

    Raises InputError and DiskError.
    """
    suffix = _suffix(path)
    try:
        with disk_errors(path):
            if suffix == ".obj":
                return kept_obj(path)
            if suffix in (".glb", ".gltf"):
                content = path.read_bytes()
                glb = parse(content, path.parent)
                return {JobFolder("").object_glb.name: content if glb.alone else glb.content()}
    except BadMeshFile as error:
        raise InputError(f"{path.name} cannot be used: {error}", "Export the object again.") from error
    return {}


def _suffix(path: Path) -> str:
    known = ", ".join(MESHES)
    if not path.is_file():
        raise InputError(f"There is no file {path}.", f"Give the path of a {known} file.")
    if path.suffix.lower() not in MESHES:
        raise InputError(f"{path.name} is none of {known}.", "Save it as one of these.")
    if path.stat().st_size > MOST_BYTES:
        raise InputError(
            f"{path.name} is larger than {MOST_BYTES >> 30} GB.", "Decimate it, or refine its parts."
        )
    return path.suffix.lower()


def check_size(mesh: ObjectArrays, name: str) -> None:
    """InputError where there is nothing to paint on, or too much."""
    if not len(mesh.t_pos_idx):
        raise InputError(f"{name} has no faces.", "Choose an object with faces: a mesh, not points or edges.")
    if len(mesh.t_pos_idx) > MOST_FACES:  # of Blender's own file
        raise InputError(
            f"{name} has {len(mesh.t_pos_idx):,} triangles, more than {MOST_FACES:,}.",
            "Decimate it, or refine its parts.",
        )
    a, b, c = mesh.v_pos[mesh.t_pos_idx].astype(np.float64).transpose(1, 0, 2)
    if not np.cross(b - a, c - a).any():
        raise InputError(f"{name} has no surface: all of its faces have zero area.", "Repair the mesh.")
