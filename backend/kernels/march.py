"""Ray marching through an occupancy grid and volume rendering of the packed samples, in plain torch.

Samples of all rays are in one list, sorted by ray: with 5 % of the box occupied that is 20 times less to
do than a full [rays, samples] array. march_warp.py has the same march as a kernel; compositing has none, it is
two segmented sums over what was kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK = 2**21  # candidate samples looked at in one go, to bound the memory of a large preview


@dataclass(frozen=True)
class Samples:
    """S points on R rays, ordered by ray and then by distance.

    ray  [S] int64, sorted
    t    [S] float32, distance from the ray's origin (directions are unit vectors), metres
    dt   [S] float32, length that a sample stands for, metres
    n_rays  R
    """

    ray: Tensor
    t: Tensor
    dt: Tensor
    n_rays: int

    def points(self, origins: Tensor, directions: Tensor) -> Tensor:
        """[S,3], of the rays that were marched."""
        return origins[self.ray] + self.t[:, None] * directions[self.ray]


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
    """Samples in occupied cells of the box [-half, half]^3.

    origins, directions  [R,3]; directions are unit vectors
    occupancy  [G,G,G] bool, indexed x, y, z
    near       metres from the origin before which nothing is sampled
    n_samples  steps along the box's diagonal: a step is 2 sqrt(3) half / n_samples for every ray
    generator  jitters each sample within its step; None takes the middle
    budget     the most samples returned: beyond it they are thinned evenly and lengthened to match

    A ray's steps start where it enters the box (or at `near`), occupied or not.
    """
    step = step_length(half, n_samples)
    start, end, low, slope = in_cells(origins, directions, half, near, len(occupancy))
    cells, occupied = len(occupancy), occupancy.reshape(-1)
    parts = []
    for first, jitter in chunks(origins, n_samples, generator):
        chunk = slice(first, first + len(jitter))
        offset = torch.arange(n_samples, device=origins.device, dtype=origins.dtype)
        t = start[chunk, None] + (offset + jitter) * step
        # the dense arithmetic is five times cheaper than gathering rays for the steps in the box
        cell = torch.zeros_like(t, dtype=torch.int32)
        for axis in range(3):
            # two operations, for two roundings: torch fuses addcmul on some machines and not on others
            here = (t * slope[chunk, axis, None]).add_(low[chunk, axis, None])
            cell = cell.mul_(cells).add_(here.to(torch.int32).clamp_(0, cells - 1))
        kept = occupied.index_select(0, cell.view(-1)).view_as(t) & (t < end[chunk, None])
        ray, k = kept.nonzero(as_tuple=True)
        parts.append((ray + first, t[ray, k]))
    ray, t = (torch.cat(column) for column in zip(*parts, strict=True))
    return thinned(ray, t, step, budget, len(origins))


def step_length(half: float, n_samples: int) -> float:
    """Metres between two samples of a ray: the box's diagonal holds n_samples."""
    return 2 * 3**0.5 * half / n_samples


def chunks(
    origins: Tensor, n_samples: int, generator: torch.Generator | None
) -> Iterator[tuple[int, Tensor]]:
    """The rays in pieces of CHUNK candidates: the first ray, and where in its step each of their samples is,
    [rows, n_samples] in [0,1). Pieces belong to the result: on a card they decide what the generator gives."""
    rows = max(1, CHUNK // n_samples)
    for first in range(0, max(len(origins), 1), rows):
        shape = (len(origins[first : first + rows]), n_samples)
        if generator is None:
            yield first, torch.full((1, 1), 0.5, device=origins.device, dtype=origins.dtype).expand(shape)
        else:
            jitter = torch.rand(shape, generator=generator, device=generator.device, dtype=origins.dtype)
            yield first, jitter.to(origins.device)


def in_cells(
    origins: Tensor, directions: Tensor, half: float, near: float, cells: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """start [R] and end [R] of each ray's way through the box beyond `near`, in metres, and low [R,3] and
    slope [R,3]: low + t slope is where it is at t, in cells."""
    start, end = _enter_and_leave(origins, directions, half)
    low, slope = (origins / half + 1) * (cells / 2), directions * (cells / 2 / half)
    return start.clamp(min=near), end, low, slope


def thinned(ray: Tensor, t: Tensor, step: float, budget: int | None, n_rays: int) -> Samples:
    """The samples, or where there are more than `budget`, every k-th of them, k times as long."""
    if budget is not None and len(ray) > budget:
        kept = torch.arange(budget, device=ray.device) * len(ray) // budget
        step *= len(ray) / budget
        ray, t = ray[kept], t[kept]
    return Samples(ray, t, torch.full_like(t, step), n_rays)


def composite(density: Tensor, values: Tensor, samples: Samples) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Emission-absorption sums along each ray (Max 1995; NeRF, Eq. 3).

    density  [S] per metre, >= 0; values [S,C]
    returns  opacity [R,1]; sum of weight * value [R,C]; sum of weight * t [R,1]; weights [S].
    Nothing is divided by the opacity and no background is added; a ray without samples gives zeros.
    """
    depth_of = density * samples.dt
    transmittance = torch.exp(-_Before.apply(depth_of, *_ends(samples.ray, samples.n_rays), False))
    weights = -torch.expm1(-depth_of) * transmittance
    t = samples.t[:, None].to(values.dtype)
    columns = torch.cat((torch.ones_like(t), t, values), 1)
    total = values.new_zeros(samples.n_rays, columns.shape[1])
    total = total.index_add(0, samples.ray, weights[:, None] * columns)
    return total[:, :1], total[:, 2:], total[:, 1:2], weights


class _Before(torch.autograd.Function):
    """Sum of the samples in front of each on its ray (behind each, if `behind`); linear.

    One running sum over all rays, minus what stood at the ray's start: float64, or the difference of two
    large numbers would be all that a late ray gets (MPS has no float64 and takes float32).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, first: Tensor, last: Tensor, behind: bool) -> Tensor:
        ctx.save_for_backward(first, last)
        ctx.behind = behind
        running = x if x.device.type == "mps" else x.double()
        upto = running.cumsum(0)
        total = upto[last] - upto if behind else (upto - running) - (upto - running)[first]
        return total.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        first, last = ctx.saved_tensors
        return _Before.apply(g, first, last, not ctx.behind), None, None, None


def _ends(ray: Tensor, n_rays: int) -> tuple[Tensor, Tensor]:
    """Of each sample, the position of its ray's first and last sample in the list, [S] each."""
    count = ray.new_zeros(n_rays).index_add(0, ray, torch.ones_like(ray))  # of integers: exact in any order
    last = count.cumsum(0)
    return (last - count)[ray], (last - 1)[ray]


def _enter_and_leave(origins: Tensor, directions: Tensor, half: float) -> tuple[Tensor, Tensor]:
    """Distances [R] at which each ray enters and leaves the box; enter >= leave where it misses."""
    # a component of exactly 0 would give 0 * inf = NaN on a face; 1e-12 keeps slabs either all or nothing
    safe = torch.where(directions.abs() < 1e-12, torch.full_like(directions, 1e-12), directions)
    a, b = (-half - origins) / safe, (half - origins) / safe
    return torch.minimum(a, b).amax(1), torch.maximum(a, b).amin(1)
