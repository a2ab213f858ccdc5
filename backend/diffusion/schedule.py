"""Noise levels: which timesteps a stage walks over, and their sigmas (variance-exploding variables).

Stable Diffusion's table is scaled_linear, betas 0.00085 to 0.012, 1000 steps. p in [0, 1], the paper's
t, is the timestep min(999, 1000 p). A schedule is M explicit, decreasing timesteps and M + 1 sigmas:
the last sigma is where it lands. `set_timesteps` of a scheduler is never used: with "leading" spacing,
800 steps start at timestep 800.
"""

from __future__ import annotations

import math
from bisect import bisect
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseLevel:
    """One step of the walk: from sigma to sigma_next, with the network given `timestep`."""

    timestep: float
    sigma: float
    sigma_next: float

    @property
    def kappa(self) -> float:
        """1 - sigma_{i+1} / sigma_i, the step's length along D_p - D_phi (Eq. 12)."""
        return 1 - self.sigma_next / self.sigma


@lru_cache(maxsize=1)
def sigma_table() -> Tensor:
    """[1000] float64, sigma at integer timesteps."""
    return torch.tensor(_sigmas(), dtype=torch.float64)


@lru_cache(maxsize=1)
def _sigmas() -> tuple[float, ...]:
    """In Python's own arithmetic, which is the same on every processor; torch fuses operations on some."""
    first, last = math.sqrt(0.00085), math.sqrt(0.012)
    found, alpha = [], 1.0
    for i in range(1000):
        alpha *= 1 - (first + (last - first) * i / 999) ** 2
        found.append(math.sqrt((1 - alpha) / alpha))
    return tuple(found)


def sigma_at(timestep: float) -> float:
    """sigma of a timestep in [0, 999]; linear in t between integers.

    Raises ValueError outside the table.
    """
    if not 0 <= timestep <= 999:
        raise ValueError(f"a timestep is in [0, 999], got {timestep}")
    low = min(int(timestep), 998)
    here, there = _sigmas()[low : low + 2]
    return here + (there - here) * (timestep - low)


def shifted_timestep(sigma: float, shift: float) -> float:
    """The timestep in [0, 999] of a network whose t was trained at sigma_at(t) sqrt(shift)^(t / 999): MV-Adapter's
    "interpolated" shift of the ratio of signal to noise."""
    table: list[float] = [here * shift ** (t / 1998) for t, here in enumerate(_sigmas())]
    high = min(max(bisect(table, sigma), 1), 999)
    here, there = table[high - 1 : high + 1]
    return min(max(high - 1 + (sigma - here) / (there - here), 0.0), 999.0)


def noise_levels(start: float, end: float, count: int) -> list[NoiseLevel]:
    """`count` equally spaced levels from p = start that land on p = end (0 means sigma = 0).

    The paper's schedules are noise_levels(1.0, 0.199, 800) for nerf (999, 998 .. 200, landing on 199),
    (0.8, 0.4, 1000) for geometry, (0.5, 0.1, 400) for texture, (0.3, 0.0, 30) for refine.
    Raises ValueError unless 1 >= start > end >= 0 and count >= 1.
    """
    if not 1 >= start > end >= 0 or count < 1:
        raise ValueError(
            f"a schedule needs 1 >= start > end >= 0 and count >= 1, got {start}, {end}, {count}"
        )
    first, last = min(999.0, 1000 * start), 1000 * end
    timesteps = [first + (last - first) * i / count for i in range(count)]
    sigmas = [sigma_at(t) for t in timesteps] + [sigma_at(last) if end > 0 else 0.0]
    return [NoiseLevel(*row) for row in zip(timesteps, sigmas, sigmas[1:], strict=False)]
