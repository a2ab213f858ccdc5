"""A mug whose floor lies too high is dug by a prior that knows mugs, and by nobody who is shown no normal maps."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backend.config import DRAFT
from backend.objects.exact_prior import ExactPrior
from backend.objects.shapes import build
from backend.scene.isosurface import marching_tetrahedra, tetrahedral_grid
from backend.scene.mesh import Mesh, is_closed
from backend.scene.scene import Scene, detached, new_scene, surface
from backend.stages.chain import deepen
from backend.stages.guides import Guide, normals_error
from backend.stages.setup import Setup, set_up
from benchmarks.vessels import depth
from dreamflow_blender.contract.language.reading import Description
from dreamflow_blender.contract.protocol import Job
from tests.tools.here import generator, here

MUG, BALL = build(Description("mug", "red")), build(Description("ball", "red"))
SIZE = 24
PRIOR = ExactPrior(str(here()))  # one, which keeps the pictures that it has made


def filled_mug(points: Tensor, floor: float) -> Tensor:
    """[N] metres, positive inside: the mug filled up to a height of `floor` metres."""
    beside = 0.25 - points[:, :2].norm(dim=1)
    fill = torch.minimum(beside, torch.minimum(floor - points[:, 2], points[:, 2] + 0.3))
    return torch.maximum(-MUG.sdf(points.cpu()).to(points), fill)


def scene_of(sdf: Tensor) -> Scene:
    grid = tetrahedral_grid(28, (-0.6,) * 3, (0.6,) * 3).to(here())
    scene = new_scene(dataclasses.replace(DRAFT.nerf, grid_levels=2, grid_log2_size=8, hidden=8), here(), 1)
    scene.grid, scene.sdf = grid, torch.nn.Parameter(sdf / grid.spacing)
    scene.offsets = torch.nn.Parameter(torch.zeros_like(grid.vertices))
    scene.mesh = detached(surface(scene))
    return scene


def mug(floor: float) -> Scene:
    grid = tetrahedral_grid(28, (-0.6,) * 3, (0.6,) * 3).to(here())
    return scene_of(filled_mug(grid.vertices, floor))


def setup_for(prompt: str, folder: Path, shows: str = "normals", share: float = 0.0) -> Setup:
    geometry = dataclasses.replace(DRAFT.geometry, shows=shows, size=SIZE)
    nerf = dataclasses.replace(DRAFT.nerf, size=SIZE, normal_share=share)
    preset = dataclasses.replace(DRAFT, nerf=nerf, geometry=geometry)
    job = Job("deep", "generate", prompt, str(folder), seed=3, stages=("nerf", "geometry"))
    return set_up(job, preset, PRIOR, {}, here())


def open_depth(scene: Scene) -> float:
    assert scene.mesh is not None
    return depth(scene.mesh.to("cpu"), MUG)


def test_a_surface_that_is_the_prior_s_own_has_the_least_error(tmp_path: Path) -> None:
    setup = setup_for("a red mug", tmp_path)
    g = Guide(setup.prior, setup.prompts["geometry", "normal"], 1.0)
    error_of = normals_error(g, SIZE, generator(1))
    meshes = [mug(floor).mesh for floor in (-0.5, -0.1, 0.1, 0.3)]
    errors = [error_of(mesh) for mesh in meshes if mesh is not None]
    assert errors == sorted(errors) and errors[3] > 1.5 * errors[0]
    assert [error_of(mesh) for mesh in meshes if mesh is not None] == errors  # the same noise each time
    assert errors != [normals_error(g, SIZE, generator(2))(mesh) for mesh in meshes if mesh is not None]


def test_a_mug_that_is_half_filled_is_dug_to_its_floor(tmp_path: Path) -> None:
    scene = mug(0.05)
    assert open_depth(scene) == pytest.approx(0.46, abs=0.03)
    deepen(scene, setup_for("a red mug", tmp_path))
    other = mug(0.05)
    deepen(other, setup_for("a red mug", tmp_path))
    assert scene.sdf is not None and other.sdf is not None and torch.equal(scene.sdf, other.sdf)
    assert open_depth(scene) == pytest.approx(1.0, abs=0.12)
    assert scene.mesh is not None and is_closed(scene.mesh)
    grid, sdf = scene.grid, scene.sdf
    assert grid is not None and sdf is not None
    again = marching_tetrahedra(grid.vertices, sdf.detach(), grid)
    assert torch.allclose(again.v_pos, scene.mesh.v_pos, atol=1e-5)
    inside = filled_mug(grid.vertices, -0.5) > 2 * grid.spacing
    assert bool((sdf.detach()[inside] > 0).all())  # walls, floor and handle are left


def test_what_looks_worse_when_dug_stays_to_the_byte(tmp_path: Path) -> None:
    """Who knows a ball sees no ball in any mug, but in a filled one rather than in a hollow one."""
    scene = mug(0.2)
    sdf = scene.sdf
    deepen(scene, setup_for("a red ball", tmp_path))
    assert scene.sdf is sdf


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_who_is_shown_no_normal_maps_is_not_asked(
    share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Mesh] = []
    monkeypatch.setattr(
        "backend.stages.chain.normals_error", lambda *which: lambda mesh: asked.append(mesh) or 1.0
    )
    scene = mug(0.05)
    sdf = scene.sdf
    deepen(scene, setup_for("a red mug", tmp_path, shows="colours", share=share))
    assert scene.sdf is sdf and bool(asked) == bool(share)
