"""A mesh fit to be handed out: closed, without specks, cavities or degenerate faces, and not too heavy.

fast-simplification does the heavy work, of meshes that are far too heavy. It knows nothing of manifolds, so its
result is checked, and dropped where it broke the surface, as it likes to at thin parts. Our own does the rest, or
all: the same quadrics (Garland and Heckbert 1997), the cheapest edges first, again and again, and under the link
condition (Dey et al. 1999), with which a collapse cannot change the topology.
"""

from __future__ import annotations

import fast_simplification
import numpy as np
import torch

from backend.errors import SceneError
from backend.scene.mesh import Mesh, components, is_closed

SPECK = 0.01  # pieces under this share of the largest one's volume are dropped; cavities always
SLIVER = 0.05  # edges under this share of the mean edge are collapsed
FLAT = 1e-2  # so is the shortest edge of a face whose height is under this share of its longest edge's length
CAREFUL = 20_000  # faces: as far as fast-simplification goes, since our own takes a second for every 5,000
AGGRESSIVENESS = 4.0  # fast-simplification's; its own 7 is more hasty
CHEAP = 8  # a pass of our own collapses edges of the cheapest eighth: all of them cost 1.7 times the distance


def deliver(mesh: Mesh, max_faces: int | None) -> Mesh:
    """Positions and triangles cleaned, with at most max_faces triangles (None: as many as there are).

    Takes a closed mesh, as marching tetrahedra gives it, and returns a closed one of positive volume,
    without degenerate faces, in as many pieces as are worth keeping. A max_faces that the topology does
    not allow is approached. UVs are left out: unwrap afterwards.
    Raises SceneError where nothing with a volume is left.
    """
    assert is_closed(mesh), "only closed meshes are delivered"
    v = mesh.v_pos.detach().cpu().double().numpy()
    t = mesh.t_pos_idx.cpu().numpy()
    v, t = _drop_pieces(v, t)
    v, t = _collapse_slivers(v, t)
    if max_faces is not None and len(t) > max_faces:
        v, t = _collapse_slivers(*_decimate(v, t, max_faces))
    return _mesh(v, t).to(mesh.v_pos.device)


def lighten(mesh: Mesh, max_faces: int | None) -> Mesh:
    """An open mesh, which `deliver` does not take, with about max_faces triangles at most; its topology may change."""
    if max_faces is None or len(mesh.t_pos_idx) <= max_faces:
        return mesh
    v, t = mesh.v_pos.detach().cpu().double().numpy(), mesh.t_pos_idx.cpu().numpy().astype(np.int32)
    out = fast_simplification.simplify(v, t, target_count=max_faces)
    return _mesh(np.asarray(out[0], np.float64), np.asarray(out[1], np.int64)).to(mesh.v_pos.device)


def _mesh(v: np.ndarray, t: np.ndarray) -> Mesh:
    """Only the vertices in use, in their order."""
    used, t = np.unique(t, return_inverse=True)
    return Mesh(torch.from_numpy(v[used]).float(), torch.from_numpy(t.reshape(-1, 3)).long())


