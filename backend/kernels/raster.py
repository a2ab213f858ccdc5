"""Rasterisation in plain torch: which triangle covers each pixel, and what it shows there.

Only `rasterize_ids` has faster siblings (raster_warp, raster_nvdiffrast). It needs no gradient:
barycentric coordinates are recomputed from the ids, differentiably, for covered pixels only.

Clip space has y down, so row 0 is the top of the image; z/w is in [-1,1]. There is no culling and no
clipping at the near plane: a triangle with a corner at w <= 1e-6 is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MIN_W = 1e-6  # a corner nearer than this to the camera's plane drops its triangle
SUBPIXEL = 4096  # corners are snapped to this fraction of a pixel: integer edges leave no cracks
FARTHEST = float(2**29)  # corners are held within 2^17 pixels, so that edge functions fit in 64 bits
DEPTH_STEPS = 2.0**29  # of z/w per unit, finer than float32 resolves next to 1
EMPTY = 2**63 - 1  # the key of a pixel without a triangle
CHUNK = 1 << 19  # candidate fragments at a time; about 60 bytes each


@dataclass(frozen=True)
class Fragments:
    """The P covered pixels of one image.

    pixel  [P] int64, row * width + column, ascending
    face   [P] int64
    bary   [P,3] perspective-correct weights of the face's corners, sum 1
    depth  [P] z/w in [-1,1], smaller is nearer
    """

    pixel: Tensor
    face: Tensor
    bary: Tensor
    depth: Tensor
    height: int
    width: int


def snap(pos_clip: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Corners on the screen: [V,2] int32 in 1/SUBPIXEL pixels, and z/w [V] float32.

    The depth of a corner that cannot be drawn is NaN: no comparison with it holds, so its triangles
    have no fragments.
    """
    w = pos_clip[:, 3:]
    drawable = (w[:, 0] > MIN_W) & pos_clip.isfinite().all(1)
    ndc = torch.where(drawable[:, None], pos_clip[:, :3], 0) / torch.where(drawable[:, None], w, 1)
    # by numbers: a tensor of both would be copied to a card, and waited for
    x, y = (ndc[:, :2] * 0.5 + 0.5).unbind(1)
    screen = (torch.stack((x * width, y * height), 1) * SUBPIXEL + 0.5).floor()
    return (
        screen.clamp(-FARTHEST, FARTHEST).to(torch.int32),
        torch.where(drawable, ndc[:, 2].float(), torch.nan),
    )


def ids_of_keys(keys: Tensor, height: int, width: int) -> Tensor:
    """[H*W] int64 depth << 32 | face, to [H,W] int32 with -1 where no triangle is."""
    return torch.where(keys == EMPTY, -1, keys & 0xFFFFFFFF).to(torch.int32).view(height, width)


