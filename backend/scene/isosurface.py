"""From signed distances to a triangle mesh: marching tetrahedra on a body-centred cubic grid.

DMTet (Shen et al. 2021) without its downloaded grids: the cells' centres and corners are the
vertices, and each pair of neighbouring centres makes four tetrahedra with the edges of the face
between them. The sdf is POSITIVE INSIDE, as in DMTet. Every vertex of the mesh is the linear zero
crossing of one grid edge, so the mesh is welded by construction, closed where the grid's border is
outside, and differentiable in the sdf and in the grid's vertices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from backend.errors import SceneError
from backend.scene.mesh import Mesh

PAIRS = tuple(combinations(range(4), 2))  # the six edges of a tetrahedron, as pairs of its corners
NEAREST = 5e-3  # crossings stay this share of an edge away from its ends, so that no face collapses


def _triangle_table() -> Tensor:
    """[16,2,3] int64: for each set of inside corners (bit i = corner i) up to two triangles of the
    tetrahedron's edges, counter-clockwise seen from outside; -1 where there is no triangle."""
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    table = torch.full((16, 2, 3), -1)

    def edge(a: int, b: int) -> int:
        return PAIRS.index((min(a, b), max(a, b)))

    for code in range(1, 15):
        inside = [i for i in range(4) if code >> i & 1]
        outside = [i for i in range(4) if not code >> i & 1]
        if len(inside) == 2:
            (a, b), (c, d) = inside, outside
            loop = [edge(a, c), edge(a, d), edge(b, d), edge(b, c)]
        else:
            loop = [edge(a, b) for a in inside for b in outside]
        p, q, r = (corners[list(PAIRS[e])].mean(0) for e in loop[:3])
        outwards = corners[outside].mean(0) - corners[inside].mean(0)
        if torch.linalg.cross(q - p, r - p) @ outwards < 0:
            loop.reverse()
        table[code, 0] = torch.tensor(loop[:3])
        if len(loop) == 4:
            table[code, 1] = torch.tensor([loop[0], loop[2], loop[3]])
    return table


TRIANGLES = _triangle_table()


@dataclass(frozen=True)
class TetGrid:
    """Tetrahedra that fill a box.

    vertices   [N,3] float32, metres
    tets       [T,4] int64, rows of vertices, positively oriented
    edges      [E,2] int64, rows of vertices, each edge once, smaller row first
    tet_edges  [T,6] int64, rows of edges, in the order of `PAIRS`
    border     [N] bool, vertices on the hull: outside, where the surface is to be closed
    spacing    side of the cubic cells, metres
    corners    how many of the vertices are cells' corners: the first, in rows of z, in planes of y
    triangles  TRIANGLES, on the device of the rest
    """

    vertices: Tensor
    tets: Tensor
    edges: Tensor
    tet_edges: Tensor
    border: Tensor
    spacing: float
    corners: int
    triangles: Tensor = TRIANGLES

    def to(self, device: torch.device | str) -> TetGrid:
        moved: dict[str, Any] = {n: v.to(device) for n, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)


