"""MV-Adapter's six orthographic views (Huang et al. 2024): where they stand, and what the adapter is shown of them.

The numbers are those of its scripts for text and geometry (inference_tg2mv_sdxl.py, inference_tg2mv_sd.py): front,
right, back, left, then top and bottom as they look from behind. What these do not see of a mesh, under an arm or in a
mug, other sixes may: the same cameras, round an object that is turned and tilted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Generator, Tensor

from backend.draws import draw_on_host
from backend.scene.camera import Camera, orbit, orthographic

COUNT = 6
AZIMUTH = (0.0, 90.0, 180.0, 270.0, 180.0, 180.0)
ELEVATION = (0.0, 0.0, 0.0, 0.0, 89.99, -89.99)
DISTANCE, HALF = 1.8, 0.55  # metres: of the cameras, and half a picture's side
LOOK = 256  # pixels a side, where it is asked what they see
GREY = (0.5, 0.5, 0.5)  # what stood behind its training's objects
SHIFT = (
    8.0  # its training's noise is stronger by sqrt(SHIFT) at the last timestep (schedule.shifted_timestep)
)
SIDE = {
    "StableDiffusionXLPipeline": 768
}  # pixels a side that it was trained at, where that is not the model's own
Turn = tuple[float, float]  # of a six, degrees: over towards the back, then round the vertical axis
STRAIGHT: Turn = (0.0, 0.0)
TURNS: tuple[Turn, ...] = ((35.0, 45.0), (-30.0, 22.5), (30.0, 67.5), (0.0, 45.0))
UNSEEN, GAIN, MOST = 0.02, 0.005, 4  # shares of the surface: enough is seen, too little is gained; sixes


@dataclass(frozen=True)
class SixSides:
    """Fulfils prior.Poses: six cameras at once, of one of the `turns` that is drawn."""

    turns: tuple[Turn, ...] = (STRAIGHT,)

    def sample(self, generator: Generator, count: int, height: int, width: int) -> Camera:
        """`count` sixes are drawn, each that was drawn is there once; with one turn nothing is drawn."""
        known = len(self.turns)
        drawn = {int(draw_on_host(generator) * known) for _ in range(count)} if known > 1 else {0}
        found = [_cameras(generator.device, height, width, self.turns[i]) for i in sorted(drawn)]
        if len(found) == 1:
            return found[0]
        c2w, proj = torch.cat([one.c2w for one in found]), torch.cat([one.proj for one in found])
        return Camera(c2w, proj, height, width)

    def around(self, sees: Callable[[Camera], Tensor]) -> SixSides:
        """With as many other sixes as an object needs; sees: which of its surface's points cameras see [P] bool."""

        def seen_by(turn: Turn) -> Tensor:
            return sees(_cameras(torch.device("cpu"), LOOK, LOOK, turn))

        turns, seen = self.turns, torch.stack([seen_by(turn) for turn in self.turns]).any(0)
        if float((~seen).float().mean()) <= UNSEEN:
            return self
        others = {turn: seen_by(turn) for turn in TURNS}
        while float((~seen).float().mean()) > UNSEEN and len(turns) < MOST:
            best = max(others, key=lambda turn: int((seen | others[turn]).sum()))
            more = seen | others[best]
            if float((more & ~seen).float().mean()) < GAIN:
                break
            turns, seen = (*turns, best), more
        return SixSides(turns)


@lru_cache(maxsize=16)
def _cameras(device: torch.device, height: int, width: int, turn: Turn = STRAIGHT) -> Camera:
    """One and the same for one size, so that what is drawn of them is drawn once."""
    azimuth, elevation = (torch.tensor(angles, device=device) for angles in (AZIMUTH, ELEVATION))
    there = torch.ones_like(azimuth)
    camera = orbit(azimuth, elevation, DISTANCE * there, 45 * there, height, width)
    c2w = camera.c2w if turn == STRAIGHT else _turned(*turn).to(device) @ camera.c2w
    return Camera(c2w, orthographic(HALF * there), height, width)


def _turned(over: float, about: float) -> Tensor:
    """[4,4]: about the x axis, then about the z axis, degrees."""
    made = []
    for angle, (i, j) in ((about, (0, 1)), (over, (1, 2))):
        c, s, turn = math.cos(math.radians(angle)), math.sin(math.radians(angle)), torch.eye(4)
        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
        made.append(turn)
    return made[0] @ made[1]


def upright(camera: Camera) -> Tensor:
    """[3,3] from the world to where a six's cameras are the straight ones; what is turned there is the object."""
    return _cameras(camera.c2w.device, 1, 1).c2w[0, :3, :3] @ camera.c2w[0, :3, :3].mT


@torch.no_grad()
def encode_sides(camera: Camera, shape: Tensor) -> Tensor:
    """[6,6,H,W] in [0,1] of what render_shape says that a six sees [6,H,W,4]: where each pixel's point lies, plus a
    half, and its normal, half of it plus a half, both in the space of `upright`; a half where nothing is."""
    half = 1 / camera.proj[:, 0, 0, None, None]
    x = (torch.arange(camera.width, device=shape.device) + 0.5) / camera.width * 2 - 1
    y = (torch.arange(camera.height, device=shape.device) + 0.5) / camera.height * 2 - 1
    y, x = torch.meshgrid(y, x, indexing="ij")
    depth, normal = shape[..., 0], shape[..., 1:]
    solid = depth.isfinite()
    local = torch.stack((half * x, -half * y, -torch.where(solid, depth, 0)), -1)
    turn = upright(camera) @ camera.c2w[:, :3, :3]
    middle = camera.position @ upright(camera).mT
    point = torch.einsum("bij,bhwj->bhwi", turn, local) + middle[:, None, None]
    facing = torch.einsum("bij,bhwj->bhwi", turn, normal)
    both = torch.cat((point + 0.5, facing / 2 + 0.5), -1).clamp(0, 1)
    return torch.where(solid[..., None], both, 0.5).permute(0, 3, 1, 2)
