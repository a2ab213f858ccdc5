"""An MV-Adapter with random weights for a tiny model's folder, in the names in which the published ones are."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from backend.sides.adapter import attentions_of, reader_of


def beside(model: Path, path: Path) -> Path:
    """Its file."""
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    shapes = {name: tuple(t.shape) for name, t in reader_of(unet, 8).state_dict().items()}
    for name, width in attentions_of(unet).items():
        shapes |= {f"{name}.to_{part}_mv.weight": (width, width) for part in ("q", "k", "v")}
        shapes |= {f"{name}.to_out_mv.0.weight": (width, width), f"{name}.to_out_mv.0.bias": (width,)}
    draw = torch.Generator().manual_seed(5)
    tensors = {
        name: torch.randn(shape, generator=draw) / max(1, torch.Size(shape[1:]).numel()) ** 0.5
        for name, shape in shapes.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path
