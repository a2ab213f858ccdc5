"""The colour field learns the colours that an object has: the beginning of a refinement."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from backend.scene.field import Field
from backend.scene.mesh import Mesh
from backend.scene.optimizer import adamw
from backend.scene.scene import Scene
from backend.texture.bake import random_points
from backend.texture.source_colours import SourceColours

JUDGED = 2**16  # points on which the fit is measured


@dataclass(frozen=True)
class FitSettings:
    """How well the field is to know the object's own texture."""

    grid_levels: int
    grid_features: int
    grid_log2_size: int
    grid_finest: int  # cells a side of the box
    hidden: int
    iterations: int
    points: int  # of the surface, an iteration
    grid_rate: float = 2e-2
    head_rate: float = 5e-3


FITS = {
    "paper": FitSettings(16, 4, 19, 2048, 64, 1500, 2**17),
    "fast": FitSettings(16, 2, 18, 1024, 64, 800, 2**16),
    "draft": FitSettings(12, 2, 17, 512, 32, 300, 2**13),
}


def fit_texture(
    field: Field, mesh: Mesh, colours: SourceColours, settings: FitSettings, generator: Generator
) -> Iterator[tuple[int, Tensor]]:
    """Yields after every iteration: how many are done, and the mean squared error of its points."""
    optimizer = adamw(
        [([field.table], settings.grid_rate), (field.colour_head.parameters(), settings.head_rate)],
        weight_decay=0.0,
    )
    for done in range(1, settings.iterations + 1):
        left = 1 - (done - 1) / settings.iterations
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * min(1.0, 2 * left)  # the second half settles
        points = random_points(mesh, settings.points, generator)
        loss = (field.albedo(points.position(mesh)) - colours.at(points)[:, :3]).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        yield done, loss.detach()


@torch.no_grad()
def fit_psnr(field: Field, mesh: Mesh, colours: SourceColours) -> float:
    """dB between the field and the object's own colours over its surface."""
    points = random_points(mesh, JUDGED, Generator(mesh.v_pos.device).manual_seed(1))
    error = (field.albedo(points.position(mesh)) - colours.at(points)[:, :3]).square().mean()
    return float(-10 * error.clamp(min=1e-10).log10())


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
        self.layout, self.extent, self.density_bias = field.layout, field.extent, field.density_bias
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


def learned_colour(scene: Scene) -> Any:
    """The field's own colours [N,3] at positions [N,3]: what a texel takes by its weight."""
    field = scene.field
    return super(HeldField, field).albedo if isinstance(field, HeldField) else field.albedo
