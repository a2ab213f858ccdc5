"""Fewer triangles under the same texture: vertices go, and with them edges, but no seam moves in the UV map.

Half-edge collapses by quadrics (Garland and Heckbert 1997): a vertex goes to its neighbour's place and takes its
UVs, so that every corner shows what the texture has there. A vertex on a seam goes along the seam alone.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from backend.scene.mesh import Mesh
from backend.scene.simplify import link_condition, quadrics

TURNED = 0.2  # the least cosine between a face's normals before and after


def lighter(mesh: Mesh, faces: int) -> Mesh:
    """The mesh, which has UVs, with at most so many faces, or as few as its seams and its topology allow."""
    assert mesh.v_tex is not None and mesh.t_tex_idx is not None, "unwrap first"
    v, uv = mesh.v_pos.double().numpy(), mesh.v_tex.double().numpy()
    t, tt = mesh.t_pos_idx.numpy().copy(), mesh.t_tex_idx.numpy().copy()
    while len(t) > faces:
        before = len(t)
        t, tt = _pass(v, t, uv, tt, faces)
        if len(t) == before:
            break
    used, t = np.unique(t, return_inverse=True)
    used_uv, tt = np.unique(tt, return_inverse=True)
    return Mesh(
        mesh.v_pos[torch.from_numpy(used)],
        torch.from_numpy(t.reshape(-1, 3)),
        mesh.v_tex[torch.from_numpy(used_uv)],
        torch.from_numpy(tt.reshape(-1, 3)),
    )


def _pass(
    v: NDArray[np.float64], t: NDArray[np.int64], uv: NDArray[np.float64], tt: NDArray[np.int64], goal: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each vertex goes at most once, the cheapest first, and none beside one that has gone."""
    t, tt = t.copy(), tt.copy()
    around: list[set[int]] = [set() for _ in range(len(v))]
    for face, row in enumerate(t.tolist()):
        for corner in row:
            around[corner].add(face)
    alive, fresh, left = np.ones(len(t), bool), np.ones(len(v), bool), len(t)
    for a, b in _cheapest_first(v, t):
        if left <= goal:
            break
        shared = around[a] & around[b]
        if not (fresh[a] and fresh[b]) or not link_condition(t, around, a, b, shared):
            continue
        new_uv = _uvs_of(t, tt, a, b, shared)
        kept = sorted(around[a] - shared)
        at = t[kept] == a
        old_rows = tt[kept]
        if new_uv is None or not set(old_rows[at].tolist()) <= set(new_uv):
            continue  # it would leave its seam
        rows = old_rows.copy()
        rows[at] = [new_uv[row] for row in old_rows[at].tolist()]
        corners = np.where(at, b, t[kept])
        if not _keeps_its_side(v[t[kept]], v[corners]) or (_area(uv[rows]) <= 0).any():
            continue
        t[kept], tt[kept] = corners, rows
        fresh[t[kept].reshape(-1)] = False
        fresh[a] = fresh[b] = False
        for face in shared:
            alive[face] = False
            for corner in t[face].tolist():
                around[corner].discard(face)
        around[b] |= around[a]
        around[a] = set()
        left -= 2
    return t[alive], tt[alive]


def _cheapest_first(v: NDArray[np.float64], t: NDArray[np.int64]) -> list[tuple[int, int]]:
    """(a, b): a goes to b's place."""
    quadric = quadrics(v, t)
    edges = np.concatenate((t[:, [0, 1]], t[:, [1, 2]], t[:, [2, 0]]))  # closed: both directions are there
    place = np.concatenate((v[edges[:, 1]], np.ones((len(edges), 1))), 1)
    error = np.einsum("ei,eij,ej->e", place, quadric[edges].sum(1), place)
    length = ((v[edges[:, 0]] - v[edges[:, 1]]) ** 2).sum(1)
    order = np.lexsort((edges[:, 1], edges[:, 0], error + 1e-9 * length))
    return [(int(a), int(b)) for a, b in edges[order]]


def _uvs_of(
    t: NDArray[np.int64], tt: NDArray[np.int64], a: int, b: int, shared: set[int]
) -> dict[int, int] | None:
    """From the UV rows of a, as the two faces of its edge to b have them, to those of b; None where they differ."""
    found: dict[int, int] = {}
    for face in shared:
        rows = dict(zip(t[face].tolist(), tt[face].tolist(), strict=True))
        if found.setdefault(rows[a], rows[b]) != rows[b]:
            return None
    return found


def _keeps_its_side(before: NDArray[np.float64], after: NDArray[np.float64]) -> bool:
    old, new = (np.cross(c[:, 1] - c[:, 0], c[:, 2] - c[:, 0]) for c in (before, after))
    size = np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)
    return bool(((old * new).sum(1) > TURNED * size).all())


def _area(uv: NDArray[np.float64]) -> NDArray[np.float64]:
    """[F] twice the signed area in the UV map."""
    one, two = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    area: NDArray[np.float64] = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]
    return area
