"""Each noise is N(0, 1) and white in a view; what it shares between views is what its name says."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Generator, Tensor

from backend.diffusion.noise import FINER, Carried, DrawNoise, OnSurface, fresh
from backend.scene.camera import Camera, orbit
from backend.scene.mesh import Mesh
from backend.scene.render_mesh import render_shape

SIDE, CHANNELS, FOV = 32, 4, 45.0
PIXEL = 2 * 1.5 * torch.tensor(FOV / 2).deg2rad().tan().item() / SIDE  # metres, on the wall below


def wall() -> Mesh:
    """A square of 1 m through the origin, towards -Y: it does not fill the frame."""
    corners = torch.tensor([[-0.5, 0, -0.5], [0.5, 0, -0.5], [0.5, 0, 0.5], [-0.5, 0, 0.5]])
    return Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]))


def seen(azimuth: float = 0.0, right: float = 0.0) -> Camera:
    """From 1.5 m; moved `right` metres along X."""
    one = torch.ones(1)
    camera = orbit(azimuth * one, 0 * one, 1.5 * one, FOV * one, SIDE, SIDE)
    camera.c2w[:, 0, 3] += right
    return camera


def rule(name: str, seed: int) -> DrawNoise:
    draw = partial(render_shape, wall())
    return {"fresh": fresh, "carried": Carried(seed), "surface": OnSurface(draw, CHANNELS, "cpu", seed)}[name]


def drawn(noise: DrawNoise, camera: Camera, seed: int) -> Tensor:
    """[C,SIDE,SIDE] of an update whose stage's generator stands at `seed`."""
    return noise(torch.zeros(1, CHANNELS, SIDE, SIDE), camera, Generator().manual_seed(seed))[0]


def correlation(a: Tensor, b: Tensor) -> float:
    return float((a * b).mean() / (a.square().mean() * b.square().mean()).sqrt())


@pytest.mark.parametrize("name", ["fresh", "carried", "surface"])
@pytest.mark.parametrize("azimuth", [0.0, 50.0])
def test_a_views_noise_has_variance_one_and_is_white(name: str, azimuth: float) -> None:
    n = torch.stack([drawn(rule(name, seed), seen(azimuth), 100 + seed) for seed in range(8)])
    assert float(n.mean()) == pytest.approx(0, abs=0.02)  # 32,768 values: three standard errors are 0.017
    assert float(n.square().mean()) == pytest.approx(1, abs=0.03)
    assert correlation(n[..., 1:], n[..., :-1]) == pytest.approx(0, abs=0.02)
    assert correlation(n[..., 1:, :], n[..., :-1, :]) == pytest.approx(0, abs=0.02)
    assert correlation(n[:, 1:], n[:, :-1]) == pytest.approx(0, abs=0.02)  # channels
    assert correlation(n[1:], n[:-1]) == pytest.approx(0, abs=0.02)  # seeds


@pytest.mark.parametrize(
    ("name", "same_point", "same_pixel"), [("fresh", 0, 0), ("carried", 0, 1), ("surface", 1, 0)]
)
def test_what_two_views_share(name: str, same_point: float, same_pixel: float) -> None:
    """A camera three pixels to the right sees every point of the wall three pixels to the left."""
    noise, inner = rule(name, 1), slice(8, -8)  # the wall alone, with what it looks like from both
    one, other = drawn(noise, seen(), 5), drawn(noise, seen(right=3 * PIXEL), 6)
    here = one[:, inner, inner]
    there = other[:, inner, slice(5, -11)]
    assert correlation(here, there) == pytest.approx(same_point, abs=0.06)
    assert correlation(here, other[:, inner, inner]) == pytest.approx(same_pixel, abs=0.06)


def test_pixels_that_overlap_in_part_correlate_in_part() -> None:
    """Half a pixel to the right: two pixels share half of the wall that they see."""
    noise, inner = rule("surface", 1), slice(8, -8)
    one, other = drawn(noise, seen(), 5), drawn(noise, seen(right=PIXEL / 2), 6)
    assert correlation(one[:, inner, inner], other[:, inner, inner]) == pytest.approx(0.5, abs=0.08)


def test_where_there_is_no_surface_the_noise_is_fresh() -> None:
    noise = rule("surface", 1)
    one, same, other = (drawn(noise, seen(), seed) for seed in (5, 5, 6))
    assert torch.equal(one, same)
    corner = slice(0, 2)
    assert torch.equal(one[:, corner, corner], drawn(fresh, seen(), 5)[:, corner, corner])
    assert not torch.equal(one[:, corner, corner], other[:, corner, corner])
    middle = slice(12, 20)
    assert torch.equal(one[:, middle, middle], other[:, middle, middle])


def test_surface_is_looked_for_at_a_finer_size_and_in_every_view() -> None:
    looked: list[Camera] = []

    def draw(camera: Camera) -> Tensor:
        looked.append(camera)
        return render_shape(wall(), camera)

    two = Camera(
        torch.cat((seen().c2w, seen(30.0).c2w)), torch.cat((seen().proj, seen().proj)), SIDE * 8, SIDE * 8
    )
    n = OnSurface(draw, CHANNELS, "cpu", 1)(
        torch.zeros(2, CHANNELS, SIDE, SIDE), two, Generator().manual_seed(5)
    )
    assert [(c.height, len(c)) for c in looked] == [(SIDE * FINER, 2)]
    assert torch.equal(n[0, :, 12:20, 12:20], drawn(rule("surface", 1), seen(), 9)[:, 12:20, 12:20])
