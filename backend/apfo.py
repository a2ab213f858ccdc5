"""Approximate probability flow (APFO): Algorithm 1 of DreamFlow, and nothing else.

Two signs and factors of the paper contradict each other; we follow Eq. 12, the only one that moves
renders towards the data (docs/decisions.md, tests/diffusion/test_identities.py): Algorithm 1, line 9
swaps D_p and D_phi, and Eq. 13 multiplies by (t_{i+1} - t_i) a difference that is already the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from backend.diffusion.schedule import NoiseLevel
from backend.errors import NumericsError
from backend.scene.camera import Camera
from backend.scene.output import RenderOutput


class Denoiser(Protocol):
    def __call__(self, z: Tensor, level: NoiseLevel, camera: Camera) -> Tensor: ...


class Fitted(Denoiser, Protocol):
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


def target(x: Tensor, d_p: Tensor, d_phi: Tensor, level: NoiseLevel) -> Tensor:
    """x_hat [B,C,h,w], one Euler step of the probability flow (Eq. 12) for the renders x [B,C,h,w]."""
    return x + level.kappa * (d_p - d_phi)


def apfo(
    levels: Sequence[NoiseLevel],
    views: int,
    *,
    sample_camera: Callable[[], Camera],
    render: Callable[[Camera], RenderOutput],
    encode: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor] | None = None,
    prior: Denoiser,
    phi: Fitted | None,
    regularize: Callable[[RenderOutput, int], Tensor],
    optimizer: Optimizer,
    generator: Generator,
    start: int = 0,
) -> Iterator[Step]:
    """Walk over the levels, `views` updates at each, and yield after every update.

    `phi` None means D_phi(x) = x. `start` is the first iteration to do, for a run that goes on. The loss
    is divided by twice the mean of kappa, which keeps kappa's shape and makes learning rates and the
    regularisers' weights independent of the number of levels. Raises NumericsError at the first NaN or
    infinity (on a GPU, where looking means waiting, within 16 iterations).

    With `decode`, from latents to pictures, the loss is taken between pictures: x is the render itself and
    x_hat = x + kappa (decode(encode(x) + D_p - D_phi) - x), so no gradient passes through the encoder. It is
    for a prior whose encoder is too small to be trusted with gradients: pixels that only fool it would win.
    """
    scale = 0.5 * len(levels) / sum(level.kappa for level in levels)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for iteration in range(start, len(levels) * views):
        level = levels[iteration // views]  # sigma(t_1) > ... > sigma(t_N); l views amortise one level
        camera = sample_camera()  # c_j ~ C (line 5)
        out = render(camera)
        with torch.set_grad_enabled(decode is None):
            x = encode(out.image)  # x = g(theta, c_j), as latents
        if phi is not None:
            phi.fit(x.detach(), level, camera, generator)  # denoising score matching (line 7)
        picture = 2 * out.image - 1  # for `decode` alone
        with torch.no_grad():
            n = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            z = x + level.sigma * n  # one draw, shared by both (line 8)
            d_p = prior(z, level, camera)
            d_phi = x.detach() if phi is None else phi(z, level, camera)
            if decode is None:
                x_hat = target(x.detach(), d_p, d_phi, level)
            else:
                x_hat = target(picture, shrink(decode(x + d_p - d_phi), out.image), picture, level)
        loss = ((x if decode is None else picture) - x_hat).square().sum() / len(x)  # Eq. 13
        if x.device.type == "cpu" or iteration % 16 == 0:
            require_finite(iteration, render=x, D_p=d_p, D_phi=d_phi)
        optimizer.zero_grad(set_to_none=True)
        (scale * loss + regularize(out, iteration)).backward()
        gradient = gradient_norm(parameters)
        if x.device.type == "cpu" or iteration % 16 == 0:
            require_finite(iteration, gradient=gradient)
        optimizer.step()
        gap = (d_p - d_phi).norm() / (level.sigma * len(x) ** 0.5)
        yield Step(iteration, level, camera, out, loss.detach(), gap, gradient)


def shrink(image: Tensor, like: Tensor) -> Tensor:
    """[B,H,W,3] in [0,1] to [-1,1] at the size of `like` [B,h,w,3], by areas: priors enlarge small renders."""
    size = (like.shape[1], like.shape[2])
    return nn.functional.interpolate(2 * image.permute(0, 3, 1, 2) - 1, size, mode="area").permute(0, 2, 3, 1)


def gradient_norm(parameters: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm over all gradients, a scalar on the parameters' device; there is a parameter."""
    norms = [p.grad.norm() for p in parameters if p.grad is not None]
    return torch.stack(norms).norm() if norms else torch.zeros((), device=parameters[0].device)


def require_finite(iteration: int, **tensors: Tensor) -> None:
    """NumericsError naming the first tensor that holds a NaN or an infinity."""
    found = torch.stack([torch.isfinite(tensor).all() for tensor in tensors.values()])
    for name, finite in zip(tensors, found.tolist(), strict=True):  # one wait for all
        if not finite:
            raise NumericsError(
                f"iteration {iteration}: {name} holds a NaN or an infinity.",
                "Try another seed; with half precision, run the model in bfloat16 or float32.",
            )
