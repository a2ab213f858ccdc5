"""Antialiasing of silhouettes: what gives a mesh's outline a gradient.

The mesh's silhouette edges are enumerated and intersected with the rows or columns of pixel centres;
the two pixels on either side of a crossing are blended by where it lies between them. Each edge acts
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
    tri = tri.long()
    ends = torch.stack((tri[:, [0, 1]], tri[:, [1, 2]], tri[:, [2, 0]]), 1).reshape(-1, 2)
    third = tri[:, [2, 0, 1]].reshape(-1)
    face = torch.arange(len(tri), device=tri.device).repeat_interleave(3)
    real = ends[:, 0] != ends[:, 1]  # a face may name a vertex twice
    ends, third, face = ends[real], third[real], face[real]
    low, high = torch.minimum(*ends.unbind(1)), torch.maximum(*ends.unbind(1))  # six times faster than amin(1)
    key, order = (low * n_vertices + high).sort(stable=True)
    _, count = key.unique_consecutive(return_counts=True)
    first = count.cumsum(0) - count
    second = (first + 1).clamp(max=max(len(order) - 1, 0))
    return Edges(
        ends=ends[order[first]],
        face=face[order[first]],
        other=torch.where(count == 2, face[order[second]], -1),
        third=third[order[first]],
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
    chosen = _silhouette(pos_clip.detach(), tri.long(), edges)
    a, b, third = (
        _project(pos_clip.index_select(0, index), height, width)
        for index in (edges.ends[chosen, 0], edges.ends[chosen, 1], edges.third[chosen])
    )
    steep = ((b[1] - a[1]).abs() >= (b[0] - a[0]).abs()).detach()
    targets, changes = [], []
    for along, across, mine, length, lines in ((0, 1, steep, width, height), (1, 0, ~steep, height, width)):
        crossing = _crossings(a, b, third, mine, along, across, lines)
        if crossing is None:
            continue
        place, edge_depth, line, surface_is_before = crossing
        cell = (place.detach() - 0.5).floor().long()  # the crossing is between cell and cell + 1
        within = (cell >= 0) & (cell < length - 1)
        cell = cell.clamp(0, max(length - 2, 0))
        strides = (1, width) if along == 0 else (width, 1)
        before = cell * strides[0] + line * strides[1]
        after = (before + strides[0]).clamp(max=height * width - 1)
        near = torch.where(surface_is_before, before, after)
        far = torch.where(surface_is_before, after, before)
        # the outline is seen where it lies in front of what is behind it, and its surface too
        seen = within & (edge_depth < depth[far]) & (depth[near] < depth[far])
        covered = torch.where(surface_is_before, place - (cell + 0.5), cell + 1.5 - place)  # from near, 0..1
        kept = _outermost(covered.detach(), near * 2 + surface_is_before.long(), seen, 2 * height * width)
        covered, near, far = covered[kept], near[kept], far[kept]
        targets.append(torch.where(covered.detach() > 0.5, far, near))
        difference = flat.index_select(0, near) - flat.index_select(0, far)
        changes.append((covered - 0.5)[:, None] * difference)
    if targets:
        flat = flat.index_add(0, torch.cat(targets), torch.cat(changes))
    return flat.view(height, width, channels)


def _project(pos_clip: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Column and row in pixels, and z/w, of points in front of the camera."""
    x, y, z, w = pos_clip.unbind(1)
    return (x / w * 0.5 + 0.5) * width, (y / w * 0.5 + 0.5) * height, z / w


def _silhouette(pos_clip: Tensor, tri: Tensor, edges: Edges) -> Tensor:
    """Rows of edges that have faces on one side only, as seen from the camera."""
    in_front = pos_clip[:, 3] > MIN_W
    xy = pos_clip[:, :2] / torch.where(in_front, pos_clip[:, 3], 1)[:, None]
    a, b, c = (xy.index_select(0, tri[:, k]) for k in range(3))
    facing = ((b - a)[:, 0] * (c - a)[:, 1] - (c - a)[:, 0] * (b - a)[:, 1]).sign()
    facing = torch.where(in_front[tri].all(1), facing, 0)  # faces that are not drawn hide nothing
    outline = (edges.other < 0) | (facing[edges.face] * facing[edges.other.clamp(min=0)] <= 0)
    drawn = in_front[edges.ends].all(1) & in_front[edges.third]
    return (outline & drawn).nonzero()[:, 0]


def _crossings(
    a: tuple[Tensor, ...], b: tuple[Tensor, ...], third: tuple[Tensor, ...],
    mine: Tensor, along: int, across: int, lines: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:  # fmt: skip
    """Where edges cross lines of pixel centres: place (differentiable), depth, line, surface's side."""
    edge = mine.nonzero()[:, 0]
    with torch.no_grad():
        ends = torch.stack((a[across][edge], b[across][edge]), 1)
        # half-open, so that two edges that share a vertex do not both cross its line
        first = (ends.amin(1) - 0.5).ceil().clamp(0, lines).long()
        last = ((ends.amax(1) - 0.5).ceil() - 1).clamp(-1, lines - 1).long()
        count = (last - first + 1).clamp(min=0)
        rows = torch.repeat_interleave(torch.arange(len(edge), device=edge.device), count)
        if len(rows) == 0:
            return None
        line = first[rows] + torch.arange(len(rows), device=rows.device) - (count.cumsum(0) - count)[rows]
    e = edge[rows]
    start, slope = a[across].index_select(0, e), (b[across] - a[across]).index_select(0, e)
    t = (line + 0.5 - start) / slope
    place = a[along].index_select(0, e) + t * (b[along] - a[along]).index_select(0, e)
    with torch.no_grad():
        edge_depth = a[2][e] + t * (b[2] - a[2])[e]
        level = a[along][e] + (third[across][e] - start) / slope * (b[along] - a[along])[e]
        surface_is_before = third[along][e] < level
    return place, edge_depth, line, surface_is_before


def _outermost(covered: Tensor, pair: Tensor, seen: Tensor, pairs: int) -> Tensor:
    """Of the seen crossings between the same two pixels, the row of the one that covers most."""
    rows = seen.nonzero()[:, 0]
    most = covered.new_full((pairs,), -1.0).scatter_reduce_(0, pair[rows], covered[rows], "amax")
    rows = rows[covered[rows] == most[pair[rows]]]
    first = rows.new_full((pairs,), len(covered)).scatter_reduce_(0, pair[rows], rows, "amin")
    return rows[first[pair[rows]] == rows]
