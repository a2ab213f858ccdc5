"""Scenes round the cameras: cameras that look outwards, a field inside out, and the surface that they see."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Generator

from backend.config import DRAFT
from backend.diffusion.prior import PosesWithin, PriorSpec, within
from backend.errors import InputError
from backend.results.look import cameras_round
from backend.scene.camera import look_out, rays
from backend.scene.mesh import face_cross, is_closed
from backend.scene.scene import Scene, new_scene, seen_surface, settle_colours
from backend.scene.simplify import lighten
from tests.tools.here import here

TINY = dataclasses.replace(
    DRAFT.nerf, samples=32, grid_levels=4, grid_log2_size=10, grid_finest=32, hidden=8, occupancy=16
)


def scene(bias: float) -> Scene:
    return new_scene(dataclasses.replace(TINY, density_bias=bias), here(), 1)


def test_a_camera_looks_out_towards_its_azimuth_and_elevation() -> None:
    place = torch.tensor([[0.1, 0.0, -0.1], [0.0, 0.2, 0.0]])
    camera = look_out(
        torch.tensor([0.0, 90.0]), torch.tensor([0.0, 30.0]), place, torch.full((2,), 60.0), 9, 9
    )
    _, directions = rays(camera)
    middle = directions[:, 4, 4]
    assert torch.allclose(middle, torch.tensor([[0.0, -1.0, 0.0], [0.75**0.5, 0.0, 0.5]]), atol=1e-6)
    assert torch.equal(camera.position, place)
    assert bool((directions[:, 0, 4, 2] > directions[:, 8, 4, 2]).all())  # the picture's top is up
    drawn = PosesWithin().sample(Generator().manual_seed(1), 200, 8, 8)
    assert float((rays(drawn)[1].mean((1, 2))[:, 2]).asin().rad2deg().abs().max()) <= 30.5
    assert float(drawn.position.abs().max()) <= 0.1


def test_a_negative_bias_turns_the_field_inside_out() -> None:
    points = torch.tensor([[0.0, 0, 0], [0.45, 0, 0], [0.58, 0.58, 0.58]], device=here())
    ball, shell = (scene(bias).field.density(points).detach() for bias in (10.0, -10.0))
    assert ball[0] > 5 and ball[2] == 0
    assert shell[0] < 1e-3 and shell[2] > 5  # to the box's corners
    assert float(shell[1]) == pytest.approx(float(torch.nn.functional.softplus(torch.tensor(-1.0))), rel=0.15)


def test_the_surface_of_a_scene_is_what_the_cameras_see_of_it() -> None:
    """Of a thick shell: its inner side, towards the cameras, and nothing of the box."""
    one = scene(-200.0)
    cameras = PosesWithin().sample(Generator(here()).manual_seed(1), 6, 16, 16)
    seen_surface(one, cameras, 24)
    mesh = one.mesh
    assert mesh is not None and not is_closed(mesh)
    radius = mesh.v_pos.norm(dim=1)
    assert float(radius.std() / radius.mean()) < 0.03
    assert float(radius.mean()) == pytest.approx(0.5 + 0.5 * 14 / 200, abs=0.02)  # where it is 14 per metre
    towards = (face_cross(mesh) * mesh.v_pos[mesh.t_pos_idx].mean(1)).sum(1)
    assert float(towards.clamp(min=0).sum() / towards.abs().sum()) < 0.01  # slivers point anywhere
    settle_colours(one, 1e-2, 1e-2)
    light = lighten(mesh, 400)
    assert len(mesh.t_pos_idx) > 1000 and 300 < len(light.t_pos_idx) < 600
    away = (light.v_pos.norm(dim=1) / radius.mean() - 1).abs()
    assert float(away.mean()) < 0.03 and lighten(mesh, None) is mesh


def test_round_a_scene_is_from_its_middle_round_an_object_from_outside() -> None:
    inner, outer = (cameras_round(scene(bias), 4, 8) for bias in (-10.0, 10.0))
    assert (
        torch.equal(inner.position, torch.zeros(4, 3, device=here()))
        and float(outer.position.norm(dim=1).min()) > 1.4
    )
    assert float(rays(inner)[1][0, 4, 4, 2]) < -0.2  # a little down, as the others look


def test_a_prior_of_any_prompt_is_shown_views_without_words_or_background() -> None:
    spec = within(PriorSpec())
    assert spec.view_prompt == "{prompt}" and isinstance(spec.poses, PosesWithin)
    assert spec.backgrounds.learned_share == 0 and spec.backgrounds.solids == ((0.0, 0.0, 0.0),)
    for known in (PriorSpec(kinds=("mug",)), PriorSpec(frames=4)):
        with pytest.raises(InputError, match="single objects"):
            within(known)
