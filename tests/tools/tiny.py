"""A job that takes seconds, on the prior that knows a ball."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dreamflow_blender.contract.protocol import Job

OVERRIDES: dict[str, Any] = {
    "nerf.levels": 12, "nerf.views": 2, "nerf.size": 16, "nerf.samples": 24, "nerf.grid_levels": 4,
    "nerf.grid_log2_size": 10, "nerf.grid_finest": 32, "nerf.hidden": 8, "nerf.occupancy": 16,
    "nerf.orientation_points": 64, "nerf.occupancy_every": 4,
    "geometry.levels": 3, "geometry.views": 2, "geometry.size": 24, "geometry.cells": 10,
    "texture.levels": 3, "texture.views": 2, "texture.size": 24,
    "refine.levels": 2, "refine.views": 2, "refine.size": 32,
    "delivery.texture_size": 64, "delivery.max_faces": 500,
}  # fmt: skip


def tiny_job(folder: Path, **changes: Any) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    overrides = OVERRIDES | changes.pop("overrides", {})
    return Job("tiny", "generate", "a ball", str(folder), overrides=overrides, threads=1, **changes)
