"""The second edition's model folder: diffusers' layout and fp16 weights as export.py's, with what rings need stated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from backend.diffusion.mini import export
from backend.diffusion.mini.rings import FRAMES, RING_POSES
from backend.files import write_text

CREDITS = "CREDITS.txt"
# An update sees four views: a third to a quarter of the first edition's updates, which measured the same or better.
RING_SETTINGS: dict[str, Any] = {
    "nerf.levels": 100,
    "nerf.views": 4,
    "geometry.levels": 40,
    "geometry.views": 3,
    "texture.levels": 40,
    "texture.views": 2,
}


def rings_statement(kinds: Sequence[str]) -> dict[str, Any]:
    """dreamflow.json: the first edition's without view words; the camera is told by its matrix, four views at once."""
    stated = export.statement(refiner=False)
    del stated["views"]
    return stated | {
        "poses": asdict(RING_POSES),
        "kinds": list(kinds),
        "view_prompt": "{prompt}",
        "camera": "c2w",
        "frames": FRAMES,
        "settings": export.SETTINGS | RING_SETTINGS,
    }


def write_rings_model(folder: Path, parts: dict[str, nn.Module], kinds: Sequence[str], credits: str) -> None:
    """parts: unet, text_encoder, vae. credits: whose models the pictures showed; "" where they were all made here."""
    export.write_model(folder, parts, refiner=False)
    export.write_json(folder / "dreamflow.json", rings_statement(kinds))
    if credits:
        write_text(folder / CREDITS, credits)
