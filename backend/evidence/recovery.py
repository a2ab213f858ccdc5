"""Has the object come back that the prompt names? Procedural objects are known, so these are real errors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backend.errors import InputError
from backend.evidence.known_objects import held_out_cameras, truth
from backend.files import disk_errors
from backend.meshes.write import read_npz
from backend.objects.sphere_trace import Views
from backend.results.look import render_textured
from backend.scene.mesh import Mesh
from dreamflow_blender.contract.jobfolder import JobFolder

VIEWS, SIZE = 24, 128  # cameras that are not in the exact prior's bank, elevation -10 to 60; pixels a side
LEAST_IOU = 0.7  # below it an object has not come back


@dataclass(frozen=True)
class Figures:
    """iou: of silhouettes, against the true object; psnr: of the albedo inside the true silhouette, dB."""

    iou: float
    psnr: float


def compare(image: Tensor, opacity: Tensor, true_colour: Tensor, true_alpha: Tensor) -> Figures:
    """Mean IoU over the views; PSNR of all pixels that the true object covers wholly.

    image, true_colour [B,H,W,3] sRGB in [0,1]; opacity, true_alpha [B,H,W,1] in [0,1].
    """
    mask, true_mask = opacity[..., 0] > 0.5, true_alpha[..., 0] > 0.5
    both, either = (mask & true_mask).sum((1, 2)), (mask | true_mask).sum((1, 2))
    inside = true_alpha[..., 0] > 0.999
    error = (image.clamp(0, 1) - true_colour)[inside].square().mean()
    return Figures(float((both / either).mean()), float(-10 * error.log10()))


@lru_cache(maxsize=1)
def true_views(prompt: str) -> Views:
    """What the held-out cameras see of the true object; the last one is kept. Raises InputError."""
    return truth(prompt, held_out_cameras(VIEWS, 0, SIZE, SIZE))


def read_result(folder: Path) -> tuple[Mesh, Tensor]:
    """The mesh that a job delivered and its texture [S,S,3] in [0,1]. Raises InputError and DiskError."""
    files = JobFolder(folder)
    if not files.mesh_npz.is_file():
        raise InputError(
            f"{folder} holds no result: there is no {files.mesh_npz.name} in it.", "Finish the job first."
        )
    with disk_errors(files.albedo), Image.open(files.albedo) as picture:
        albedo = torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32) / 255)
    return read_npz(files.mesh_npz), albedo


def judge_job(folder: Path, prompt: str) -> Figures:
    """What a job delivered, its mesh under its texture, beside the true object. Raises InputError and DiskError."""
    mesh, albedo = read_result(folder)
    true = true_views(prompt)
    camera = held_out_cameras(VIEWS, 0, SIZE, SIZE)
    seen = render_textured(mesh, albedo, camera, torch.full((3,), 0.5))
    return compare(*seen, true.colour, true.alpha)
