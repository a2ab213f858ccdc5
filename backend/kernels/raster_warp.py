"""Rasterisation in Warp: one source for the CPU and for CUDA, no compiler needed.

A thread draws one triangle, with the same integers and the same float32 operations as raster.py, so
the ids are the same to the last pixel. A triangle that fills the screen keeps one thread busy.
"""

# A kernel's body is Warp's language, not Python's:
# mypy: disable-error-code="valid-type,type-var,assignment,arg-type"

from __future__ import annotations

import torch
from torch import Tensor

from backend.kernels import raster
from backend.kernels.warp_start import launch, wp

# No contraction into fused multiply-adds: they round differently from torch.
wp.set_module_options({"enable_backward": False, "fuse_fp": False})

HALF = wp.constant(wp.int64(raster.SUBPIXEL // 2))
WHOLE = wp.constant(wp.int64(raster.SUBPIXEL))
DEPTH_STEPS = wp.constant(raster.DEPTH_STEPS)


@wp.kernel
def _draw(
    screen: wp.array2d(dtype=wp.int32),
    z: wp.array(dtype=wp.float32),
    tri: wp.array2d(dtype=wp.int32),
    height: wp.int32,
    width: wp.int32,
    keys: wp.array(dtype=wp.int64),
) -> None:
    face = wp.tid()
    a = tri[face, 0]
    b = tri[face, 1]
    c = tri[face, 2]
    if wp.isnan(z[a]) or wp.isnan(z[b]) or wp.isnan(z[c]):
        return
    ax = wp.int64(screen[a, 0])
    ay = wp.int64(screen[a, 1])
    bx = wp.int64(screen[b, 0])
    by = wp.int64(screen[b, 1])
    cx = wp.int64(screen[c, 0])
    cy = wp.int64(screen[c, 1])
    area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
    if area == wp.int64(0):
        return
    sign = wp.int64(1)
    if area < wp.int64(0):
        sign = wp.int64(-1)
        area = -area
    # 12 = log2(SUBPIXEL); an arithmetic shift rounds down
    shift = wp.int64(12)
    low_i = wp.int32((wp.min(ax, wp.min(bx, cx)) + HALF - wp.int64(1)) >> shift)
    low_j = wp.int32((wp.min(ay, wp.min(by, cy)) + HALF - wp.int64(1)) >> shift)
    high_i = wp.int32((wp.max(ax, wp.max(bx, cx)) - HALF) >> shift)
    high_j = wp.int32((wp.max(ay, wp.max(by, cy)) - HALF) >> shift)
    low_i = wp.max(low_i, 0)
    low_j = wp.max(low_j, 0)
    high_i = wp.min(high_i, width - 1)
    high_j = wp.min(high_j, height - 1)
    p0 = (by - cy) * sign
    q0 = (cx - bx) * sign
    r0 = (bx * cy - cx * by) * sign
    p1 = (cy - ay) * sign
    q1 = (ax - cx) * sign
    r1 = (cx * ay - ax * cy) * sign
    scale = wp.float32(area)
    za = z[a] - z[c]
    zb = z[b] - z[c]
    j = low_j
    while j <= high_j:
        y = wp.int64(j) * WHOLE + HALF
        x = wp.int64(low_i) * WHOLE + HALF
        e0 = p0 * x + q0 * y + r0
        e1 = p1 * x + q1 * y + r1
        i = low_i
        while i <= high_i:
            if e0 >= wp.int64(0) and e1 >= wp.int64(0) and e0 + e1 <= area:
                depth = z[c] + (wp.float32(e0) / scale * za + wp.float32(e1) / scale * zb)
                if depth >= -1.0 and depth <= 1.0:
                    steps = wp.int64(1073741824) - wp.int64((1.0 - depth) * DEPTH_STEPS)
                    wp.atomic_min(keys, j * width + i, steps * wp.int64(4294967296) + wp.int64(face))
            e0 += p0 * WHOLE
            e1 += p1 * WHOLE
            i += 1
        j += 1


@torch.no_grad()
def rasterize_ids(pos_clip: Tensor, tri: Tensor, height: int, width: int) -> Tensor:
    """As raster.rasterize_ids, on the CPU or a CUDA device."""
    screen, z = raster.snap(pos_clip, height, width)
    tri = tri.to(torch.int32).contiguous()
    keys = torch.full((height * width,), raster.EMPTY, dtype=torch.int64, device=pos_clip.device)
    if len(tri):
        arrays = [wp.from_torch(tensor) for tensor in (screen, z, tri, keys)]
        launch(_draw, len(tri), [*arrays[:3], height, width, arrays[3]], pos_clip.device)
    return raster.ids_of_keys(keys, height, width)
