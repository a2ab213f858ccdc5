"""The methods that APFO is compared with, each as the noise levels that it walks over (docs/evidence.md).

Every one of them moves a render by x_hat - x = c (D_p(z) - D_phi(z)), so they run on APFO's own loop (apfo.py) and
differ in three things: how an iteration's level is drawn, the weight c, and whether D_phi is learnt or D_phi(x) = x.

With z = x + sigma n and eps = (z - D) / sigma, score distillation's gradient w (eps_p - n) is w (x - D_p) / sigma, and
VSD's w (eps_p - eps_phi) is w (D_phi - D_p) / sigma. Both papers take w = 1 - alpha_bar = sigma^2 / (1 + sigma^2), for
latents scaled as Stable Diffusion's: c = sqrt(alpha_bar (1 - alpha_bar)) = sigma / (1 + sigma^2) (`distillation_step`).
A level's kappa is 1 - sigma_next / sigma, so a weight c is a level that lands on sigma_next = (1 - c) sigma.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from random import Random

from torch import Generator, Tensor

from backend.config import StageSchedule
from backend.diffusion.schedule import NoiseLevel, noise_levels, sigma_at
from backend.draws import draw_on_host
from backend.scene.camera import Camera
from backend.stages.apfo import FittedDenoiser

LOWEST, HIGHEST = 20.0, 980.0  # timesteps that random methods draw from: 0.02 to 0.98, as DreamFusion has it
CENTRE, WIDTH = 500.0, 125.0  # of DreamTime's prior weight over timesteps


def walk(stage: StageSchedule, seed: int) -> tuple[list[NoiseLevel], int]:
    """The levels of a stage, and the views at each: one where the method draws a level for every update."""
    shared = stage.method in ("apfo", "sdedit")
    count, views = (stage.levels, stage.views) if shared else (stage.iterations, 1)
    levels = method_levels(stage.method, stage.start, stage.end, count, seed)
    return (constant_steps(levels) if stage.weight == "constant" else levels), views


def constant_steps(levels: Sequence[NoiseLevel]) -> list[NoiseLevel]:
    """The same levels, every one with the mean of their kappas."""
    mean = sum(level.kappa for level in levels) / len(levels)
    return [replace(level, sigma_next=(1 - mean) * level.sigma) for level in levels]


@dataclass(frozen=True)
class FittedAnywhere:
    """A D_phi that learns at a random level instead of the update's own, as ProlificDreamer's does."""

    phi: FittedDenoiser

    def fit(self, x: Tensor, level: NoiseLevel, camera: Camera, generator: Generator) -> Tensor:
        timestep = LOWEST + (HIGHEST - LOWEST) * draw_on_host(generator)
        return self.phi.fit(x, distillation_step(timestep), camera, generator)

    def __call__(self, z: Tensor, level: NoiseLevel, camera: Camera) -> Tensor:
        return self.phi(z, level, camera)


def method_levels(method: str, start: float, end: float, count: int, seed: int) -> list[NoiseLevel]:
    """The level of each of `count` iterations.

    method  apfo: falling from p = start to p = end, stepping to the next level (Eq. 12)
            sdedit: the same levels, and D_phi(x) = x (section 3.1: Phi = 1)
            sds: DreamFusion, random levels; in score form this is SJC (Wang et al. 2023)
            vsd: ProlificDreamer, random levels, D_phi learnt
            vsd-linear: VSD, timesteps falling linearly from 1 to 0 (the paper's section C)
            dreamtime: VSD, timesteps falling by DreamTime's weights (Huang et al. 2024, Eq. 8)
    seed    of the random levels

    Raises ValueError for another method.
    """
    if method in ("apfo", "sdedit"):
        return noise_levels(start, end, count)
    if method in ("sds", "vsd"):
        draw = Random(seed)  # Python's own: the same on every machine
        return [distillation_step(draw.uniform(LOWEST, HIGHEST)) for _ in range(count)]
    if method == "vsd-linear":
        return [distillation_step(999 * (1 - i / count)) for i in range(count)]
    if method == "dreamtime":
        return [distillation_step(t) for t in dreamtime_timesteps(count)]
    raise ValueError(f"unknown method {method!r}")


def distillation_step(timestep: float) -> NoiseLevel:
    """The level at a timestep in [0, 999] with kappa = sigma / (1 + sigma^2), which is at most a half."""
    sigma = sigma_at(timestep)
    return NoiseLevel(timestep, sigma, sigma * (1 - sigma / (1 + sigma**2)))


def dreamtime_timesteps(count: int) -> list[float]:
    """`count` timesteps that never rise: as many at each as its weight's share.

    W(t) = sqrt((1 - alpha_bar) / alpha_bar) exp(-(t - m)^2 / (2 s^2)), and iteration i takes the t for which the
    weights above t sum to i / count of all (Huang et al. 2024, Eqs. 6 to 8).
    """
    falling = range(999, -1, -1)
    weights = [sigma_at(t) * math.exp(-((t - CENTRE) ** 2) / (2 * WIDTH**2)) for t in falling]
    sums = list(accumulate(weights))
    return [float(falling[bisect_right(sums, sums[-1] * i / count)]) for i in range(count)]
