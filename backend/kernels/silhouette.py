"""Antialiasing of silhouettes: what gives a mesh's outline a gradient.

The mesh's silhouette edges are enumerated and intersected with the rows or columns of pixel centres;
the two pixels on either side of a crossing are blended by its position between them. Each edge acts
along one axis only (steep edges on rows, flat ones on columns), or the gradient would count twice.
Asking only the edges of the triangle that owns a pixel, as nvdiffrast does, loses most of the
gradient on smooth meshes: triangles at the limb are thinner than a pixel and own no centre.

Not handled: outlines where two surfaces intersect. Vertices must be welded, since every edge of a
triangle soup is an outline.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from backend.kernels.raster import MIN_W

LAST = 2**63 - 1  # a key after all edges


@dataclass(frozen=True)
class Edges:
    """The E unique edges of a mesh, from its topology alone.

    ends    [E,2] int64 vertices
    face    [E] int64, one face at the edge
    other   [E] int64, the second one; -1 on a border and where more than two faces meet
    third   [E] int64, the corner of `face` that is not on the edge
    """

    ends: Tensor
    face: Tensor
    other: Tensor
    third: Tensor


def edge_table(tri: Tensor, n_vertices: int) -> Edges:
    """The edges of tri [F,3]; compute it once for each topology."""
    a, b, c = tri.long().unbind(1)
    ends = torch.stack((a, b, b, c, c, a), 1).reshape(-1, 2)
    third = torch.stack((c, a, b), 1).reshape(-1)
    face = torch.arange(len(tri), device=tri.device).repeat_interleave(3)
    one, two = ends.unbind(1)
    low, high = torch.minimum(one, two), torch.maximum(one, two)  # six times faster than amin(1)
    # A face may name a vertex twice. What is no edge gets the largest key, and one such key is always there:
    # whether it is needed only the device knows, and asking would mean waiting for it.
    key = torch.where(low == high, LAST, low * n_vertices + high)
    key, order = torch.cat((key, key.new_full((1,), LAST))).sort(stable=True)
    begins = torch.cat((key.new_ones(1, dtype=torch.bool), key[1:] != key[:-1])).nonzero()[:, 0]
    first, count = begins[:-1], begins.diff()
    second = torch.minimum(first + 1, begins[-1])
    at, other = order[first], order[second].clamp(max=max(len(face) - 1, 0))
    return Edges(
        ends=ends[at],
        face=face[at],
        other=torch.where(count == 2, face[other], -1) if len(face) else face,
        third=third[at],
    )


def antialias(colour: Tensor, depth: Tensor, pos_clip: Tensor, tri: Tensor, edges: Edges) -> Tensor:
    """Blend colours across silhouette edges; differentiable in colour and pos_clip.

    colour    [H,W,C]
    depth     [H,W] z/w of the surface, infinite where nothing is (`depth_image`)
    pos_clip  [V,4] clip space, y down
    tri       [F,3]

    Returns [H,W,C]. The area of an antialiased mask follows the mesh's outline within a few per cent,
    and so does its gradient.
    """
    height, width, channels = colour.shape
    flat, depth = colour.reshape(-1, channels), depth.detach().reshape(-1)
    tri = tri.long()
    in_front = pos_clip.detach()[:, 3] > MIN_W
    ends, corner, wanted = edges.ends, edges.third, _silhouette(pos_clip.detach(), in_front, tri, edges)
    # a card does the work for all edges sooner than it says which ones they are
    if colour.device.type == "cpu":
        chosen = wanted.nonzero()[:, 0]
        ends, corner, wanted = ends[chosen], corner[chosen], wanted[chosen]
    safe = torch.where(in_front[:, None], pos_clip, 1)
    a, b, third = (
        _project(safe.index_select(0, index), height, width) for index in (ends[:, 0], ends[:, 1], corner)
    )
    found = _crossings(a, b, third, wanted, height, width)
    if found is None:
        return colour
    cell = (found.place.detach() - 0.5).floor().long()  # the crossing is between cell and cell + 1
    length = torch.where(found.steep, width, height)
    within = (cell >= 0) & (cell < length - 1)
    cell = torch.minimum(cell.clamp(min=0), (length - 2).clamp(min=0))
    along, across = torch.where(found.steep, 1, width), torch.where(found.steep, width, 1)
    before = cell * along + found.line * across
    after = (before + along).clamp(max=height * width - 1)
    near = torch.where(found.surface_is_before, before, after)
    far = torch.where(found.surface_is_before, after, before)
    # the outline is seen where it is in front of what is behind it, and its surface too
    seen = within & (found.depth < depth[far]) & (depth[near] < depth[far])
    # from near, 0..1
    covered = torch.where(found.surface_is_before, found.place - (cell + 0.5), cell + 1.5 - found.place)
    pairs = 2 * height * width
    pair = near * 2 + found.surface_is_before.long() + torch.where(found.steep, 0, pairs)
    kept = _outermost(covered.detach(), pair, seen, 2 * pairs)
    target = torch.where(covered.detach() > 0.5, far, near)
    difference = flat.index_select(0, near) - flat.index_select(0, far)
    change = torch.where(kept, covered - 0.5, 0)[:, None] * difference
    return flat.index_add(0, target, change).view(height, width, channels)


def _project(pos_clip: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Column and row in pixels, and z/w, of points in front of the camera."""
    x, y, z, w = pos_clip.unbind(1)
    return (x / w * 0.5 + 0.5) * width, (y / w * 0.5 + 0.5) * height, z / w


