"""Has the object come back that the prompt names? Procedural objects are known, so these are real errors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree
from torch import Tensor

from backend.errors import InputError
from backend.evidence.known_objects import held_out_cameras, true_mesh, truth
from backend.files import disk_errors
from backend.meshes.write import read_npz
from backend.objects.grammar import parse_object
from backend.objects.shapes import KINDS, build
from backend.objects.sphere_trace import Views, render
from backend.results.look import render_textured
from backend.scene.mesh import Mesh, face_normals, surface_points
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.language.reading import Description

VIEWS, SIZE = 24, 128  # cameras that are not in the exact prior's bank, elevation -10 to 60; pixels a side
LEAST_IOU = 0.7  # below it an object has not come back
POINTS, CELLS = 20_000, 64  # on each surface that is compared; a side of the true surface's grid
KIND_VIEWS, KIND_SIZE = 8, 64  # cameras that a result is told from other kinds by; pixels a side


Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Figures:
    """iou: of silhouettes, against the true object; psnr: of the albedo inside the true silhouette, dB; colour: mean
    absolute error there, of 1."""

    iou: float
    psnr: float
    colour: float


def compare(image: Tensor, opacity: Tensor, true_colour: Tensor, true_alpha: Tensor) -> Figures:
    """Mean IoU over the views; PSNR of all pixels that the true object covers wholly.

    image, true_colour [B,H,W,3] sRGB in [0,1]; opacity, true_alpha [B,H,W,1] in [0,1].
    """
    mask, true_mask = opacity[..., 0] > 0.5, true_alpha[..., 0] > 0.5
    both, either = (mask & true_mask).sum((1, 2)), (mask | true_mask).sum((1, 2))
    inside = true_alpha[..., 0] > 0.999
    error = (image.clamp(0, 1) - true_colour)[inside]
    psnr = float(-10 * error.square().mean().log10())
    return Figures(float((both / either).mean()), psnr, float(error.abs().mean()))


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
    return judge(*read_result(folder), prompt)


def judge(mesh: Mesh, albedo: Tensor, prompt: str) -> Figures:
    """A mesh under its texture [S,S,3] beside the true object. Raises InputError."""
    true = true_views(prompt)
    camera = held_out_cameras(VIEWS, 0, SIZE, SIZE)
    seen = render_textured(mesh, albedo, camera, torch.full((3,), 0.5))
    return compare(*seen, true.colour, true.alpha)


@dataclass(frozen=True)
class Surfaces:
    """chamfer: mean distance to the other surface's nearest point, metres, over both directions (objects are about 1 m
    across); normals: mean |cosine| with the normal there, likewise."""

    chamfer: float
    normals: float


@lru_cache(maxsize=1)
def true_surface(prompt: str) -> Mesh:
    """The true object that the prompt names. Raises InputError."""
    return true_mesh(build(parse_object(prompt)), CELLS)


def compare_surfaces(mesh: Mesh, true: Mesh) -> Surfaces:
    """Of POINTS points on each, spread evenly by area; the same meshes give the same figures."""
    sides = [_points(one, seed) for seed, one in enumerate((mesh, true))]
    apart, along = [], []
    for (points, normals), (others, other_normals) in (sides, sides[::-1]):
        distance, index = cKDTree(others).query(points)
        apart.append(float(distance.mean()))
        along.append(float(np.abs((normals * other_normals[index]).sum(1)).mean()))
    return Surfaces(sum(apart) / 2, sum(along) / 2)


def _points(mesh: Mesh, seed: int) -> tuple[Floats, Floats]:
    """Points [POINTS,3] on a mesh and their faces' unit normals."""
    points, face = surface_points(mesh, POINTS, seed)
    normals = face_normals(Mesh(mesh.v_pos.double(), mesh.t_pos_idx))
    return points.numpy(), normals[face].numpy()


def nearest_kind(mesh: Mesh, albedo: Tensor, prompt: str) -> str:
    """The kind whose true pictures, in the prompt's colour, differ least (mean square) from the result's."""
    camera = held_out_cameras(KIND_VIEWS, 1, KIND_SIZE, KIND_SIZE)
    image, _ = render_textured(mesh, albedo, camera, torch.full((3,), 0.5))
    errors = {
        kind: float((image - true).square().mean()) for kind, true in _every_kind(parse_object(prompt).colour)
    }
    return min(errors, key=lambda kind: errors[kind])


@lru_cache(maxsize=16)
def _every_kind(colour: str | None) -> list[tuple[str, Tensor]]:
    """Every kind in a colour, [KIND_VIEWS,KIND_SIZE,KIND_SIZE,3] before grey."""
    camera = held_out_cameras(KIND_VIEWS, 1, KIND_SIZE, KIND_SIZE)
    seen = [(kind, render(build(Description(kind, colour)), camera)) for kind in KINDS]
    return [(kind, views.over((0.5, 0.5, 0.5))) for kind, views in seen]
