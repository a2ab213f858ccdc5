"""A prior for tests that knows one thing: a ball, red above and blue below, whatever the prompt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from backend.diffusion.prior import Backgrounds, PoseRange, PriorSpec
from backend.diffusion.savings import Savings
from backend.diffusion.schedule import NoiseLevel
from backend.scene.camera import Camera, rays

RADIUS = 0.4
RED, BLUE = (0.8, 0.1, 0.1), (0.1, 0.2, 0.8)
GREYS = ((0.15,) * 3, (0.5,) * 3, (0.85,) * 3)


def ball(camera: Camera) -> tuple[Tensor, Tensor, Tensor]:
    """colour [B,H,W,3], mask [B,H,W,1] bool and world normal [B,H,W,3] of the true object."""
    origins, directions = rays(camera)
    b = (origins * directions).sum(-1)
    under = b * b - ((origins * origins).sum(-1) - RADIUS**2)
    hit = origins + directions * (-b - under.clamp(min=0).sqrt())[..., None]
    red, blue = (torch.tensor(colour, device=hit.device) for colour in (RED, BLUE))
    colour = torch.where(hit[..., 2:] > 0, red, blue)
    return colour, (under > 0)[..., None], hit / RADIUS


class Oracle:
    """D_p is the true picture, whatever it is shown; it fulfils `backend.diffusion.prior.Prior`."""

    name, factor, channels = "oracle", 1, 3
    spec = PriorSpec(
        poses=PoseRange(distance=(1.4, 1.6), fov=(45.0, 45.0)),
        backgrounds=Backgrounds(GREYS, learned_share=0.0),
        guidance=1.0,
        lora=False,
    )

    def __init__(self, fault: float | None = None) -> None:
        self.fault = fault  # what D_p returns instead, to see who notices
        self.calls = 0

    def check(self, prompt: str, negative: str, kind: str, size: int) -> None: ...

    def prepare(self, prompt: str, negative: str, kind: str, size: int) -> str:
        return kind

    def shown(self, conditioning: Any, draw: object) -> Any:
        return conditioning

    def encode(self, image: Tensor) -> Tensor:
        self.corner = image.detach()[:, 0, 0]  # air: the background that this render has
        return image.permute(0, 3, 1, 2) * 2 - 1

    def decode(self, x: Tensor) -> Tensor:
        return (x.permute(0, 2, 3, 1) + 1) / 2

    def denoise(
        self, z: Tensor, level: NoiseLevel, camera: Camera, conditioning: Any, guidance_scale: float,
        guidance_rescale: float = 0.0,
    ) -> Tensor:  # fmt: skip
        self.calls += 1
        if self.fault is not None:
            return torch.full_like(z, self.fault)
        colour, mask, normal = ball(camera)
        if conditioning == "normal":
            colour = torch.einsum("bhwi,bij->bhwj", normal, camera.c2w[:, :3, :3]) * 0.5 + 0.5
        return self.encode_quietly(torch.where(mask, colour, self.corner[:, None, None]))

    def encode_quietly(self, image: Tensor) -> Tensor:
        return image.permute(0, 3, 1, 2) * 2 - 1

    def phi(self, conditioning: Any, rank: int, learning_rate: float, warmup: int, seed: int) -> None:
        return None

    def footprint(self, size: int, savings: Savings, still: bool = False) -> float:
        return 0.0

    def save_memory(self, savings: Savings) -> None: ...

    def load(self) -> None: ...

    def release(self) -> None: ...

    def take_notes(self) -> list[str]:
        return []

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}


def generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)
