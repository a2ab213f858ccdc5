"""From a true object's own surface the built-in model's stage 2a, as its settings have it, goes hardly away."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from backend.evidence.known_objects import held_out_cameras, truth
from backend.evidence.recovery import compare
from backend.jobs.priors import open_prior
from backend.jobs.record import resolve_job
from backend.kernels.silhouette import edge_table
from backend.objects.grammar import parse_object
from backend.objects.shapes import build
from backend.scene.handover import signed_distances
from backend.scene.isosurface import marching_tetrahedra, tetrahedral_grid
from backend.scene.mesh import Mesh
from backend.scene.render_mesh import render_normals
from backend.scene.scene import GridBox, Scene, detached, new_scene, surface
from backend.stages.chain import make_stage
from backend.stages.setup import set_up
from dreamflow_blender.contract.protocol import Job

CPU, PROMPT = torch.device("cpu"), "a green mushroom"
LOWER, UPPER = (-0.5, -0.5, -0.5), (0.5, 0.5, 0.5)


def true_scene(scene: Scene, cells: int) -> Scene:
    """The true object on 2a's grid."""
    grid = tetrahedral_grid(cells, LOWER, UPPER)
    inside = -build(parse_object(PROMPT)).sdf(grid.vertices)
    distances = signed_distances(inside, marching_tetrahedra(grid.vertices, inside, grid), grid)
    scene.grid, scene.box = grid, GridBox(cells, LOWER, UPPER)
    scene.sdf = torch.nn.Parameter(distances / grid.spacing)
    scene.offsets = torch.nn.Parameter(torch.zeros_like(grid.vertices))
    scene.mesh = detached(surface(scene))
    return scene


def iou(mesh: Mesh) -> float:
    camera = held_out_cameras(24, 0, 64, 64)
    seen = render_normals(mesh, edge_table(mesh.t_pos_idx, len(mesh.v_pos)), camera, torch.zeros(3))
    true = truth(PROMPT, camera)
    return compare(seen.image, seen.opacity, true.colour, true.alpha).iou


@pytest.mark.slow
def test_a_mushroom_keeps_its_size_through_stage_2a(tmp_path: Path) -> None:
    prior = open_prior("mini", "cpu")
    stages = ("nerf", "geometry")
    job = Job("size", "generate", PROMPT, str(tmp_path), seed=42, prior="mini", stages=stages, threads=1)
    setup = set_up(job, resolve_job(job, prior, {}).preset, prior, {}, CPU)
    scene = true_scene(new_scene(setup.preset.nerf, CPU, 42), setup.preset.geometry.cells)
    assert scene.mesh is not None
    assert iou(scene.mesh) > 0.975
    # Its end settles the field's colours, and there is no field.
    stage = dataclasses.replace(make_stage("geometry", setup, scene, 0), finish=lambda: None)
    for _ in stage.steps(0):
        pass
    assert iou(detached(surface(scene))) > 0.956
