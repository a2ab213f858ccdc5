"""Objects whose truth is known, and the cameras that results are judged from."""

from __future__ import annotations

import torch

from backend.diffusion.prior import PoseRange
from backend.objects.exact_prior import DISTANCE, ELEVATION, FOV
from backend.objects.grammar import parse_object
from backend.objects.shapes import Shape, build
from backend.objects.sphere_trace import Views, render
from backend.scene.camera import Camera
from backend.scene.isosurface import marching_tetrahedra, tetrahedral_grid
from backend.scene.mesh import Mesh


def held_out_cameras(count: int, seed: int, height: int, width: int) -> Camera:
    """Random cameras over the exact prior's ranges up to ELEVATION[1]: they are not in its list."""
    poses = PoseRange(elevation=ELEVATION, overhead_share=0.0, distance=DISTANCE, fov=(FOV, FOV))
    return poses.sample(torch.Generator().manual_seed(seed), count, height, width)


def truth(prompt: str, camera: Camera) -> Views:
    """The true object that the prompt names, seen by the cameras. Raises InputError."""
    return render(build(parse_object(prompt)), camera)


def true_mesh(shape: Shape, cells: int) -> Mesh:
    """The surface on a tetrahedral grid of `cells` a side, outward winding; for measuring."""
    corner = torch.tensor([0.52, 0.52, 0.52])
    grid = tetrahedral_grid(cells, -corner, corner)
    return marching_tetrahedra(grid.vertices, -shape.sdf(grid.vertices), grid)
