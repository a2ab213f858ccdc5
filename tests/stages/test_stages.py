"""The stages on a prior that knows the answer: they must find it, and say so where they cannot."""

import dataclasses
from typing import Any

import pytest
import torch

from backend.config import DRAFT, StageSchedule
from backend.errors import NumericsError, SceneError
from backend.results.look import render_scene, turntable_cameras
from backend.scene import scene as scene_state
from backend.scene.mesh import is_closed
from backend.scene.optimizer import adamw, decay
from backend.stages import stages
from backend.stages.apfo import Step
from backend.stages.guides import Guide
from tests.tools.here import generator, here
from tests.tools.made_meshes import signed_volume
from tests.tools.oracle import BLUE, RADIUS, RED, Oracle, ball

NERF = dataclasses.replace(
    DRAFT.nerf, levels=25, views=4, size=32, samples=48, occupancy=24, grid_levels=4, grid_log2_size=12,
    grid_finest=32, hidden=16, orientation_points=128,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained() -> scene_state.Scene:
    scene = scene_state.new_scene(NERF, here(), 0)
    run(stages.nerf_stage(scene, told(NERF), NERF, generator(), 0))
    return scene


class Looking(Oracle):
    """Keeps what it is shown of the shape."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[Any] = []

    def shown(self, conditioning: Any, draw: object) -> Any:
        self.drawn.append(draw)
        return conditioning


def told(walk: StageSchedule, kind: str = "colour", prior: Oracle | None = None) -> Guide:
    prior = prior or Oracle()
    return Guide(prior, prior.prepare("a ball", "", kind, walk.size), walk.guidance_scale)


def run(stage: stages.Stage) -> list[Step]:
    return list(stage.steps(0))


def silhouette_iou(scene: scene_state.Scene) -> float:
    cameras = turntable_cameras(4, 48, here(), first=20)
    white, black = (render_scene(scene, cameras, torch.full((3,), v, device=here())) for v in (1.0, 0.0))
    mask = (white - black).mean(-1) < 0.5
    true = ball(cameras)[1][..., 0]
    return float((mask & true).sum() / (mask | true).sum())


def test_the_field_becomes_the_ball(trained: scene_state.Scene) -> None:
    field_only = dataclasses.replace(trained, mesh=None)
    assert silhouette_iou(field_only) > 0.9


def test_the_hand_over_is_a_closed_ball(trained: scene_state.Scene) -> None:
    scene = dataclasses.replace(trained)
    cameras = Oracle.spec.poses.sample(generator(), 8, 32, 32)
    iou = scene_state.field_to_surface(scene, cameras, 16)
    assert iou > 0.75 and scene.mesh is not None
    assert is_closed(scene.mesh)
    assert signed_volume(scene.mesh) == pytest.approx(4 / 3 * torch.pi * RADIUS**3, rel=0.2)


def test_geometry_finds_the_right_radius(trained: scene_state.Scene) -> None:
    scene = dataclasses.replace(trained)
    scene_state.field_to_surface(scene, Oracle.spec.poses.sample(generator(), 8, 32, 32), 14)
    assert scene.grid is not None
    # start from a ball that is a quarter too small
    radius = 0.75 * RADIUS
    scene.sdf = torch.nn.Parameter((radius - scene.grid.vertices.norm(dim=1)) / scene.grid.spacing)
    scene.mesh = scene_state.detached(scene_state.surface(scene))
    before = silhouette_iou(scene)
    # it has to grow by two cells in few updates, which smoothness would slow down
    walk = dataclasses.replace(
        DRAFT.geometry, levels=30, views=4, size=48, sdf_rate=5e-2, cells=14, consistency=0.01, laplacian=0.02
    )
    run(stages.geometry_stage(scene, told(walk, "normal"), walk, generator()))
    after = silhouette_iou(scene)
    assert before < 0.6 and after > 0.85, (before, after)
    assert is_closed(scene.mesh)


def test_texture_learns_the_colours(trained: scene_state.Scene) -> None:
    scene = scene_state.new_scene(NERF, here(), 3)  # a field that knows no colour
    shape = dataclasses.replace(trained)
    scene_state.field_to_surface(shape, Oracle.spec.poses.sample(generator(), 8, 32, 32), 14)
    scene.mesh = shape.mesh
    walk = dataclasses.replace(DRAFT.texture, levels=15, views=4, size=32, grid_rate=3e-2, head_rate=2e-2)
    before = [p.detach().clone() for p in scene.field.density_head.parameters()]
    prior = Looking()
    run(stages.texture_stage(scene, told(walk, prior=prior), walk, generator(), 0))
    (shape_of,) = prior.drawn  # what a ControlNet would see: the mesh from this stage's cameras
    view = shape_of(Oracle.spec.poses.sample(generator(), 1, 16, 16))
    assert view.shape == (1, 16, 16, 4) and 1.4 - RADIUS < float(view[0, 8, 8, 0]) < 1.6
    points = torch.tensor([[0.0, -0.3, 0.3], [0.0, -0.3, -0.3]], device=here())
    assert torch.allclose(scene.field.albedo(points).cpu(), torch.tensor([RED, BLUE]), atol=0.12)
    for old, new in zip(before, scene.field.density_head.parameters(), strict=True):
        assert torch.equal(old, new)  # the shape's network is left alone


@pytest.mark.parametrize(("density", "word"), [(-600.0, "empty"), (600.0, "full")])
def test_an_empty_or_full_scene_is_noticed(density: float, word: str) -> None:
    walk = dataclasses.replace(NERF, grid_rate=0.0, head_rate=0.0, half=1.2, samples=16, occupancy_every=4)
    scene = scene_state.new_scene(walk, here(), 0)
    with torch.no_grad():
        scene.field.density_head[-1].bias.fill_(density)
    scene.occupancy.update(scene.field, None, decay=0.0)
    with pytest.raises(SceneError, match=word) as caught:
        run(stages.nerf_stage(scene, told(walk), walk, generator(), 0))
    assert caught.value.todo


@pytest.mark.parametrize("fault", [float("nan"), float("inf")])
def test_a_nan_is_named_with_its_iteration(fault: float) -> None:
    scene = scene_state.new_scene(NERF, here(), 0)
    stage = stages.nerf_stage(scene, told(NERF, prior=Oracle(fault)), NERF, generator(), 0)
    before = scene.field.table.detach().clone()
    with pytest.raises(NumericsError, match="iteration 0: D_p"):
        run(stage)
    assert torch.equal(before, scene.field.table)  # stopped before it could spoil anything


def test_learning_rates_fall_at_the_end() -> None:
    walk = dataclasses.replace(NERF, levels=10, views=1, decay_from=0.5)
    optimizer = adamw([([torch.nn.Parameter(torch.zeros(1))], 1.0)])
    rates = []
    for iteration in range(11):
        decay(optimizer, walk, iteration)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[:6] == [1.0] * 6 and rates[10] == pytest.approx(0.1) and rates == sorted(rates, reverse=True)


def test_a_stage_can_start_in_the_middle() -> None:
    scene = scene_state.new_scene(NERF, here(), 0)
    stage = stages.nerf_stage(scene, told(NERF), NERF, generator(), 0)
    steps = list(stage.steps(NERF.iterations - 3))
    assert [s.iteration for s in steps] == [97, 98, 99]
    assert steps[0].level.timestep < 100


def test_backgrounds_follow_the_priors_policy() -> None:
    scene = scene_state.new_scene(NERF, here(), 0)
    prior, g = Oracle(), generator()
    seen = {
        tuple(round(v, 2) for v in stages.sample_background(scene, prior.spec, g).tolist()) for _ in range(40)
    }
    assert seen == {(0.15,) * 3, (0.5,) * 3, (0.85,) * 3}


class RingOracle(Oracle):
    spec = dataclasses.replace(Oracle.spec, frames=4)


@pytest.mark.parametrize("name", ["nerf", "geometry", "texture"])
def test_a_prior_of_rings_is_shown_rings_in_every_stage(name: str, trained: scene_state.Scene) -> None:
    scene = scene_state.new_scene(NERF, here(), 3)
    if name != "nerf":
        scene = dataclasses.replace(trained)
        scene_state.field_to_surface(scene, Oracle.spec.poses.sample(generator(), 8, 32, 32), 12)
    walk = dataclasses.replace(getattr(DRAFT, name), levels=2, views=1, size=24)
    if name == "nerf":
        walk = dataclasses.replace(NERF, levels=2, views=1, size=24, entropy_from=0.0)
    g = told(walk, "normal" if name == "geometry" else "colour", RingOracle())
    if name == "nerf":
        stage = stages.nerf_stage(scene, g, walk, generator(), 0)
    elif name == "geometry":
        stage = stages.geometry_stage(scene, g, walk, generator())
    else:
        stage = stages.texture_stage(scene, g, walk, generator(), 0)
    for step in run(stage):
        assert step.output.image.shape == (4, 24, 24, 3)
        turned = (step.camera.azimuth - step.camera.azimuth[0]) % 360
        assert torch.allclose(turned.cpu(), torch.tensor([0.0, 90.0, 180.0, 270.0]), atol=1e-3)
        assert float(step.camera.elevation.std()) < 1e-3 and step.loss.isfinite()
