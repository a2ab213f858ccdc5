"""Ray marching in Warp: one source for the CPU and for CUDA, no compiler needed.

A thread follows one ray, first to count its samples and then, once it is known where they go, to write them.
The float32 operations are march.py's, one by one, so the samples are the same to the last bit. There is no
gradient: where a ray is sampled does not depend on what is learned.
"""

# A kernel's body is Warp's language, not Python's:
# mypy: disable-error-code="valid-type,type-var,assignment,arg-type,operator"

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backend.kernels import march as twin
from backend.kernels.march import Samples
from backend.kernels.warp_start import launch, wp

# No contraction into fused multiply-adds: they round differently from torch.
wp.set_module_options({"enable_backward": False, "fuse_fp": False})


@wp.func
def occupied(
    t: wp.float32, low: wp.vec3, slope: wp.vec3, occupancy: wp.array(dtype=wp.uint8), cells: wp.int32
) -> wp.bool:
    """Whether the cell at t holds something; t is inside the box, but for rounding."""
    x = wp.clamp(wp.int32(t * slope[0] + low[0]), 0, cells - 1)
    y = wp.clamp(wp.int32(t * slope[1] + low[1]), 0, cells - 1)
    z = wp.clamp(wp.int32(t * slope[2] + low[2]), 0, cells - 1)
    return occupancy[(x * cells + y) * cells + z] != wp.uint8(0)


@wp.kernel
def _count(
    start: wp.array(dtype=wp.float32),
    end: wp.array(dtype=wp.float32),
    low: wp.array(dtype=wp.vec3),
    slope: wp.array(dtype=wp.vec3),
    jitter: wp.array2d(dtype=wp.float32),
    occupancy: wp.array(dtype=wp.uint8),
    cells: wp.int32,
    n_samples: wp.int32,
    step: wp.float32,
    counts: wp.array(dtype=wp.int64),
    begins: wp.array(dtype=wp.int32),
) -> None:
    ray = wp.tid()
    near = start[ray]
    far = end[ray]
    a = low[ray]
    b = slope[ray]
    found = wp.int64(0)
    for k in range(n_samples):
        t = near + (wp.float32(k) + jitter[ray, k]) * step
        if not t < far:  # nor will any later one be; NaN ends here, too
            break
        if occupied(t, a, b, occupancy, cells):
            found += wp.int64(1)
            if found == wp.int64(1):
                begins[ray] = k
    counts[ray] = found


@wp.kernel
def _write(
    start: wp.array(dtype=wp.float32),
    end: wp.array(dtype=wp.float32),
    low: wp.array(dtype=wp.vec3),
    slope: wp.array(dtype=wp.vec3),
    jitter: wp.array2d(dtype=wp.float32),
    occupancy: wp.array(dtype=wp.uint8),
    cells: wp.int32,
    n_samples: wp.int32,
    step: wp.float32,
    begins: wp.array(dtype=wp.int32),
    ends: wp.array(dtype=wp.int64),
    first_ray: wp.int64,
    rays: wp.array(dtype=wp.int64),
    ts: wp.array(dtype=wp.float32),
) -> None:
    ray = wp.tid()
    near = start[ray]
    a = low[ray]
    b = slope[ray]
    at = wp.int32(0)
    if ray > 0:
        at = wp.int32(ends[ray - 1])
    last = wp.int32(ends[ray])
    k = begins[ray]
    while at < last:  # as many as were counted, so k stays below n_samples
        t = near + (wp.float32(k) + jitter[ray, k]) * step
        if occupied(t, a, b, occupancy, cells):
            rays[at] = first_ray + wp.int64(ray)
            ts[at] = t
            at += 1
        k += 1


@torch.no_grad()
def march(
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor,
    half: float,
    near: float,
    n_samples: int,
    generator: torch.Generator | None = None,
    budget: int | None = None,
) -> Samples:
    """As march.march, on the CPU or a CUDA device; float32 only."""
    step, cells, device = twin.step_length(half, n_samples), len(occupancy), origins.device
    along = [row.contiguous() for row in twin.in_cells(origins, directions, half, near, cells)]
    grid = occupancy.reshape(-1).view(torch.uint8)
    pieces = []
    for first, jitter in twin.chunks(origins, n_samples, generator):
        rows = len(jitter)
        start, end, low, slope = (row[first : first + rows] for row in along)
        inputs = [
            _array(start), _array(end), _array(low, wp.vec3), _array(slope, wp.vec3), _array(jitter),
            _array(grid), cells, n_samples, step,
        ]  # fmt: skip
        counts = torch.zeros(rows, dtype=torch.int64, device=device)
        begins = torch.zeros(rows, dtype=torch.int32, device=device)
        launch(_count, rows, [*inputs, _array(counts), _array(begins)], device)
        pieces.append((first, jitter, inputs, begins, counts))  # the descriptors do not keep jitter alive
    totals = torch.stack([counts.sum() for *_, counts in pieces]).tolist()  # one wait for all
    parts = []
    for (first, _, inputs, begins, counts), total in zip(pieces, totals, strict=True):
        ends = counts.cumsum(0)
        ray = torch.empty(total, dtype=torch.int64, device=device)
        t = torch.empty(total, dtype=torch.float32, device=device)
        if total:
            outputs = [_array(begins), _array(ends), first, _array(ray), _array(t)]
            launch(_write, len(counts), [*inputs, *outputs], device)
        parts.append((ray, t))
    ray, t = parts[0] if len(parts) == 1 else (torch.cat(column) for column in zip(*parts, strict=True))
    return twin.thinned(ray, t, step, budget, len(origins))


def _array(tensor: Tensor, dtype: Any = None) -> Any:
    """For one launch: a bare descriptor, cheaper to make than a wp.array. It does not keep the tensor alive."""
    return wp.from_torch(tensor, dtype=dtype, return_ctype=True)
