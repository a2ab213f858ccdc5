"""The update of a render: x, its target x_hat by the signed difference D_p - D_phi, in latents or in pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from backend.diffusion.schedule import NoiseLevel


class TargetSpace(Protocol):
    """Reads a render, and says where it should move."""

    def read(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """x with its gradient, and its latents [B,C,h,w] without one, of the render `image` [B,H,W,3] in [0,1]."""

    def target(self, x: Tensor, latents: Tensor, d_p: Tensor, d_phi: Tensor, level: NoiseLevel) -> Tensor:
        """x_hat, in the shape of x, from what the denoisers [B,C,h,w] say."""


def euler_step(x: Tensor, d_p: Tensor, d_phi: Tensor, level: NoiseLevel) -> Tensor:
    """x_hat, one Euler step of the probability flow from x (Eq. 12); all in one shape."""
    return x + level.kappa * (d_p - d_phi)


@dataclass(frozen=True)
class LatentSpace:
    """A TargetSpace: x is the render's latents [B,C,h,w]; gradients pass through the encoder."""

    encode: Callable[[Tensor], Tensor]  # [B,H,W,3] in [0,1] to [B,C,h,w]

    def read(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.encode(image)
        return x, x.detach()

    def target(self, x: Tensor, latents: Tensor, d_p: Tensor, d_phi: Tensor, level: NoiseLevel) -> Tensor:
        return euler_step(latents, d_p, d_phi, level)


@dataclass(frozen=True)
class PictureSpace:
    """A TargetSpace: x is the render itself, [B,H,W,3] in [-1,1].

    x_hat = x + kappa (decode(latents + D_p - D_phi) - x). No gradient passes through the encoder. It is for a
    prior whose encoder is too small to be trusted with gradients: pixels that only fool it would win.
    """

    encode: Callable[[Tensor], Tensor]  # [B,H,W,3] in [0,1] to [B,C,h,w]
    decode: Callable[[Tensor], Tensor]  # and back, at the size of the prior's pictures

    def read(self, image: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            latents = self.encode(image)
        return 2 * image - 1, latents

    def target(self, x: Tensor, latents: Tensor, d_p: Tensor, d_phi: Tensor, level: NoiseLevel) -> Tensor:
        picture = x.detach()
        return euler_step(picture, shrink(self.decode(latents + d_p - d_phi), picture), picture, level)


def shrink(image: Tensor, like: Tensor) -> Tensor:
    """[B,H,W,3] in [0,1] to [-1,1] at the size of `like` [B,h,w,3], by areas: priors enlarge small renders."""
    size = (like.shape[1], like.shape[2])
    return nn.functional.interpolate(2 * image.permute(0, 3, 1, 2) - 1, size, mode="area").permute(0, 2, 3, 1)