def _silhouette(pos_clip: Tensor, in_front: Tensor, tri: Tensor, edges: Edges) -> Tensor:
    """[E] bool: edges that have faces on one side only, as seen from the camera."""
    xy = pos_clip[:, :2] / torch.where(in_front, pos_clip[:, 3], 1)[:, None]
    a, b, c = (xy.index_select(0, tri[:, k]) for k in range(3))
    facing = ((b - a)[:, 0] * (c - a)[:, 1] - (c - a)[:, 0] * (b - a)[:, 1]).sign()
    facing = torch.where(in_front[tri].all(1), facing, 0)  # faces that are not drawn hide nothing
    outline = (edges.other < 0) | (facing[edges.face] * facing[edges.other.clamp(min=0)] <= 0)
    return outline & in_front[edges.ends].all(1) & in_front[edges.third]


@dataclass(frozen=True)
class _Crossings:
    """R places where edges cross lines of pixel centres: those on rows first, each in the order of the edges.

    place  [R] along the line, pixels; differentiable
    depth  [R] z/w of the edge there
    line   [R] int64
    steep  [R] bool, on rows; else on columns
    surface_is_before  [R] bool, the surface's side along the line
    """

    place: Tensor
    depth: Tensor
    line: Tensor
    steep: Tensor
    surface_is_before: Tensor


def _crossings(
    a: tuple[Tensor, ...], b: tuple[Tensor, ...], third: tuple[Tensor, ...],
    wanted: Tensor, height: int, width: int,
) -> _Crossings | None:  # fmt: skip
    """Those of the wanted edges; None where there is none."""
    steep = ((b[1] - a[1]).abs() >= (b[0] - a[0]).abs()).detach()

    def axes(point: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Coordinates along the lines that the edge crosses, and across them."""
        return torch.where(steep, point[0], point[1]), torch.where(steep, point[1], point[0])

    (a_along, a_across), (b_along, b_across) = axes(a), axes(b)
    with torch.no_grad():
        third_along, third_across = axes(third)
        ends = torch.stack((a_across, b_across), 1)
        lines = torch.where(steep, height, width)
        # half-open, so that two edges that share a vertex do not both cross its line
        first = torch.minimum((ends.amin(1) - 0.5).ceil().clamp(min=0), lines).long()
        last = torch.minimum(((ends.amax(1) - 0.5).ceil() - 1).clamp(min=-1), lines - 1).long()
        count = torch.where(wanted, (last - first + 1).clamp(min=0), 0)
        e = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
        if len(e) == 0:
            return None
        line = first[e] + torch.arange(len(e), device=e.device) - (count.cumsum(0) - count)[e]
        order = (~steep[e]).byte().sort(stable=True)[1]
        e, line = e[order], line[order]
    start, slope = a_across.index_select(0, e), (b_across - a_across).index_select(0, e)
    t = (line + 0.5 - start) / slope
    place = a_along.index_select(0, e) + t * (b_along - a_along).index_select(0, e)
    with torch.no_grad():
        edge_depth = a[2][e] + t * (b[2] - a[2])[e]
        level = a_along[e] + (third_across[e] - start) / slope * (b_along - a_along)[e]
        surface_is_before = third_along[e] < level
    return _Crossings(place, edge_depth, line, steep[e], surface_is_before)


def _outermost(covered: Tensor, pair: Tensor, seen: Tensor, pairs: int) -> Tensor:
    """[R] bool: of the seen crossings between the same two pixels, the first of those that cover most."""
    rows = torch.arange(len(covered), device=covered.device)
    share = torch.where(seen, covered, -1.0)
    most = covered.new_full((pairs,), -1.0).scatter_reduce_(0, pair, share, "amax")
    best = seen & (covered == most[pair])
    candidates = torch.where(best, rows, len(covered))
    first = rows.new_full((pairs,), len(covered)).scatter_reduce_(0, pair, candidates, "amin")
    return best & (first[pair] == rows)
