"""MV-Adapter's six orthographic views (Huang et al. 2024): where they stand, and what the adapter is shown of them.

The numbers are those of its scripts for text and geometry (inference_tg2mv_sdxl.py, inference_tg2mv_sd.py): front,
right, back, left, then top and bottom as they look from behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Generator, Tensor

from backend.scene.camera import Camera, orbit, orthographic

COUNT = 6
AZIMUTH = (0.0, 90.0, 180.0, 270.0, 180.0, 180.0)
ELEVATION = (0.0, 0.0, 0.0, 0.0, 89.99, -89.99)
DISTANCE, HALF = 1.8, 0.55  # metres: of the cameras, and half a picture's side
GREY = (0.5, 0.5, 0.5)  # what stood behind its training's objects
SHIFT = (
    8.0  # its training's noise is stronger by sqrt(SHIFT) at the last timestep (schedule.shifted_timestep)
)
SIDE = {
    "StableDiffusionXLPipeline": 768
}  # pixels a side that it was trained at, where that is not the model's own


@dataclass(frozen=True)
class SixSides:
    """Fulfils prior.Poses: the six cameras, whatever is asked for."""

    def sample(self, generator: Generator, count: int, height: int, width: int) -> Camera:
        return _cameras(generator.device, height, width)


@lru_cache(maxsize=4)
def _cameras(device: torch.device, height: int, width: int) -> Camera:
    """One and the same for one size, so that what is drawn of them is drawn once."""
    azimuth, elevation = (torch.tensor(angles, device=device) for angles in (AZIMUTH, ELEVATION))
    there = torch.ones_like(azimuth)
    camera = orbit(azimuth, elevation, DISTANCE * there, 45 * there, height, width)
    return Camera(camera.c2w, orthographic(HALF * there), height, width)


@torch.no_grad()
def encode_sides(camera: Camera, shape: Tensor) -> Tensor:
    """[B,6,H,W] in [0,1] of what render_shape says that orthographic cameras see [B,H,W,4]: where each pixel's point
    lies, plus a half, and its normal, half of it plus a half, both in world space; a half where nothing is."""
    half = 1 / camera.proj[:, 0, 0, None, None]
    x = (torch.arange(camera.width, device=shape.device) + 0.5) / camera.width * 2 - 1
    y = (torch.arange(camera.height, device=shape.device) + 0.5) / camera.height * 2 - 1
    y, x = torch.meshgrid(y, x, indexing="ij")
    depth, normal = shape[..., 0], shape[..., 1:]
    solid = depth.isfinite()
    local = torch.stack((half * x, -half * y, -torch.where(solid, depth, 0)), -1)
    turn = camera.c2w[:, :3, :3]
    point = torch.einsum("bij,bhwj->bhwi", turn, local) + camera.position[:, None, None]
    facing = torch.einsum("bij,bhwj->bhwi", turn, normal)
    both = torch.cat((point + 0.5, facing / 2 + 0.5), -1).clamp(0, 1)
    return torch.where(solid[..., None], both, 0.5).permute(0, 3, 1, 2)
