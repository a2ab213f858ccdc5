"""ControlNets with random weights for a tiny model's folder, in diffusers' layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

EDGE = {"conditioning_embedding_out_channels": (8, 8, 8, 8)}


def randomised(net: Any, seed: int) -> Any:
    """A ControlNet begins with layers of zeros."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for parameter in net.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.3)
    return net


def beside(unet: Path, kind: Any, folder: Path, seed: int | None = 1, **config: Any) -> Path:
    """A ControlNet for the UNet of that folder; seed None: as it begins."""
    net = kind.from_unet(UNet2DConditionModel.from_pretrained(unet / "unet"), **EDGE, **config)
    (net if seed is None else randomised(net, seed)).save_pretrained(folder)
    return folder
