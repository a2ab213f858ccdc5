"""Pictures of objects, against a ball's known silhouette and normals, and against denser sampling."""

import math
import time

import pytest
import torch

from backend.objects.kinds import COLOURS
from backend.objects.shapes import RADIUS, build
from backend.objects.sphere_trace import coarser, gbuffer, render, shade, sky_shade
from backend.scene.camera import Camera, orbit, rays
from dreamflow_blender.contract.language.reading import Description

SIZE = 96


def cameras(size: int = SIZE, count: int = 3) -> Camera:
    azimuth = torch.tensor([0.0, 70, -160, 35])[:count]
    elevation = torch.tensor([10.0, -8, 75, 30])[:count]
    distance = torch.tensor([1.5, 1.4, 1.6, 1.45])[:count]
    return orbit(azimuth, elevation, distance, torch.full((count,), 45.0), size, size)


def ball_hits(camera: Camera, radius: float) -> tuple[torch.Tensor, torch.Tensor]:
    origin, direction = rays(camera)
    b = (origin * direction).sum(-1)
    under = b * b - (origin.square().sum(-1) - radius**2)
    return under > 0, (origin + direction * (-b - under.clamp(min=0).sqrt())[..., None]) / radius


def ball_radius() -> float:
    shape = build(Description("ball"))
    return float(-shape.sdf(torch.zeros(1, 3)))


def test_alpha_of_a_ball():
    camera = cameras()
    alpha = render(build(Description("ball")), camera).alpha[..., 0]
    fine, _ = ball_hits(camera.resized(SIZE * 8, SIZE * 8), ball_radius())
    true = fine.view(3, SIZE, 8, SIZE, 8).float().mean((2, 4))
    assert RADIUS - 0.02 < ball_radius() <= RADIUS
    assert (alpha - true).abs().max() < 0.25  # nine samples of a straight edge
    assert (alpha - true).abs().mean() < 2e-3
    assert (alpha.sum() / true.sum() - 1).abs() < 2e-3