def _drop_pieces(v: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n, piece = components(_mesh(v, t))
    a, b, c = np.moveaxis(v[t], 1, 0)
    volume = np.bincount(piece, (a * np.cross(b, c)).sum(1) / 6, minlength=n)
    if not volume.max() > 0:
        raise SceneError("The shape has no volume.", "Try another seed.")
    return v, t[volume[piece] >= SPECK * volume.max()]


def _decimate(v: np.ndarray, t: np.ndarray, max_faces: int) -> tuple[np.ndarray, np.ndarray]:
    if len(t) > (heavy := max(max_faces, CAREFUL)):
        out = fast_simplification.simplify(v, t.astype(np.int32), target_count=heavy, agg=AGGRESSIVENESS)
        fewer_v, fewer_t = np.asarray(out[0], np.float64), np.asarray(out[1], np.int64)
        if len(fewer_t) and _topology(fewer_v, fewer_t) == _topology(v, t):
            v, t = fewer_v, fewer_t
    part = CHEAP
    while len(t) > max_faces:
        faces = len(t)
        edges, target = _by_quadrics(v, t)
        some = len(edges) // part + 1 if faces <= CAREFUL else len(edges)
        v, t = _collapse(v, t, edges[:some], target[:some], max_faces)
        if len(t) > 0.99 * faces:  # the topology holds what is cheap
            if part == 1:
                break
            part //= 2
    return v, t


def _by_quadrics(v: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges [E,2], cheapest first, and where to collapse each to [E,3]."""
    quadric = quadrics(v, t)
    edges = np.concatenate((t[:, [0, 1]], t[:, [1, 2]], t[:, [2, 0]]))
    edges = edges[edges[:, 0] < edges[:, 1]]  # closed: each edge runs once in either direction
    q = quadric[edges].sum(1)
    middle = v[edges].mean(1)
    # flat parts leave the position open: a little pull towards the middle decides there
    pull = 1e-3 * np.trace(q[:, :3, :3], axis1=1, axis2=2)[:, None]
    right = -q[:, :3, 3] + pull * middle
    target = np.linalg.solve(q[:, :3, :3] + pull[..., None] * np.eye(3), right[..., None])[..., 0]
    at = np.concatenate((target, np.ones((len(target), 1))), 1)
    length2 = ((v[edges[:, 0]] - v[edges[:, 1]]) ** 2).sum(1)
    cost = np.einsum("ei,eij,ej->e", at, q, at) + 1e-3 * pull[:, 0] * length2
    order = np.argsort(cost, kind="stable")
    return edges[order], target[order]


def quadrics(v: np.ndarray, t: np.ndarray) -> np.ndarray:
    """[V,4,4]: the squared distances from the planes round each vertex, weighted by twice their faces' areas."""
    corners = v[t]
    normal = _cross(corners)
    area = np.linalg.norm(normal, axis=1, keepdims=True)
    plane = np.concatenate((normal, -(normal * corners[:, 0]).sum(1, keepdims=True)), 1) / area.clip(1e-30)
    of_face = area[..., None] * plane[:, :, None] * plane[:, None]
    quadric = np.zeros((len(v), 4, 4))
    for corner in range(3):
        np.add.at(quadric, t[:, corner], of_face)
    return quadric


def _topology(v: np.ndarray, t: np.ndarray) -> tuple[bool, int, int]:
    """Whether it is closed and nowhere two faces back to back, the pieces, and Euler's characteristic."""
    mesh = _mesh(v, t)
    single = len(np.unique(np.sort(t, 1), axis=0)) == len(t)
    return is_closed(mesh) and single, components(mesh)[0], len(mesh.v_pos) - len(t) // 2


def _collapse_slivers(v: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without edges shorter than SLIVER, and without faces flatter than FLAT, as far as that can be had."""
    short = SLIVER * float(np.linalg.norm(v[t] - v[np.roll(t, 1, 1)], axis=2).mean())
    for _ in range(8):
        faces = len(t)
        corners = v[t]
        sides = np.linalg.norm(corners - np.roll(corners, -1, 1), axis=2)  # of corners 0-1, 1-2, 2-0
        flat = _flatness(corners) < FLAT
        wanted = sides < short
        wanted[flat, sides[flat].argmin(1)] = True
        face, side = np.nonzero(wanted)
        order = np.argsort(sides[face, side], kind="stable")
        edges = np.stack((t[face, side], t[face, (side + 1) % 3]), 1)[order]
        v, t = _collapse(v, t, edges, v[edges].mean(1), 0)
        if len(t) == faces:
            break
    return v, t


def _collapse(
    v: np.ndarray, t: np.ndarray, edges: np.ndarray, target: np.ndarray, goal: int
) -> tuple[np.ndarray, np.ndarray]:
    """One pass: collapse edges [E,2] to target [E,3], in order, until `goal` faces remain.

    An edge is left out where its surroundings changed in this pass, and where its collapse would change
    the topology or turn a face over.
    """
    v, t = v.copy(), t.copy()
    around: list[set[int]] = [set() for _ in range(len(v))]  # the faces round each vertex
    for i, row in enumerate(t.tolist()):
        for corner in row:
            around[corner].add(i)
    alive = np.ones(len(t), bool)
    fresh = np.ones(len(v), bool)
    remaining = len(t)
    for (a, b), middle in zip(edges.tolist(), target, strict=True):
        if remaining <= goal:
            break
        shared = around[a] & around[b]
        if not (fresh[a] and fresh[b]) or not link_condition(t, around, a, b, shared):
            continue
        kept = sorted((around[a] | around[b]) - shared)
        ring = t[kept]
        old = v[ring]
        new = np.where(((ring == a) | (ring == b))[..., None], middle, old)
        before, after = _cross(old), _cross(new)
        turned = (before * after).sum(1) < 0.2 * _norm(before) * _norm(after)
        # a face too flat to have a direction may turn, and none may be flatter than FLAT or what is here now
        if (turned & (_flatness(old) > FLAT)).any():
            continue
        gone = v[t[sorted(shared)]]
        if _flatness(new).min() < min(FLAT, _flatness(old).min(), _flatness(gone).min()):
            continue
        v[a] = middle
        t[kept] = np.where(ring == b, a, ring)
        fresh[ring] = False
        for i in shared:
            alive[i] = False
            for corner in t[i].tolist():
                around[corner].discard(i)
        around[a] |= around[b]
        around[b] = set()
        remaining -= 2
    return v, t[alive]


def _flatness(corners: np.ndarray) -> np.ndarray:
    """[F] least height as a share of the longest side, of corners [F,3,3]."""
    longest2 = ((corners - np.roll(corners, 1, 1)) ** 2).sum(2).max(1)
    return _norm(_cross(corners)) / longest2.clip(1e-30)


def _norm(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt((vectors * vectors).sum(-1))


def _cross(corners: np.ndarray) -> np.ndarray:
    """[F,3] twice the area's normal, of corners [F,3,3]."""
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def link_condition(t: np.ndarray, around: list[set[int]], a: int, b: int, shared: set[int]) -> bool:
    """The links of a and b meet in the two corners opposite their edge, and nowhere else."""
    if len(shared) != 2:
        return False
    of_a = {c for i in around[a] for c in t[i].tolist()}
    of_b = {c for i in around[b] for c in t[i].tolist()}
    opposite = {c for i in shared for c in t[i].tolist()} - {a, b}
    if (of_a & of_b) - {a, b} != opposite or len(opposite) != 2:
        return False
    c, d = opposite
    closing = around[c] & around[d]
    return not (closing & around[a] and closing & around[b])
