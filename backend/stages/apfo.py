"""Approximate probability flow (APFO): Algorithm 1 of DreamFlow, and nothing else.

Two signs and factors of the paper contradict each other; we follow Eq. 12, the only one that moves
renders towards the data (docs/decisions.md, tests/stages/test_identities.py): Algorithm 1, line 9
swaps D_p and D_phi, and Eq. 13 multiplies by (t_{i+1} - t_i) a difference that is already the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer

from backend.diffusion.noise import DrawNoise, fresh
from backend.diffusion.schedule import NoiseLevel
from backend.scene.camera import Camera, RenderOutput
from backend.scene.optimizer import gradient_norm, require_finite
from backend.stages.update import TargetSpace


class Denoiser(Protocol):
    """D(z) [B,C,h,w] for z = x + sigma n [B,C,h,w], one view of `camera` for each row."""

    def __call__(self, z: Tensor, level: NoiseLevel, camera: Camera) -> Tensor: ...


class FittedDenoiser(Denoiser, Protocol):
    """D_phi, which learns the renders x [B,C,h,w] by one step of denoising score matching."""

    def fit(self, x: Tensor, level: NoiseLevel, camera: Camera, generator: Generator) -> Tensor: ...


@dataclass(frozen=True)
class Step:
    """What one update did. The scalars stay on the device: reading them waits for it."""

    iteration: int  # counted from 0
    level: NoiseLevel
    camera: Camera
    output: RenderOutput
    loss: Tensor  # || x - x_hat ||^2, the mean over the batch
    gap: Tensor  # || eps_p - eps_phi ||, which unlike the loss does not shrink with the steps' length
    gradient: Tensor  # the norm over all parameters


def apfo(
    levels: Sequence[NoiseLevel],  # sigma(t_1) > ... > sigma(t_N)
    views: int,  # l, the updates at each level
    *,
    sample_camera: Callable[[], Camera],
    render: Callable[[Camera], RenderOutput],
    space: TargetSpace,
    prior: Denoiser,
    phi: FittedDenoiser | None,
    regularize: Callable[[RenderOutput, int], Tensor],
    optimizer: Optimizer,
    generator: Generator,
    start: int = 0,
    noise: DrawNoise = fresh,
) -> Iterator[Step]:
    """Go through the levels, `views` updates at each, and yield after every update.

    `phi` None means D_phi(x) = x. `start` is the first iteration to do, for a run that is resumed. The loss
    is divided by twice the mean of kappa, which keeps kappa's shape and makes learning rates and the
    regularisers' weights independent of the number of levels. Raises NumericsError at the first NaN or
    infinity, before it is stepped into (on a GPU, where looking means waiting, within 16 iterations).
    """
    scale = 0.5 * len(levels) / sum(level.kappa for level in levels)
    for iteration in range(start, len(levels) * views):  # lines 3 and 4: for i, for j
        level = levels[iteration // views]
        camera = sample_camera()  # line 5: c_j ~ C
        out = render(camera)
        x, latents = space.read(out.image)  # line 5: x = g(theta, c_j), and as the denoisers see it
        if phi is not None:
            phi.fit(latents, level, camera, generator)  # lines 6 and 7: with a noise of its own
        with torch.no_grad():
            z = latents + level.sigma * noise(latents, camera, generator)  # line 8: n', which both share
            d_p, d_phi = prior(z, level, camera), latents if phi is None else phi(z, level, camera)
            x_hat = space.target(x, latents, d_p, d_phi, level)  # lines 9 and 10
        loss = (x - x_hat).square().sum() / len(x)  # line 11, Eq. 13
        optimizer.zero_grad(set_to_none=True)
        (scale * loss + regularize(out, iteration)).backward()
        gradient = gradient_norm(optimizer)
        require_finite(iteration, render=latents, D_p=d_p, D_phi=d_phi, gradient=gradient)
        optimizer.step()  # line 11: theta
        gap = (d_p - d_phi).norm() / (level.sigma * len(x) ** 0.5)
        yield Step(iteration, level, camera, out, loss.detach(), gap, gradient)
