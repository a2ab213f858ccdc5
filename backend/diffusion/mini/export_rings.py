"""The second edition's model folder: diffusers' layout and fp16 weights as export.py's, with what rings need stated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from backend.diffusion.mini import export
from backend.diffusion.mini.dataset import LEARNED
from backend.diffusion.mini.rings import FRAMES


def rings_statement() -> dict[str, Any]:
    """dreamflow.json: the first edition's without view words, the camera told as MVDream's and the frames joined."""
    stated = export.statement(refiner=False) | {"kinds": LEARNED, "camera": "c2w", "frames": FRAMES}
    del stated["views"]
    return stated


def write_rings_model(folder: Path, parts: dict[str, nn.Module]) -> None:
    """parts: unet, text_encoder, vae; the folder is whole or as it was before."""
    export.write_model(folder, parts, refiner=False)
    export.write_json(folder / "dreamflow.json", rings_statement())
