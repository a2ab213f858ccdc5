"""What a candidate is chosen by, after the first part of stage 1: its views, and how content the prior is with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backend.files import disk_errors, write_bytes
from backend.meshes.write import png_bytes
from backend.results.look import BACKGROUND, cameras_round
from backend.scene.render_nerf import render_views
from backend.scene.scene import Scene
from dreamflow_blender.contract.files import write_json
from dreamflow_blender.contract.jobfolder import JobFolder

VIEWS, SIZE = 4, 192  # from the front, the right, the back and the left; pixels
WINDOW = 0.25  # the newest share of the iterations, which the score is of
HAZE = 0.5, 0.95  # opacities that are shown as none, and as all


def write_candidate(files: JobFolder, scene: Scene, curves: dict[str, Tensor]) -> None:
    """candidate.png, the four views in two rows, and candidate.json, the figures of `score`. Raises DiskError.

    curves  "gap" of stage 1, [iterations], on the CPU
    """
    device = scene.field.table.device
    cameras, background = cameras_round(scene, VIEWS, SIZE), torch.full((3,), BACKGROUND, device=device)
    with torch.no_grad():
        views = render_views(scene.field, scene.occupancy, cameras, background, scene.sampling)
    clear = without_haze(views.image, views.opacity, background).cpu()
    rows = [torch.cat([clear[i], clear[i + 1]], dim=1) for i in (0, 2)]
    write_bytes(files.candidate_png, png_bytes(torch.cat(rows)))  # square, as the panel's pictures are
    with disk_errors(files.candidate):
        write_json(files.candidate, score(curves))


def without_haze(image: Tensor, opacity: Tensor, background: Tensor) -> Tensor:
    """[B,H,W,3]: an early field is a thin mist around what it is going to be; this shows the latter alone.

    image [B,H,W,3] and opacity [B,H,W,1], rendered before `background` [3]
    """
    low, high = HAZE
    clear = ((opacity - low) / (high - low)).clamp(0, 1)
    colour = (image - background * (1 - opacity)) / opacity.clamp_min(low)
    return colour.clamp(0, 1) * clear + background * (1 - clear)


def score(curves: dict[str, Tensor]) -> dict[str, float]:
    """How far the prior still is from content, over the newest iterations; less is better.

    gap      the mean of ||eps_p - eps_phi||: what the prior wants beyond what it is shown
    spread   its standard deviation over these views, divided by that mean: views that agree have little
    score    gap * (1 + spread)
    """
    gap = curves["gap"].double()
    newest = gap[-max(1, round(len(gap) * WINDOW)) :]
    mean = float(newest.mean())
    spread = float(newest.std(correction=0)) / mean if mean > 0 else 0.0
    return {"iterations": len(gap), "gap": mean, "spread": spread, "score": mean * (1 + spread)}


def read_views(path: Path) -> Tensor:
    """[VIEWS,H,W,3] in [0,1] of a candidate.png. Raises OSError."""
    with Image.open(path, formats=["PNG"]) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).float() / 255
    return torch.stack([view for row in pixels.chunk(2) for view in row.chunk(2, dim=1)])
