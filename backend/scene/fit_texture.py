"""The colour field learns the colours that an object has: the beginning of a refinement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from backend.optimizer import adamw
from backend.scene.bake import random_points
from backend.scene.field import Field
from backend.scene.mesh import Mesh
from backend.scene.painted import Painted

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
    field: Field, mesh: Mesh, colours: Painted, settings: FitSettings, generator: Generator
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
def fit_psnr(field: Field, mesh: Mesh, colours: Painted) -> float:
    """dB between the field and the object's own colours over its surface."""
    points = random_points(mesh, JUDGED, Generator(mesh.v_pos.device).manual_seed(1))
    error = (field.albedo(points.position(mesh)) - colours.at(points)[:, :3]).square().mean()
    return float(-10 * error.clamp(min=1e-10).log10())
