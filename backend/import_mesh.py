"""An artist's mesh from a file: object.npz as Blender writes it, OBJ, PLY or GLB. Nothing of it is changed.

OBJ is taken as y up, facing +Z, as Blender and most others write it; PLY as z up, facing -Y; GLB as the
standard says. Everything comes back z up. What a file cannot say (weights, polygons) is filled in.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from backend.errors import InputError
from backend.files import disk_errors
from dreamflow_blender.contract import meshfile
from dreamflow_blender.contract.meshfile import BadMeshFile, ObjectArrays

MOST_FACES = 2_000_000
MOST_PIXELS = 8192 * 8192
GREY = (0.8, 0.8, 0.8, 1.0)  # where nothing says a colour; Blender's own default
Image.MAX_IMAGE_PIXELS = MOST_PIXELS


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
                from backend.gltf import read_glb

                mesh = read_glb(path.read_bytes(), notes)
            elif suffix == ".obj":
                from backend.import_obj import read_obj

                mesh = read_obj(path, notes)
            elif suffix == ".ply":
                from backend.import_ply import read_ply

                mesh = read_ply(path.read_bytes())
            else:
                raise InputError(f"{path.name} is none of .glb, .obj, .ply, .npz.", "Save it as one of these.")
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


def from_parts(
    v_pos: NDArray[np.floating],
    tri: NDArray[np.integer],
    *,
    uv: NDArray[np.floating] | None = None,
    colour: NDArray[np.floating] | None = None,
    polygon: NDArray[np.integer] | None = None,
    material: NDArray[np.integer] | None = None,
    base: list[tuple[float, float, float, float]] | None = None,
    image: list[int] | None = None,
    wrap: list[int] | None = None,
    names: list[str] | None = None,
    images: tuple[NDArray[np.uint8], ...] = (),
) -> ObjectArrays:
    """With everything that was not said filled in. Raises BadMeshFile.

    UVs that are not finite are put outside the square: as good as none.
    """
    faces = len(tri)
    count = len(names) if names else 1
    tri = np.asarray(tri)
    if faces and (tri.min() < 0 or tri.max() >= len(v_pos)):
        raise BadMeshFile(f"faces name vertices {tri.min()} to {tri.max()}, and there are {len(v_pos)}.")
    corners = np.zeros((0, 3, 2)) if uv is None else np.nan_to_num(uv, nan=-9, posinf=-9, neginf=-9)
    return ObjectArrays(
        v_pos=np.asarray(v_pos, np.float32).reshape(-1, 3),
        t_pos_idx=tri.astype(np.int32).reshape(-1, 3),
        uv=corners.astype(np.float32),
        source_uv=np.zeros((0, 3, 2), np.float32),
        colour=(np.zeros((0, 3, 3)) if colour is None else np.clip(np.nan_to_num(colour), 0, 1)).astype(np.float32),
        weight=np.ones((faces, 3), np.float32),
        polygon=(np.arange(faces) if polygon is None else polygon).astype(np.int32),
        material=(np.zeros(faces) if material is None else material).astype(np.int32),
        base=np.clip(np.array(base or [GREY] * count, np.float32), 0, 1).reshape(-1, 4),
        image=np.array(image or [-1] * count, np.int32),
        wrap=np.array(wrap or [0] * count, np.int32),
        names=np.array(names or [""]),
        images=images,
    )


def read_image(source: object, what: str) -> NDArray[np.uint8]:
    """[H,W,4] uint8 of a path or an open file. Raises InputError naming `what`."""
    try:
        with Image.open(source) as opened:  # type: ignore[arg-type]
            if opened.mode.startswith(("I", "F")):  # 16 bits and more
                levels = np.asarray(opened).astype(np.float64)
                grey = np.clip(levels / (65535 if opened.mode.startswith("I") else 1), 0, 1) * 255
                return np.dstack([np.round(grey)] * 3 + [np.full_like(grey, 255)]).astype(np.uint8)
            return np.asarray(opened.convert("RGBA")).copy()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{what} cannot be read as an image ({error}).", "Save it as PNG or JPEG.") from error