def tetrahedral_grid(cells: int, lower: Sequence[float] | Tensor, upper: Sequence[float] | Tensor) -> TetGrid:
    """Body-centred cubic tetrahedra, 12 a cell, `cells` cells along the box's longest side.

    lower, upper  [3] corners of the box, metres; shorter sides are widened to whole cells, evenly on both
                  sides. The hull dents in by half a cell, so leave a cell of room round the object.
    """
    low, high = torch.as_tensor(lower).double().cpu(), torch.as_tensor(upper).double().cpu()
    spacing, n = _cells_along(cells, low, high)
    origin = (low + high) / 2 - torch.tensor(n) * spacing / 2

    # positions in half cells: corners even, centres odd
    corner_at = torch.cartesian_prod(*(torch.arange(0, 2 * k + 1, 2) for k in n))
    centre_at = torch.cartesian_prod(*(torch.arange(1, 2 * k, 2) for k in n))
    at = torch.cat((corner_at, centre_at))
    corner = torch.arange(len(corner_at)).view([k + 1 for k in n])
    centre = torch.arange(len(corner_at), len(at)).view(n)
    limit = 2 * torch.tensor(n)
    border = ((at <= 1) | (at >= limit - 1)).any(1)

    tets = []
    for axis in range(3):  # u, v, axis are right-handed, so the ring runs counter-clockwise round the axis
        u, v = (axis + 1) % 3, (axis + 2) % 3
        below, above = (centre.narrow(axis, i, n[axis] - 1).reshape(-1) for i in (0, 1))
        ring = [
            corner.narrow(axis, 1, n[axis] - 1).narrow(u, du, n[u]).narrow(v, dv, n[v]).reshape(-1)
            for du, dv in ((0, 0), (1, 0), (1, 1), (0, 1))
        ]
        tets += [torch.stack((below, above, ring[i], ring[(i + 1) % 4]), 1) for i in range(4)]
    tet = torch.cat(tets)

    # an edge is known by its midpoint, which no other edge shares: no sorting needed
    strides = torch.tensor([(4 * n[1] + 1) * (4 * n[2] + 1), 4 * n[2] + 1, 1])
    place = (at @ strides)[tet]
    midpoint = torch.stack([place[:, i] + place[:, j] for i, j in PAIRS], 1)
    seen = torch.full((int(midpoint.max()) + 1,), -1)  # a tetrahedron's edge that has this midpoint, any one
    seen[midpoint] = torch.arange(midpoint.numel()).view_as(midpoint)
    used = seen >= 0
    row = used.cumsum(0) - 1
    some, pair = tet[seen[used] // 6], torch.tensor(PAIRS)[seen[used] % 6]
    edges = torch.stack(some.gather(1, pair).aminmax(dim=1), 1)
    vertices = (origin + at * (spacing / 2)).float()
    return TetGrid(vertices, tet, edges, row[midpoint], border, spacing, len(corner_at))


def count_vertices(cells: int, lower: Sequence[float], upper: Sequence[float]) -> int:
    """How many vertices the grid of these arguments has, without making it."""
    _, n = _cells_along(cells, torch.tensor(lower).double(), torch.tensor(upper).double())
    return math.prod(k + 1 for k in n) + math.prod(n)


def _cells_along(cells: int, low: Tensor, high: Tensor) -> tuple[float, list[int]]:
    """The side of a cell, and how many there are along each axis."""
    spacing = float((high - low).max()) / cells
    return spacing, [max(2, int(c)) for c in ((high - low) / spacing - 1e-6).ceil()]


def marching_tetrahedra(vertices: Tensor, sdf: Tensor, grid: TetGrid) -> Mesh:
    """The surface where `sdf` is zero.

    vertices  [N,3] float32, the grid's vertices, perhaps moved; differentiable
    sdf       [N] float32, positive inside; differentiable. Zero counts as outside.
    Raises SceneError where the sdf has one sign only.
    """
    inside = sdf.detach() > 0
    a, b = grid.edges.unbind(1)
    crossed = (inside[a] != inside[b]).nonzero()[:, 0]
    if len(crossed) == 0:
        what = "full" if bool(inside.any()) else "empty"
        raise SceneError(f"The shape is {what}: it has no surface.", "Try another seed.")

    a, b = a[crossed], b[crossed]
    # index_select, not sdf[a]: its backward is deterministic
    sdf_a, sdf_b = sdf.index_select(0, a), sdf.index_select(0, b)
    exact = sdf_a / (sdf_a - sdf_b)
    # the gradient passes the clamp: a vertex at an edge's end must be able to leave it
    share = exact + (exact.clamp(NEAREST, 1 - NEAREST) - exact).detach()
    pos_a, pos_b = vertices.index_select(0, a), vertices.index_select(0, b)
    v_pos = pos_a + share[:, None] * (pos_b - pos_a)

    # the triangles: a crossed tetrahedron has one, and a second where two of its corners are inside
    bits = inside.to(torch.uint8)
    code = torch.zeros(len(grid.tets), dtype=torch.uint8, device=sdf.device)
    corners = torch.zeros_like(code)
    for i in range(4):
        here = bits[grid.tets[:, i]]
        code |= here << i
        corners += here
    hit = torch.stack(((corners > 0) & (corners < 4), corners == 2), 1)
    owner, which = hit.nonzero(as_tuple=True)
    local = grid.triangles[code[owner].long(), which]  # [F,3] edges of the tetrahedron
    edges = grid.tet_edges[owner].gather(1, local)
    row = torch.empty(len(grid.edges), dtype=torch.int64, device=sdf.device)
    row[crossed] = torch.arange(len(crossed), device=sdf.device)
    return Mesh(v_pos, row[edges])
