"""The words that tell a prior from which side it sees the object. One function for data and product."""

from __future__ import annotations

import torch
from torch import Tensor

from backend.scene.camera import Camera

VIEWS = ("front", "side", "back", "overhead")  # the paper's, which Stable Diffusion reads
# What a prior may state instead where it was taught so: 45 degrees each, from the front over the object's left.
# "side" covers two thirds of a circle, and nothing in it tells a duck's head from its tail.
COMPASS = (
    "front", "front left", "left", "back left", "back", "back right", "right", "front right", "overhead",
)  # fmt: skip

OVERHEAD_FROM = 60.0  # degrees of elevation
FRONT_WITHIN = 30.0  # degrees of azimuth round 0; likewise back round 180


def view_indices(camera: Camera, words: tuple[str, ...] = VIEWS) -> Tensor:
    """[B] int64 into VIEWS or COMPASS, on the camera's device: reading them would mean waiting for it."""
    if words == COMPASS:
        index = (camera.azimuth / 45).round().to(torch.int64) % 8
        return index.masked_fill(camera.elevation > OVERHEAD_FROM, COMPASS.index("overhead"))
    away = camera.azimuth.abs()
    index = torch.full_like(away, VIEWS.index("side"), dtype=torch.int64)
    index = index.masked_fill(away >= 180 - FRONT_WITHIN, VIEWS.index("back"))
    index = index.masked_fill(away <= FRONT_WITHIN, VIEWS.index("front"))
    return index.masked_fill(camera.elevation > OVERHEAD_FROM, VIEWS.index("overhead"))


def view_words(camera: Camera, words: tuple[str, ...] = VIEWS) -> list[str]:
    """One of VIEWS or COMPASS for each of the B views."""
    return [words[index] for index in view_indices(camera, words).tolist()]
