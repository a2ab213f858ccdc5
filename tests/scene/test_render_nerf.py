import dataclasses
from typing import Any

import pytest
import torch

from backend.kernels.hashgrid import GridLayout
from backend.kernels.march import Samples, march
from backend.scene import render_nerf as render_nerf_module
from backend.scene.camera import Camera, orbit
from backend.scene.field import Backdrop, Field, Occupancy
from backend.scene.render_nerf import Sampling, render_nerf, render_views
from tests.tools.here import generator, here

SAMPLING = Sampling(samples=64, budget=2**18, near=0.1, orientation_points=256)


@pytest.fixture
def scene() -> tuple[Field, Occupancy]:
    torch.manual_seed(0)
    field = Field(GridLayout(4, 2, 10, finest=32), 16, 1.0, 40.0).to(here())
    return field, Occupancy(field, 24, step=2 * 3**0.5 / 64)


def camera(size: int = 24) -> Camera:
    ones = torch.ones(1, device=here())
    return orbit(30 * ones, 20 * ones, 1.5 * ones, 50 * ones, size, size)


def test_a_ball_is_opaque_in_the_middle_and_air_in_the_corners(scene: tuple[Field, Occupancy]) -> None:
    background = torch.tensor([0.9, 0.1, 0.2], device=here())
    out = render_nerf(*scene, camera(), background, SAMPLING)
    assert out.image.shape == (1, 24, 24, 3) and out.opacity.shape == (1, 24, 24, 1)
    assert out.opacity[0, 12, 12] > 0.99 and out.opacity[0, 0, 0] < 0.01
    assert torch.allclose(out.image[0, 0, 0], background, atol=0.01)
    assert out.orientation is None


def test_without_a_generator_it_draws_nothing(scene: tuple[Field, Occupancy]) -> None:
    state = torch.random.get_rng_state()
    first = render_nerf(*scene, camera(), torch.zeros(3, device=here()), SAMPLING)
    second = render_nerf(*scene, camera(), torch.zeros(3, device=here()), SAMPLING)
    assert torch.equal(first.image, second.image)
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_same_generator_gives_the_same_picture(scene: tuple[Field, Occupancy]) -> None:
    def once() -> torch.Tensor:
        return render_nerf(*scene, camera(), torch.zeros(3, device=here()), SAMPLING, generator(5)).image

    assert torch.equal(once(), once())


def test_gradients_reach_field_and_backdrop(scene: tuple[Field, Occupancy]) -> None:
    field, occupancy = scene
    backdrop = Backdrop(8).to(here())
    out = render_nerf(field, occupancy, camera(), backdrop, SAMPLING, generator())
    assert out.orientation is not None
    (out.image.sum() + out.orientation).backward()
    for parameter in [*field.parameters(), *backdrop.parameters()]:
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()


def test_a_convex_ball_has_hardly_any_surface_that_faces_away(scene: tuple[Field, Occupancy]) -> None:
    out = render_nerf(*scene, camera(), torch.zeros(3, device=here()), SAMPLING, generator())
    assert out.orientation is not None
    assert out.orientation / out.opacity.sum() < 0.05


def test_the_budget_bounds_the_samples(scene: tuple[Field, Occupancy]) -> None:
    few = Sampling(samples=64, budget=500, near=0.1, orientation_points=0)
    out = render_nerf(*scene, camera(), torch.zeros(3, device=here()), few)
    assert torch.isfinite(out.image).all()


def test_views_are_the_single_renders(scene: tuple[Field, Occupancy]) -> None:
    az = torch.tensor([0.0, 90.0], device=here())
    ones = torch.ones(2, device=here())
    both = orbit(az, 10 * ones, 1.5 * ones, 50 * ones, 16, 16)
    views = render_views(*scene, both, torch.zeros(3, device=here()), SAMPLING)
    alone = render_nerf(*scene, both[1:2], torch.zeros(3, device=here()), SAMPLING)
    assert torch.equal(views.image[1:], alone.image)


def test_budget_and_orientation_are_of_a_view(
    scene: tuple[Field, Occupancy], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = camera(12)
    four = Camera(one.c2w.repeat(4, 1, 1), one.proj.repeat(4, 1, 1), 12, 12)
    asked = []

    def counting(*args: Any) -> Samples:
        asked.append(args[-1])
        return march(*args)

    monkeypatch.setattr(render_nerf_module, "march_rays", counting)
    sampling = dataclasses.replace(SAMPLING, orientation_points=10**6)
    outputs = [
        render_nerf(*scene, views, torch.zeros(3, device=here()), sampling, generator(1))
        for views in (one, four)
    ]
    assert asked == [2**18, 4 * 2**18]
    single, ring = (float(out.orientation.detach()) for out in outputs if out.orientation is not None)
    assert single > 0 and ring == pytest.approx(single, rel=0.3)
