"""Renders of results in the layout that GPTEval3D reads (Wu et al., 2024).

METHOD/PROMPT/SEED/rgb_K.png and normal_K.png, PROMPT being the prompt's place in the benchmark's list, from 0. 120
views as threestudio takes them: elevation 15, field of view 70 degrees, and a distance of 1.5 for an object that fills
a ball of radius 1; ours fills 0.5. Normals are the world's, (n + 1) / 2, before black.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from backend.files import disk_errors, write_bytes
from backend.meshes.write import png_bytes
from backend.results.look import render_textured
from backend.scene.camera import Camera, orbit
from backend.scene.mesh import Mesh
from backend.scene.render_mesh import render_shape

VIEWS, SIZE = 120, 512
ELEVATION, DISTANCE, FOV = 15.0, 0.75, 70.0  # degrees, metres, degrees
BATCH = 8  # views at a time


def cameras() -> Camera:
    """The VIEWS of a result, evenly all round."""
    same = torch.ones(VIEWS)
    azimuth = torch.arange(VIEWS) * (360.0 / VIEWS)
    return orbit(azimuth, ELEVATION * same, DISTANCE * same, FOV * same, SIZE, SIZE)


def world_normals(mesh: Mesh, camera: Camera) -> Tensor:
    """[B,H,W,3]: (n + 1) / 2 in the world's axes, black where nothing is."""
    seen = render_shape(mesh, camera)
    turned = torch.einsum("bhwc,bdc->bhwd", seen[..., 1:], camera.c2w[:, :3, :3])
    return (turned * 0.5 + 0.5) * seen[..., :1].isfinite()


def write_views(method: Path, prompt: int, seed: int, mesh: Mesh, albedo: Tensor) -> None:
    """A result's 240 PNGs. albedo [S,S,3] in [0,1]. Raises DiskError."""
    folder, camera, white = method / str(prompt) / str(seed), cameras(), torch.ones(3)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, VIEWS, BATCH):
        some = camera[start : start + BATCH]
        pictures = {"rgb": render_textured(mesh, albedo, some, white)[0], "normal": world_normals(mesh, some)}
        for name, images in pictures.items():
            for index, image in enumerate(images, start):
                write_bytes(folder / f"{name}_{index}.png", png_bytes(image))
