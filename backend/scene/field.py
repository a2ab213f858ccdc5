"""The radiance field: a hash grid with a density head and a colour head, and the background network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
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
