"""Which parts of the box may hold something: a coarse grid that lets empty space go unsampled."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from backend.scene.field import Field


class Occupancy(nn.Module):
    """`resolution`^3 cells over the field's box, each with a slowly forgetting maximum of the density.

    A cell is kept while one sample in it can add more than `visible` of opacity.
    """

    def __init__(self, field: Field, resolution: int, step: float, visible: float = 0.01) -> None:
        super().__init__()
        self.resolution, self.extent = resolution, field.extent
        self.minimum = visible / step  # density at which a sample of that length adds `visible`
        self.register_buffer("peak", torch.zeros(resolution**3, device=field.table.device))
        self.peak: Tensor
        self.update(field, None)  # the start is analytic: the density bias alone already empties the corners

    @property
    def cells(self) -> Tensor:
        """[G,G,G] bool, axes x, y, z."""
        return (self.peak > self.minimum).view(self.resolution, self.resolution, self.resolution)

    @torch.no_grad()
    def update(self, field: Field, generator: Generator | None, decay: float = 0.6) -> None:
        """Look at one point of each cell: a random one, or the middle without a generator."""
        g = self.resolution
        axis = torch.arange(g, device=self.peak.device)
        index = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(-1, 3).float()
        jitter: Tensor | float = 0.5
        if generator is not None:
            jitter = torch.rand(index.shape, generator=generator, device=index.device)
        points = ((index + jitter) / g * 2 - 1) * self.extent
        density = torch.cat([field.density(chunk) for chunk in points.split(2**17)])
        self.peak.copy_(torch.maximum(self.peak * decay, density))