def test_normals_of_a_ball():
    camera = cameras()
    views = render(build(Description("ball")), camera)
    inside, world = ball_hits(camera, ball_radius())
    turned = torch.einsum("bhwi,bij->bhwj", world, camera.c2w[:, :3, :3])
    inner = views.alpha[..., 0] == 1
    assert (inner <= inside).all()
    found = views.normal[inner] * 2 - 1
    assert (found.norm(dim=1) - 1).abs().max() < 1e-4
    cosine = (found * turned[inner]).sum(1)
    assert cosine.min() > math.cos(math.radians(6))  # the rim, where a pixel spans many degrees
    assert cosine.mean() > math.cos(math.radians(0.7))
    middle = views.normal[:, SIZE // 2, SIZE // 2]
    assert torch.allclose(middle, torch.tensor([0.5, 0.5, 1.0]).expand(3, 3), atol=0.02)


def test_colour_is_straight_and_shaded_by_the_sky():
    camera = cameras(count=1)
    shape = build(Description("ball", "red"))
    views = render(shape, camera)
    inside, world = ball_hits(camera, ball_radius())
    edge = (views.alpha[..., 0] > 0) & (views.alpha[..., 0] < 1)
    true = torch.tensor(COLOURS["red"]) * sky_shade(world.reshape(-1, 3)).view(1, SIZE, SIZE, 1)
    inner = views.alpha[..., 0] == 1
    assert (views.colour - true)[inner].abs().max() < 0.01
    assert (views.colour - true)[edge & inside].abs().max() < 0.03  # not darkened where half covered
    assert (views.colour[views.alpha[..., 0] == 0] == 0).all()
    assert sky_shade(torch.tensor([[0.0, 0, 1], [0, 0, -1]]))[:, 0].tolist() == pytest.approx([1.0, 0.7])
    grey = views.over((0.5, 0.5, 0.5))
    assert torch.equal(grey[0, 0, 0], torch.full((3,), 0.5))
    assert torch.equal(views.over((0.5, 0.5, 1.0), normal=True)[0, 0, 0], torch.tensor([0.5, 0.5, 1.0]))


@pytest.mark.parametrize("kind", ["chair", "boat", "robot", "house"])
def test_against_many_rays_everywhere(kind: str):
    """Edges alone are sampled densely, and rays start late and leap: nothing may be lost by that."""
    shape = build(Description(kind))
    size = 48
    camera = cameras(size, 4)
    mine, plain = render(shape, camera), render(shape, camera.resized(4 * size, 4 * size), edge=1)

    def pooled(image: torch.Tensor) -> torch.Tensor:
        return image.view(4, size, 4, size, 4, -1).mean((2, 4))

    alpha = pooled(plain.alpha)
    assert (mine.alpha - alpha).mean().abs() < 1e-3
    assert (mine.alpha - alpha).abs().mean() < 8e-3  # 3 x 3 rays on the rim against 4 x 4
    difference = (mine.colour * mine.alpha - pooled(plain.colour * plain.alpha)).abs()
    assert difference.mean() < 6e-3
    assert difference.max() < 0.4


def test_hits_lie_where_plain_sphere_tracing_finds_them():
    shape = build(Description("teapot"))
    camera = cameras(40, 4)
    origin, direction = (r.reshape(-1, 3) for r in rays(camera))
    t = torch.full((len(origin),), 0.8)
    for _ in range(400):
        t = t + 0.9 * shape.sdf(origin + t[:, None] * direction).clamp(min=0)
    points = origin + t[:, None] * direction
    hit = (shape.sdf(points) < 1e-3) & (points.norm(dim=1) < 0.6)
    alpha = render(shape, camera).alpha.reshape(-1)
    assert ((alpha > 0.5) != hit).float().mean() < 0.004


def test_recolouring_costs_no_tracing_and_changes_colours_only():
    camera = cameras(48, 2)
    red, blue = build(Description("car", "red")), build(Description("car", "blue"))
    buffer = gbuffer(red, camera)
    a, b = shade(buffer, blue.colours), render(blue, camera)
    assert torch.equal(a.colour, b.colour) and torch.equal(a.alpha, b.alpha)
    assert torch.equal(a.normal, shade(buffer, red.colours).normal)
    assert not torch.equal(a.colour, shade(buffer, red.colours).colour)


def test_coarser_pixels_are_averages():
    camera = cameras(64, 2)
    buffer = gbuffer(build(Description("duck")), camera)
    colours = build(Description("duck")).colours
    fine, coarse = shade(buffer, colours), shade(coarser(buffer, 2), colours)
    alpha = fine.alpha.view(2, 32, 2, 32, 2, 1)
    assert torch.allclose(coarse.alpha, alpha.mean((2, 4)), atol=1e-5)
    premultiplied = (fine.colour.view(2, 32, 2, 32, 2, 3) * alpha).mean((2, 4))
    assert torch.allclose(coarse.colour * coarse.alpha, premultiplied, atol=1e-5)


def test_an_empty_view_and_a_wide_one():
    away = orbit(torch.zeros(1), torch.zeros(1), torch.tensor([1.5]), torch.tensor([45.0]), 16, 24)
    turned = away.c2w.clone()
    turned[:, :3, 0] *= -1
    turned[:, :3, 2] *= -1
    shape = build(Description("mug"))
    assert render(shape, Camera(turned, away.proj, 16, 24)).alpha.max() == 0
    assert render(shape, away).alpha.shape == (1, 16, 24, 1)
    assert render(shape, away).alpha[0, 8, 12] == 1


def test_speed_is_printed():
    shape = build(Description("duck"))
    began = time.process_time()
    render(shape, cameras(128, 4))
    print(f"duck at 128^2: {(time.process_time() - began) / 4 * 1000:.0f} ms a view")
