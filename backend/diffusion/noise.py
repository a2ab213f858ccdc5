"""The noise n of an update's z = x + sigma n: another each time, the same in each pixel, or fixed to the surface.

Each is N(0, 1) and independent from pixel to pixel of a view, as a denoiser was taught. They differ between views.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from backend.diffusion.control import DrawShape
from backend.scene.camera import Camera, rays

# n in the shape of the latents [B,C,h,w] of the camera's B views; the generator is the stage's
DrawNoise = Callable[[Tensor, Camera, Generator], Tensor]

FINER = 4  # points along a side of a latent pixel that look for the surface
# values on the surface; pieces of it that share one are told apart by the first pixel that sees either
PIECES = 2**20
PRIMES = (73856093, 19349663, 83492791)  # of the spatial hash (Teschner et al. 2003)


def fresh(latents: Tensor, camera: Camera, generator: Generator) -> Tensor:
    """Another at every update, as Algorithm 1 has it: views and levels share nothing."""
    return torch.randn(latents.shape, generator=generator, device=latents.device, dtype=latents.dtype)


@dataclass(frozen=True)
class Carried:
    """The same at every update of a stage: carried from level to level by the pixels, whatever they show."""

    seed: int

    def __call__(self, latents: Tensor, camera: Camera, generator: Generator) -> Tensor:
        """See DrawNoise; nothing is drawn from the stage's generator."""
        return fresh(latents, camera, Generator(latents.device).manual_seed(self.seed))


class OnSurface:
    """Fixed to the object, a simple form of the integral noise of How I Warped Your Noise (Chang et al. 2024).

    Space is cut into pieces of half a latent pixel, each with a value of N(0, 1) for good. A pixel's noise is the sum
    of the values that it sees, over the root of their number. A piece that several pixels see counts for the first
    alone, so that pixels share none: N(0, 1) and independent, exactly. Two views of one surface point correlate by the
    share of pieces that their pixels have in common. Pixels that see no surface have fresh noise.
    """

    def __init__(self, draw: DrawShape, channels: int, device: torch.device | str, seed: int) -> None:
        """draw: depths, see DrawShape; seed: of the values."""
        self._draw = draw
        self._values = torch.randn(
            PIECES, channels, generator=Generator(device).manual_seed(seed), device=device
        )

    @torch.no_grad()
    def __call__(self, latents: Tensor, camera: Camera, generator: Generator) -> Tensor:
        """See DrawNoise."""
        height, width = latents.shape[2:]
        fine = camera.resized(height * FINER, width * FINER)
        depth = self._draw(fine)[..., :1]
        origins, directions = rays(fine)
        along = -torch.einsum("bhwi,bi->bhw", directions, fine.c2w[:, :3, 2])[..., None]
        points = origins + directions * (depth / along)  # infinite where nothing is
        elsewhere = fresh(latents, camera, generator)
        seen = [
            self._view(p, d.isfinite()[..., 0], e) for p, d, e in zip(points, depth, elsewhere, strict=True)
        ]
        return torch.stack(seen)

    def _view(self, points: Tensor, found: Tensor, elsewhere: Tensor) -> Tensor:
        """[C,h,w] of points [H,W,3], where `found` [H,W] says that there is one; elsewhere [C,h,w]."""
        channels, height, width = elsewhere.shape
        cell = torch.floor(torch.where(found[..., None], points, 0) * (height * FINER / 2)).long()
        mixed = [cell[..., i] * prime for i, prime in enumerate(PRIMES)]
        piece = torch.bitwise_xor(torch.bitwise_xor(mixed[0], mixed[1]), mixed[2]) % PIECES
        index = torch.arange(height * width, device=points.device).view(height, width)
        pixel = index.repeat_interleave(FINER, 0).repeat_interleave(FINER, 1)
        nobody = height * width
        first = torch.full((PIECES,), nobody, device=points.device)
        first.scatter_reduce_(0, piece.flatten(), torch.where(found, pixel, nobody).flatten(), "amin")
        owned = (first < nobody).nonzero()[:, 0]
        values = F.pad(self._values[owned], (0, 1), value=1.0)  # the last counts them
        total = values.new_zeros(nobody, channels + 1).index_add_(0, first[owned], values)
        count = total[:, channels:].T.view(1, height, width)
        noise = total[:, :channels].T.view(channels, height, width) / count.clamp(min=1).sqrt()
        return torch.where(count > 0, noise.to(elsewhere), elsewhere)
