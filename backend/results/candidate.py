"""What a candidate is chosen by, after the first part of stage 1: its views, and how content the prior is with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from backend.diffusion.prior import Prior
from backend.diffusion.schedule import noise_levels
from backend.files import disk_errors, write_bytes
from backend.meshes.write import png_bytes
from backend.results.look import BACKGROUND, cameras_round
from backend.scene.render_nerf import render_views
from backend.scene.scene import Scene
from dreamflow_blender.contract.files import write_json
from dreamflow_blender.contract.jobfolder import JobFolder

VIEWS, SIZE = 4, 192  # from the front, the right, the back and the left; pixels
LOOKS, LEVEL = 8, 0.8  # the views that the score is of, and the share of the schedule whose noise they get
HAZE = 0.5, 0.95  # opacities that are shown as none, and as all


def write_candidate(
    files: JobFolder, scene: Scene, prior: Prior, conditioning: Any, size: int, iterations: int
) -> None:
    """candidate.png, the four views in two rows, and candidate.json, the figures of `score`. Raises DiskError.

    conditioning, size  what stage 1 tells the prior, and the pixels a side that it shows it
    """
    device = scene.field.table.device
    cameras, background = cameras_round(scene, VIEWS, SIZE), torch.full((3,), BACKGROUND, device=device)
    with torch.no_grad():
        views = render_views(scene.field, scene.occupancy, cameras, background, scene.sampling)
    clear = without_haze(views.image, views.opacity, background).cpu()
    rows = [torch.cat([clear[i], clear[i + 1]], dim=1) for i in (0, 2)]
    write_bytes(files.candidate_png, png_bytes(torch.cat(rows)))  # square, as the panel's pictures are
    figures = {"iterations": iterations} | score(scene, prior, conditioning, size)
    with disk_errors(files.candidate):
        write_json(files.candidate, figures)


def without_haze(image: Tensor, opacity: Tensor, background: Tensor) -> Tensor:
    """[B,H,W,3]: an early field is a thin mist around what it is going to be; this shows the latter alone.

    image [B,H,W,3] and opacity [B,H,W,1], rendered before `background` [3]
    """
    low, high = HAZE
    clear = ((opacity - low) / (high - low)).clamp(0, 1)
    colour = (image - background * (1 - opacity)) / opacity.clamp_min(low)
    return colour.clamp(0, 1) * clear + background * (1 - clear)


@torch.no_grad()
def score(scene: Scene, prior: Prior, conditioning: Any, size: int) -> dict[str, float]:
    """How far the prior would still move the object; less is better.

    Every candidate is seen by the same LOOKS cameras under the same noise, so that they differ by what they are
    alone: what a run has noted of its own random views orders seeds no better than chance (docs/decisions.md).

    gap      || D_p(x + sigma n) - x || a latent value, unguided, at LEVEL; the mean over the views;
             D_phi(x) = x, whatever the run has learnt
    spread   its standard deviation over the views, divided by that mean: views that agree have little
    score    gap * (1 + spread)
    """
    device, frames = scene.field.table.device, prior.spec.frames
    background, level = torch.full((3,), BACKGROUND, device=device), noise_levels(LEVEL, 0.0, 1)[0]
    generator, rounds, gaps = Generator().manual_seed(0), max(1, LOOKS // frames), []
    for number in range(rounds):
        cameras = cameras_round(scene, frames, size, number * 360 / (frames * rounds))
        views = render_views(scene.field, scene.occupancy, cameras, background, scene.sampling)
        x = prior.encode(views.image)
        noise = torch.randn(x.shape, generator=generator).to(x)
        moved = prior.denoise(x + level.sigma * noise, level, cameras, conditioning, 1.0) - x
        gaps.append(moved.double().square().mean((1, 2, 3)).sqrt())
    gap = torch.cat(gaps)
    mean = float(gap.mean())
    spread = float(gap.std(correction=0)) / mean if mean > 0 else 0.0
    return {"gap": mean, "spread": spread, "score": mean * (1 + spread)}


def read_views(path: Path) -> Tensor:
    """[VIEWS,H,W,3] in [0,1] of a candidate.png. Raises OSError."""
    with Image.open(path, formats=["PNG"]) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).float() / 255
    return torch.stack([view for row in pixels.chunk(2) for view in row.chunk(2, dim=1)])
