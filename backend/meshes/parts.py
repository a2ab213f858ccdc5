"""What the readers of mesh files share: an object from its parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backend.images import clean
from dreamflow_blender.contract.meshfile import BadMeshFile, ObjectArrays

MOST_FACES = 2_000_000
MOST_MATERIALS = 4096
GREY = (0.8, 0.8, 0.8, 1.0)  # where nothing says a colour; Blender's own default
WHITE = (1.0, 1.0, 1.0, 1.0)


def refuse_more_faces(count: int) -> None:
    """Raises BadMeshFile where an object has more triangles than we refine."""
    if count > MOST_FACES:
        raise BadMeshFile(
            f"it has {count:,} triangles, more than {MOST_FACES:,}: decimate it, or refine its parts."
        )


def from_parts(
    v_pos: NDArray[np.floating],
    tri: NDArray[np.integer],
    *,
    uv: NDArray[np.floating] | None = None,
    colour: NDArray[np.floating] | None = None,
    polygon: NDArray[np.integer] | None = None,
    material: NDArray[np.integer] | None = None,
    base: Sequence[tuple[float, float, float, float]] | None = None,
    image: Sequence[int] | None = None,
    wrap: Sequence[tuple[int, int]] | None = None,
    names: Sequence[str] | None = None,
    images: Sequence[NDArray[np.uint8]] = (),
) -> ObjectArrays:
    """With everything that was not said filled in, and without the vertices that no face uses. Raises BadMeshFile.

    colour  [F,3,3], or [F,3,4] with alpha
    UVs that are not finite are put outside the square: as good as none.
    """
    tri, v_pos = np.asarray(tri).reshape(-1, 3), np.asarray(v_pos).reshape(-1, 3)
    faces, count = len(tri), len(names) if names else 1
    refuse_more_faces(faces)
    if count > MOST_MATERIALS:
        raise BadMeshFile(f"it has {count:,} materials, more than {MOST_MATERIALS:,}: join some.")
    if faces and (tri.min() < 0 or tri.max() >= len(v_pos)):
        raise BadMeshFile(f"faces name vertices {tri.min()} to {tri.max()}, and there are {len(v_pos)}.")
    used = np.zeros(len(v_pos), bool)
    used[tri] = True
    if not used.all():
        tri, v_pos = (np.cumsum(used) - 1)[tri], v_pos[used]
    corners = np.zeros((0, 3, 2)) if uv is None else np.nan_to_num(uv, nan=-9, posinf=-9, neginf=-9)
    tint = np.zeros((0, 3, 4)) if colour is None else np.clip(np.nan_to_num(colour), 0, 1)
    if tint.shape[-1] == 3:
        tint = np.concatenate((tint, np.ones((*tint.shape[:-1], 1))), -1)
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes an infinity is refused below
        positions = v_pos.astype(np.float32)
    return ObjectArrays(
        v_pos=positions,
        t_pos_idx=tri.astype(np.int32),
        uv=np.clip(corners, -1e30, 1e30).astype(np.float32),
        source_uv=np.zeros((0, 3, 2), np.float32),
        colour=tint.astype(np.float32),
        weight=np.ones((faces, 3), np.float32),
        polygon=(np.arange(faces) if polygon is None else polygon).astype(np.int32),
        material=(np.zeros(faces) if material is None else material).astype(np.int32),
        base=np.clip(np.array(base or [GREY] * count, np.float64), 0, 1).astype(np.float32).reshape(-1, 4),
        image=np.array(image or [-1] * count, np.int32),
        wrap=np.array(wrap or [(0, 0)] * count, np.int32).reshape(-1, 2),
        names=np.array([clean(name) for name in names] if names else [""]),
        images=tuple(images),
    )
