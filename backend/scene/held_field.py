"""A colour field that learns on a part of the object only, and shows the rest as it was."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional as F

from backend.scene.bake import random_points
from backend.scene.field import Field
from backend.scene.mesh import Mesh

CELLS = 96  # along the box's side, of the share that may change
POINTS = 2**19  # of the surface, that say it


class HeldField(Field):
    """albedo = before + share (learning - before), where the share is smooth in space.

    It is what the prior is shown; what is painted in the end goes by the weights of each texel.
    """

    share: Tensor

    def __init__(self, field: Field, mesh: Mesh, weight: Tensor) -> None:
        """field: knows the object's colours; weight [F,3] of the faces of the placed mesh."""
        torch.nn.Module.__init__(self)
        self.layout, self.extent, self.encode = field.layout, field.extent, field.encode
        self.density_bias = field.density_bias
        self.table, self.density_head, self.colour_head = field.table, field.density_head, field.colour_head
        self.before = copy.deepcopy(field)
        self.before.requires_grad_(False)
        self.register_buffer("share", share_grid(mesh, weight, field.extent))

    def albedo(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        share = F.grid_sample(
            self.share, (x / self.extent).view(1, 1, 1, -1, 3), align_corners=False, padding_mode="border"
        ).view(-1, 1)
        with torch.no_grad():
            before = self.before.albedo(x)
        return before + share * (super().albedo(x, features) - before)


@torch.no_grad()
def share_grid(mesh: Mesh, weight: Tensor, extent: float) -> Tensor:
    """[1,1,G,G,G], z y x: the mean weight of the surface in each cell and those about it."""
    generator = torch.Generator(mesh.v_pos.device).manual_seed(2)
    points = random_points(mesh, POINTS, generator)
    share = (weight[points.face] * points.bary).sum(1)
    place = ((points.position(mesh) / extent + 1) / 2 * CELLS).long().clamp(0, CELLS - 1)
    cell = (place[:, 2] * CELLS + place[:, 1]) * CELLS + place[:, 0]
    total = torch.zeros(CELLS**3, 2, device=share.device)
    total.index_add_(0, cell, torch.stack((share, torch.ones_like(share)), 1))
    near = F.avg_pool3d(total.T.reshape(1, 2, CELLS, CELLS, CELLS), 3, 1, 1)
    return near[:, :1] / near[:, 1:].clamp(min=1e-9)
