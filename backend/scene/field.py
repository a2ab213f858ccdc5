"""The radiance field: a hash grid with a density head and a colour head; where it is empty; the background network."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from backend.kernels import hash_encode
from backend.kernels.hashgrid import GridLayout


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


class Field(nn.Module):
    """density and albedo of any point of the box [-half, half]^3 (section D.1).

    Density is softplus(head + density_bias (1 - |x| / 0.5)), a soft ball to start from, and zero outside
    the box's inscribed ball: walls there, painted like the backgrounds, would hide them. A negative bias turns it
    inside out, for a scene round the cameras: a shell to start from, out to the box's corners. Colour is albedo,
    without shading. Parameters are drawn from torch's global generator: build it in fork_rng.
    """

    def __init__(self, layout: GridLayout, hidden: int, half: float, density_bias: float) -> None:
        super().__init__()
        self.layout, self.extent, self.density_bias = layout, half, density_bias
        self.table = nn.Parameter(torch.empty(layout.entries, layout.features).uniform_(-1e-4, 1e-4))
        width = layout.levels * layout.features
        self.density_head = mlp(width, hidden, 1)
        self.colour_head = mlp(width, hidden, 3)

    @property
    def inside_out(self) -> bool:
        """Whether cameras stand in it, and look outwards."""
        return self.density_bias < 0

    def features(self, x: Tensor) -> Tensor:
        """[N,3] metres to [N, levels * features]; points outside the box take its nearest point."""
        unit = (x / (2 * self.extent) + 0.5).clamp(0, 1)
        return hash_encode(unit, self.table, self.layout)

    def density(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        """[N] per metre, at x [N,3]."""
        features = self.features(x) if features is None else features
        radius = x.norm(dim=-1)
        bias = self.density_bias * (1 - radius / 0.5)
        density = F.softplus(self.density_head(features)[:, 0] + bias)
        return density if self.inside_out else density * (radius < self.extent)

    def albedo(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        """[N,3] sRGB in [0,1], at x [N,3]."""
        features = self.features(x) if features is None else features
        return torch.sigmoid(self.colour_head(features))

    def density_and_normal(self, x: Tensor, step: float) -> tuple[Tensor, Tensor]:
        """[N], and [N,3] unit vectors against its gradient, at x [N,3], for four look-ups a point.

        By forward differences of `step` metres that begin at x itself: the grid's kernels have no second derivative,
        so a loss on normals goes through this.
        """
        corners = F.pad(torch.eye(3, dtype=x.dtype, device=x.device), (0, 0, 1, 0)) * step
        here, ahead = self.density((x[:, None] + corners).reshape(-1, 3)).view(-1, 4).split((1, 3), 1)
        return here[:, 0], F.normalize(here - ahead, dim=-1, eps=1e-6)


class Occupancy(nn.Module):
    """Which parts of the box may hold something, so that empty space goes unsampled.

    `resolution`^3 cells over the field's box, each with a slowly forgetting maximum of the density. A cell is kept
    while one sample in it can add more than `visible` of opacity.
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


class Backdrop(nn.Module):
    """The background network: the colour seen in a direction where the field is empty."""

    FREQUENCIES = 4

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.head = mlp(3 * 2 * self.FREQUENCIES, hidden, 3)

    def forward(self, directions: Tensor) -> Tensor:
        """[N,3] sRGB in [0,1], for unit directions [N,3]."""
        angles = torch.cat([directions * 2**k for k in range(self.FREQUENCIES)], -1)
        return torch.sigmoid(self.head(torch.cat((angles.sin(), angles.cos()), -1)))
