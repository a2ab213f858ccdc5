"""The words that tell a prior from which side it sees the object. One function for data and product."""

from __future__ import annotations

import torch
from torch import Tensor

from backend.scene.camera import Camera

VIEWS = ("front", "side", "back", "overhead")

OVERHEAD_FROM = 60.0  # degrees of elevation
FRONT_WITHIN = 30.0  # degrees of azimuth round 0; likewise back round 180


def view_indices(camera: Camera) -> Tensor:
    """[B] int64 into VIEWS, on the camera's device: reading them would mean waiting for it."""
    away = camera.azimuth.abs()
    index = torch.full_like(away, VIEWS.index("side"), dtype=torch.int64)
    index = index.masked_fill(away >= 180 - FRONT_WITHIN, VIEWS.index("back"))
    index = index.masked_fill(away <= FRONT_WITHIN, VIEWS.index("front"))
    return index.masked_fill(camera.elevation > OVERHEAD_FROM, VIEWS.index("overhead"))


def view_words(camera: Camera) -> list[str]:
    """One of VIEWS for each of the B views."""
    return [VIEWS[index] for index in view_indices(camera).tolist()]
