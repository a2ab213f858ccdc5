"""What the readers of mesh files share: an object from its parts, and images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from backend.errors import InputError
from dreamflow_blender.contract.meshfile import BadMeshFile, ObjectArrays

MOST_PIXELS = 8192 * 8192
GREY = (0.8, 0.8, 0.8, 1.0)  # where nothing says a colour; Blender's own default
Image.MAX_IMAGE_PIXELS = MOST_PIXELS


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
        colour=(np.zeros((0, 3, 3)) if colour is None else np.clip(np.nan_to_num(colour), 0, 1)).astype(
            np.float32
        ),
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
        raise InputError(
            f"{what} cannot be read as an image ({error}).", "Save it as PNG or JPEG."
        ) from error
