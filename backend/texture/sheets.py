"""Which textures an object gets: the images that it has, in its own UVs where those are usable, else in new ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from backend.scene.mesh import Sheet
from backend.texture.unwrap import PADDING, unwrap
from backend.texture.uv_check import check_uvs
from dreamflow_blender.contract.meshfile import ObjectArrays


def plan_sheets(
    mesh: ObjectArrays,
    v_pos: NDArray[np.float32],
    weight: NDArray[np.float32],
    keep_uvs: bool,
    texture_size: int,
    usual_size: int,
    cancelled: Callable[[], bool],
) -> list[Sheet]:
    """One for each image (materials that share one share the texture) and one for all that has none.

    v_pos [V,3] is the placed object's; weight [F,3]. Sheets that nothing may change on are left out.
    texture_size 0: each image's own, or `usual_size`.
    """
    a, b, c = v_pos[mesh.t_pos_idx].astype(np.float64).transpose(1, 0, 2)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    touched = weight.max(1) > 0
    keys = [_key(mesh, row) for row in range(len(mesh.names))]
    distinct = sorted(set(keys), key=keys.index)
    sheet_of = np.array([distinct.index(key) for key in keys])[mesh.material]
    found = []
    for number in range(len(distinct)):
        faces = np.nonzero(sheet_of == number)[0]
        if not touched[faces].any():
            continue
        materials = tuple(row for row, key in enumerate(keys) if key == distinct[number])
        uv = mesh.uv[faces] if len(mesh.uv) else mesh.uv
        report = check_uvs(uv, area[faces], ~touched[faces])
        image = mesh.images[mesh.image[materials[0]]] if mesh.image[materials[0]] >= 0 else None
        if keep_uvs and report.usable:
            own = image if _is_what_one_sees(mesh, faces, materials) else None
            height, width = _size(image, texture_size, usual_size)
            v_tex, t_tex_idx = welded(np.clip(uv, 0, 1))
            copy = report.copy | report.flat
            found.append(Sheet(faces, v_tex, t_tex_idx, copy, height, width, own, materials, False, ""))
            continue
        side = texture_size or (max(image.shape[:2]) if image is not None else usual_size)
        v_tex, t_tex_idx = fresh_uvs(v_pos, mesh.t_pos_idx[faces], mesh.polygon[faces], side, cancelled)
        nothing = np.zeros(len(faces), bool)
        why = report.why if keep_uvs else ""
        found.append(Sheet(faces, v_tex, t_tex_idx, nothing, side, side, None, materials, True, why))
    return found


def _key(mesh: ObjectArrays, row: int) -> tuple[object, ...]:
    if mesh.image[row] < 0:
        return (-1,)
    return (int(mesh.image[row]), *mesh.wrap[row].tolist(), *mesh.base[row].tolist())


def _is_what_one_sees(mesh: ObjectArrays, faces: NDArray[np.int64], materials: tuple[int, ...]) -> bool:
    """Whether the image is read where the texture goes, and no colours multiply it."""
    if len(mesh.source_uv) and not np.array_equal(mesh.source_uv[faces], mesh.uv[faces]):
        return False
    tinted = len(mesh.colour) > 0 and bool((mesh.colour[faces] != 1).any())
    return not tinted and not (mesh.base[materials[0]] != 1).any()


def _size(image: NDArray[np.uint8] | None, texture_size: int, usual_size: int) -> tuple[int, int]:
    if image is None:
        return (texture_size or usual_size,) * 2
    height, width = image.shape[:2]
    if not texture_size:
        return height, width
    return tuple(max(1, round(n * texture_size / max(height, width))) for n in (height, width))  # type: ignore[return-value]


def welded(uv: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Corners [N,3,2] as v_tex [T,2] and t_tex_idx [N,3]: equal corners are one row."""
    flat = np.ascontiguousarray(uv.reshape(-1, 2) + np.float32(0))  # no -0
    key, rows = np.unique(flat.view(np.uint64)[:, 0], return_inverse=True)
    return key.view(np.float32).reshape(-1, 2), rows.reshape(-1, 3).astype(np.int64)


def fresh_uvs(
    v_pos: NDArray[np.float32],
    tri: NDArray[np.int32],
    polygon: NDArray[np.int32],
    size: int,
    cancelled: Callable[[], bool],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """New charts, in which each polygon is in one piece: the corners that its triangles share are one."""
    made = unwrap(v_pos, tri.astype(np.int64), size, cancelled=cancelled)
    torn = torn_polygons(tri, polygon, made.t_tex_idx)
    if not torn.any():
        return made.v_tex, made.t_tex_idx
    return _with_islands(v_pos, tri, polygon, made.v_tex, made.t_tex_idx, torn, size)


def torn_polygons(
    tri: NDArray[np.int32], polygon: NDArray[np.int32], t_tex_idx: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """[F] bool: triangles of polygons that have a vertex with two places in the UVs."""
    corner = polygon.astype(np.int64).repeat(3) * (int(tri.max(initial=0)) + 1) + tri.reshape(-1)
    _, which = np.unique(corner, return_inverse=True)
    which = which.reshape(-1)
    place = t_tex_idx.reshape(-1)
    least = np.full(int(which.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    most = np.full(len(least), -1)
    np.minimum.at(least, which, place)
    np.maximum.at(most, which, place)
    bad = (least != most)[which].reshape(-1, 3).any(1)
    return np.isin(polygon, polygon[bad])


def _with_islands(
    v_pos: NDArray[np.float32],
    tri: NDArray[np.int32],
    polygon: NDArray[np.int32],
    v_tex: NDArray[np.float32],
    t_tex_idx: NDArray[np.int64],
    torn: NDArray[np.bool_],
    size: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The charts shrunk to the top of the square, and each torn polygon flattened into a cell of a grid below."""
    numbers = np.unique(polygon[torn])
    rows = max(1, int(np.ceil(np.sqrt(len(numbers)))))
    below = min(0.5, 0.05 + 0.5 * torn.mean())  # of the square, for the grid
    columns = int(np.ceil(len(numbers) / rows))
    cell = (1.0 / columns, below / rows)
    margin = min(PADDING / 2 / size, 0.2 * min(cell))
    shrunk = v_tex * np.float32(1 - below) + np.array([0, below], np.float32)
    places, index = [shrunk], t_tex_idx.copy()
    offset = len(shrunk)
    order = np.argsort(polygon, kind="stable")
    starts = np.searchsorted(polygon[order], numbers)
    ends = np.searchsorted(polygon[order], numbers, side="right")
    for nth in range(len(numbers)):
        faces = order[starts[nth] : ends[nth]]
        corners, which = np.unique(tri[faces], return_inverse=True)
        p = v_pos[corners].astype(np.float64)
        p -= p.mean(0)
        across = np.linalg.svd(p, full_matrices=False)[2][:2]  # the plane that it lies in, nearly
        flat = p @ across.T
        flat -= flat.min(0)
        room = np.array(cell) - 2 * margin
        flat *= (room / np.maximum(flat.max(0), 1e-12)).min()
        corner = np.array([nth % columns * cell[0], nth // columns * cell[1]]) + margin
        places.append((flat + corner).astype(np.float32))
        index[faces] = offset + which.reshape(-1, 3)
        offset += len(corners)
    return np.concatenate(places), index
