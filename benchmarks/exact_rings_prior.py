"""The exact denoiser of a known object's rings: what four views that are denoised together know that one does not.

As exact_prior.py, but it is conditioned on nothing, neither a word nor a camera. Its data are rings, each of `frames`
pictures of one object before one background; a ring may begin with any of its frames. For rings X_i, D(Z; sigma) is the
mean of X_i under softmax_i(-||Z - X_i||^2 / (2 sigma^2)), the norms over all frames: the optimal denoiser of that set.
With frames = 1 it is the optimal denoiser of single views, which is the control.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from backend.diffusion.schedule import NoiseLevel
from backend.objects.exact_prior import (
    BATCH,
    COUNT,
    EDGE,
    TRACED,
    Bank,
    ExactPrior,
)
from backend.objects.shapes import Shape
from backend.objects.sphere_trace import GBuffer, coarser, gbuffer
from backend.scene.camera import Camera, rings_of


class ExactRings(ExactPrior):
    """Fulfils `prior.Prior`; as many pictures as the exact prior has, in rings of `frames`."""

    def __init__(self, device: torch.device, frames: int, views: int = COUNT) -> None:
        super().__init__(device, views // frames)
        self.spec = replace(self.spec, frames=frames)
        self.name = f"exact-rings-{frames}"

    def _traced(self, shape: Shape, size: int) -> tuple[list[GBuffer], Camera]:
        """See ExactPrior; ring by ring instead of word by word."""
        traced = max(size, TRACED // size * size)
        if self._buffers is None or self._buffers[0] != shape.kind or self._buffers[2].height != traced:
            every = torch.arange(len(self.poses), device=self._device)
            camera = rings_of(self.poses.cameras(every, traced, traced), self.spec.frames)
            parts = [gbuffer(shape, camera[i : i + BATCH], EDGE) for i in range(0, len(camera), BATCH)]
            self._buffers = shape.kind, parts, camera
        _, parts, camera = self._buffers
        if camera.height == size:
            return parts, camera
        return [coarser(part, camera.height // size) for part in parts], camera.resized(size, size)

    @torch.no_grad()
    def denoise(
        self, z: Tensor, level: NoiseLevel, camera: Camera, conditioning: Bank, guidance_scale: float = 1.0,
        guidance_rescale: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """D_p(z) of whole rings z [R * frames,3,s,s]; there is nothing to guide by."""
        return torch.cat([ring_mean(ring, level.sigma, conditioning) for ring in z.split(self.spec.frames)])


def ring_mean(ring: Tensor, sigma: float, bank: Bank) -> Tensor:
    """The denoised ring [F,3,s,s] under the posterior over the bank's rings, their F first frames and backgrounds."""
    frames = len(ring)
    flat = ring.flatten(2).to(bank.clear.device)  # [F,3,P]
    coloured, clear, grounds = bank.coloured.float(), bank.clear.float(), bank.backgrounds.float()
    # ||z - x||^2 less ||z||^2, in double: the differences that count are small beside the squares
    with_colour = torch.einsum("fcp,ncp->fn", flat.double(), coloured.double())
    with_clear = torch.einsum("fcp,np->fnc", flat.double(), clear.double())
    distance = bank.square - 2 * (with_colour[..., None] + 2 * with_clear @ grounds.double().T)  # [F,N,G]
    distance = distance.view(frames, -1, frames, len(grounds))  # a picture is a ring and its place in it
    turned = []
    for k in range(frames):  # the ring begins with its k-th frame: frame f is its picture f + k
        pictures = [distance[f, :, (f + k) % frames] for f in range(frames)]
        turned.append(torch.stack(pictures).sum(0))
    together = torch.stack(turned, 1)  # [rings, first frame, G]
    if sigma > 0:
        weight = torch.softmax(-together.flatten() / (2 * sigma**2), 0)
    else:
        weight = torch.nn.functional.one_hot(together.argmin(), together.numel()).double()
    weight = weight.view_as(together).float()
    means = []
    for f in range(frames):
        each = torch.zeros_like(distance[f], dtype=torch.float32)  # [rings, place, G]
        for k in range(frames):
            each[:, (f + k) % frames] += weight[:, k]
        each = each.flatten(0, 1)
        mean = torch.einsum("n,ncp->cp", each.sum(1), coloured) + 2 * torch.einsum(
            "ng,gc,np->cp", each, grounds, clear
        )
        means.append(mean.view(ring.shape[1:]))
    return torch.stack(means).to(ring)
