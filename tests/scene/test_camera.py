"""Cameras: where things appear, and that rays and projections agree."""

import pytest
import torch

from backend.scene.camera import orbit, rays


def camera(azimuth, elevation, distance=2.0, fov=50.0, height=48, width=64):
    az = torch.as_tensor(azimuth, dtype=torch.float32).reshape(-1)
    return orbit(
        az,
        torch.as_tensor(elevation, dtype=torch.float32).expand_as(az),
        torch.full_like(az, distance),
        torch.full_like(az, fov),
        height,
        width,
    )


def project(camera, points):
    """Pixel coordinates [B,N,2] (x right, y down, pixel centres at .5) and depth in front [B,N]."""
    clip = torch.einsum("bij,nj->bni", camera.mvp, torch.nn.functional.pad(points, (0, 1), value=1.0))
    ndc = clip[..., :2] / clip[..., 3:]
    return (ndc * 0.5 + 0.5) * torch.tensor([camera.width, camera.height]), clip[..., 3]


def test_azimuth_0_looks_from_minus_y_and_90_from_plus_x():
    position = camera([0.0, 90.0, 180.0, -90.0], 0.0).position
    expected = torch.tensor([[0.0, -2, 0], [2, 0, 0], [0, 2, 0], [-2, 0, 0]])
    assert torch.allclose(position, expected, atol=1e-6)


def test_angles_read_back():
    azimuth = torch.tensor([-170.0, -30.0, 0.0, 45.0, 120.0])
    for elevation in (-80.0, -10.0, 0.0, 60.0, 85.0):
        views = camera(azimuth, elevation)
        assert torch.allclose(views.azimuth, azimuth, atol=1e-2)
        assert torch.allclose(views.elevation, torch.full((5,), elevation), atol=1e-2)


def test_row_0_is_the_top_and_the_front_camera_has_x_to_the_right():
    points = torch.tensor([[0.0, 0, 0], [0, 0, 0.3], [0.3, 0, 0], [0, -0.3, 0]])
    pixels, depths = project(camera(0.0, 0.0), points)
    origin, above, right, nearer = pixels[0]
    assert torch.allclose(origin, torch.tensor([32.0, 24.0]))
    assert above[1] < 24 and above[0] == pytest.approx(32)
    assert right[0] > 32 and right[1] == pytest.approx(24)
    assert torch.allclose(nearer, origin, atol=1e-4)
    assert depths[0].tolist() == pytest.approx([2.0, 2.0, 2.0, 1.7])


def test_the_field_of_view_is_vertical():
    top = 2.0 * torch.tan(torch.deg2rad(torch.tensor(25.0)))
    pixel, _ = project(camera(0.0, 0.0, fov=50.0), torch.stack((torch.zeros(()), torch.zeros(()), top))[None])
    assert pixel[0, 0, 1] == pytest.approx(0.0, abs=1e-3)


def test_rays_go_through_the_pixels_that_their_points_project_to():
    views = camera([10.0, 200.0], 33.0)
    origins, directions = rays(views)
    assert torch.allclose(directions.norm(dim=-1), torch.ones(2, 48, 64), atol=1e-6)
    rows, columns = torch.meshgrid(torch.arange(48) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    for b in range(2):
        points = (origins[b] + 1.3 * directions[b]).reshape(-1, 3)
        pixel = project(views[b : b + 1], points)[0][0]
        assert torch.allclose(pixel, torch.stack((columns, rows), -1).reshape(-1, 2), atol=2e-2)


def test_the_camera_is_a_rotation_also_straight_above():
    for elevation in (-90.0, 0.0, 89.9, 90.0):
        rotation = camera(25.0, elevation).c2w[0, :3, :3]
        assert torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-6)
        assert torch.linalg.det(rotation) == pytest.approx(1.0, abs=1e-5)


def test_slices_and_sizes():
    views = camera([0.0, 90.0, 180.0], 0.0)
    assert len(views[1:]) == 2 and torch.equal(views[1:2].position, views.position[1:2])
    assert (views.resized(96, 128).height, views.resized(96, 128).width) == (96, 128)


def test_the_inverse_of_a_camera_is_written_down_and_right():
    views = camera(torch.linspace(-180, 180, 64), 37.0)
    expected = views.proj.double() @ torch.linalg.inv(views.c2w.double())
    assert torch.allclose(views.mvp.double(), expected, atol=2e-6)