@torch.no_grad()
def rasterize_ids(pos_clip: Tensor, tri: Tensor, height: int, width: int) -> Tensor:
    """The nearest triangle at each pixel's centre; ties go to the smaller index.

    pos_clip  [V,4] float, clip space, y down
    tri       [F,3] int32 or int64, rows of pos_clip

    Returns [H,W] int32, -1 for background. Deterministic. No gradient.
    """
    if pos_clip.device.type == "mps":  # lacks 64-bit scatter_reduce
        return rasterize_ids(pos_clip.cpu(), tri.cpu(), height, width).to(pos_clip.device)
    device = pos_clip.device
    keys = torch.full((height * width,), EMPTY, dtype=torch.int64, device=device)
    screen, z = snap(pos_clip, height, width)
    tri = tri.long()
    corners = screen[tri].long()  # F 3 2
    # the first and last pixel centre within the bounding box
    first = (corners.amin(1) + (SUBPIXEL // 2 - 1)).div(SUBPIXEL, rounding_mode="floor").clamp(min=0)
    last = (corners.amax(1) - SUBPIXEL // 2).div(SUBPIXEL, rounding_mode="floor")
    last = torch.minimum(last, torch.tensor((width - 1, height - 1), device=device))
    extent = (last - first + 1).clamp(min=0)
    (ax, ay), (bx, by), (cx, cy) = (c.unbind(1) for c in corners.unbind(1))
    area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
    face = ((extent.prod(1) > 0) & (area != 0) & z[tri].isfinite().all(1)).nonzero()[:, 0]
    if len(face) == 0:
        return ids_of_keys(keys, height, width)

    # edge functions e = p*i + q*j + r at pixel (i, j), positive inside whatever the winding
    sign = area.sign()
    p0, q0, r0 = (by - cy) * sign, (cx - bx) * sign, (bx * cy - cx * by) * sign
    p1, q1, r1 = (cy - ay) * sign, (ax - cx) * sign, (cx * ay - ax * cy) * sign
    half = SUBPIXEL // 2
    linear = torch.stack(
        (p0 * SUBPIXEL, q0 * SUBPIXEL, r0 + (p0 + q0) * half, p1 * SUBPIXEL, q1 * SUBPIXEL,
         r1 + (p1 + q1) * half, area.abs(), *first.unbind(1), extent[:, 0]), 1
    )[face]  # fmt: skip
    z = z[tri[face]]  # T 3
    ends = extent[face].prod(1).cumsum(0)
    total = int(ends[-1])
    starts = torch.cat((ends.new_zeros(1), ends[:-1]))
    for begin in range(0, total, CHUNK):
        end = min(begin + CHUNK, total)
        t0, t1 = (int(i) for i in torch.searchsorted(ends, ends.new_tensor((begin, end - 1)), right=True))
        count = ends[t0 : t1 + 1].clamp(max=end) - starts[t0 : t1 + 1].clamp(min=begin)
        t = torch.repeat_interleave(torch.arange(t0, t1 + 1, device=device), count, output_size=end - begin)
        place = torch.arange(begin, end, device=device) - starts[t]
        p0, q0, r0, p1, q1, r1, twice_area, i0, j0, columns = linear.index_select(0, t).unbind(1)
        row = place.div(columns, rounding_mode="floor")
        i, j = i0 + place - row * columns, j0 + row
        e0, e1 = p0 * i + q0 * j + r0, p1 * i + q1 * j + r1
        inside = ((e0 >= 0) & (e1 >= 0) & (e0 + e1 <= twice_area)).nonzero()[:, 0]
        t, e0, e1, twice_area = (v.index_select(0, inside) for v in (t, e0, e1, twice_area))
        e0, e1, scale = e0.float(), e1.float(), twice_area.float()
        za, zb, zc = z.index_select(0, t).unbind(1)
        depth = zc + (e0 / scale * (za - zc) + e1 / scale * (zb - zc))
        seen = ((depth >= -1) & (depth <= 1)).nonzero()[:, 0]
        steps = 2**30 - ((1 - depth[seen]) * DEPTH_STEPS).long()
        pixel = (j[inside] * width + i[inside])[seen]
        keys.scatter_reduce_(0, pixel, (steps << 32) + face[t[seen]], "amin")
    return ids_of_keys(keys, height, width)


def _corners(vertices: Tensor, tri: Tensor, face: Tensor) -> Tensor:
    """[P,3,C] rows of vertices; index_select's gradient is deterministic on the CPU, and fast."""
    return vertices.index_select(0, tri.index_select(0, face).reshape(-1).long()).view(
        len(face), 3, vertices.shape[1]
    )


def fragments(pos_clip: Tensor, tri: Tensor, ids: Tensor) -> Fragments:
    """Where and how the triangles in ids [H,W] are seen; differentiable in pos_clip [V,4].

    With q_i = p_i.xy - ndc * w_i, the weights are proportional to cross(q_j, q_k): zero screen area
    or a division by w never enters.
    """
    height, width = ids.shape
    flat = ids.reshape(-1)
    pixel = (flat >= 0).nonzero()[:, 0]
    face = flat[pixel].long()
    x = (pixel % width + 0.5).to(pos_clip.dtype) / width * 2 - 1
    y = (pixel.div(width, rounding_mode="floor") + 0.5).to(pos_clip.dtype) / height * 2 - 1
    corners = _corners(pos_clip, tri, face)
    px, py, pz, pw = corners.unbind(-1)
    qx, qy = px - x[:, None] * pw, py - y[:, None] * pw
    weight = torch.stack(
        (
            qx[:, 1] * qy[:, 2] - qx[:, 2] * qy[:, 1],
            qx[:, 2] * qy[:, 0] - qx[:, 0] * qy[:, 2],
            qx[:, 0] * qy[:, 1] - qx[:, 1] * qy[:, 0],
        ),
        1,
    )
    edge_on = weight.detach().sum(1, keepdim=True) == 0
    weight = torch.where(edge_on, 1, weight)
    # Snapping can give a pixel to a triangle that ends 1/8192 pixel before it (nvdiffrast: 1/32); clamp
    # rather than extrapolate, which would leave the surface where a triangle is seen nearly edge-on.
    weight = (weight / weight.sum(1, keepdim=True)).clamp(0, 1)
    bary = weight / weight.sum(1, keepdim=True)
    depth = (bary * pz).sum(1) / (bary * pw).sum(1)
    return Fragments(pixel, face, bary, depth, height, width)


def interpolate(attribute: Tensor, tri: Tensor, frags: Fragments) -> Tensor:
    """[P,C] values of a vertex attribute [V,C]; differentiable in it and in frags.bary."""
    return (_corners(attribute, tri, frags.face) * frags.bary[:, :, None]).sum(1)


def scatter(values: Tensor, frags: Fragments, background: Tensor | float) -> Tensor:
    """[H,W,C] image: values [P,C] on covered pixels over background, a number or [H*W,C]."""
    size = (frags.height * frags.width, values.shape[1])
    canvas = background if isinstance(background, Tensor) else values.new_full(size, background)
    image = canvas.reshape(size).index_copy(0, frags.pixel, values)
    return image.view(frags.height, frags.width, -1)


def depth_image(frags: Fragments) -> Tensor:
    """[H,W] z/w, infinite where nothing is; detached."""
    return scatter(frags.depth.detach()[:, None], frags, torch.inf)[:, :, 0]
