"""The gradient of an outline, against the area of a sphere's projection."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from backend.kernels import raster
from backend.kernels.silhouette import Edges, antialias, edge_table
from backend.scene.camera import orbit

DISTANCE, FOV = 2.0, 40.0


def sphere(subdivisions: int) -> tuple[Tensor, Tensor]:
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=1.0)
    return torch.tensor(mesh.vertices, dtype=torch.float32), torch.tensor(np.asarray(mesh.faces))


def mvp(size: int) -> Tensor:
    # no axis of the icosphere lines up with the pixels
    return orbit(*(torch.tensor([a]) for a in (23.0, 11.0, DISTANCE, FOV)), size, size).mvp[0]


def mask(v: Tensor, tri: Tensor, edges: Edges, matrix: Tensor, size: int) -> Tensor:
    pos = torch.cat((v, torch.ones_like(v[:, :1])), 1) @ matrix.T
    frags = raster.fragments(pos, tri, raster.rasterize_ids(pos, tri, size, size))
    image = raster.scatter(torch.ones_like(frags.depth)[:, None], frags, 0.0)
    return antialias(image, raster.depth_image(frags), pos, tri, edges)


def test_edge_table_of_odd_topologies() -> None:
    # a tetrahedron, a third face on its edge 0-1, a face that names a vertex twice, a lone triangle
    tri = torch.tensor([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2], [0, 1, 4], [5, 5, 6], [7, 8, 9]])
    edges = edge_table(tri, 10)
    found = {
        tuple(sorted(e)): (f, o)
        for e, f, o in zip(edges.ends.tolist(), edges.face.tolist(), edges.other.tolist(), strict=True)
    }
    assert len(found) == len(edges.ends) == 6 + 2 + 1 + 3
    assert found[0, 1][1] == -1, "three faces meet"
    assert set(found[2, 3]) == {2, 3}
    assert found[7, 8] == (6, -1)
    named = torch.cat((edges.ends, edges.third[:, None]), 1).sort(1).values
    assert torch.equal(named, tri[edges.face].sort(1).values)
    assert len(edge_table(tri[:0], 10).ends) == 0


@pytest.mark.parametrize("subdivisions", [2, 3, 4, 5])
@pytest.mark.parametrize("size", [64, 256])
def test_area_gradient_is_analytic(subdivisions: int, size: int) -> None:
    v, tri = sphere(subdivisions)
    edges, matrix = edge_table(tri, len(v)), mvp(size)
    focal = size / 2 / math.tan(math.radians(FOV) / 2)
    for radius in (0.31, 0.4, 0.47):
        s = torch.tensor(radius, requires_grad=True)
        area = mask(v * s, tri, edges, matrix, size).sum()
        area.backward()
        r = torch.tensor(radius, dtype=torch.float64, requires_grad=True)
        analytic = focal**2 * math.pi * torch.tan(torch.asin(r / DISTANCE)) ** 2
        analytic.backward()
        # an inscribed polygon has less area
        assert area.item() == pytest.approx(analytic.item(), rel=0.03 if subdivisions == 2 else 0.01)
        assert s.grad.item() == pytest.approx(r.grad.item(), rel=0.05)


def test_a_shifted_and_scaled_sphere_is_recovered() -> None:
    v, tri = sphere(4)
    size = 128
    edges, matrix = edge_table(tri, len(v)), mvp(size)
    true_s, true_t = 0.43, torch.tensor([0.06, 0.03, -0.05])
    right_up = torch.linalg.inv(matrix)[:3, :2] / torch.linalg.inv(matrix)[:3, :2].norm(dim=0)
    true_t = right_up @ (right_up.T @ true_t)  # depth and scale cannot be told apart
    with torch.no_grad():
        target = mask(v * true_s + true_t, tri, edges, matrix, size)
    s, t = torch.tensor(0.36, requires_grad=True), torch.zeros(2, requires_grad=True)
    adam = torch.optim.Adam([s, t], lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 100, 1e-5)
    for _ in range(100):
        adam.zero_grad()
        (mask(v * s + right_up @ t, tri, edges, matrix, size) - target).square().sum().backward()
        adam.step()
        schedule.step()
    assert abs(s.item() - true_s) < 1e-3
    assert (right_up @ t.detach() - true_t).abs().max() < 1e-3


def test_half_a_pixel_is_half_grey() -> None:
    def edge_at(x: float) -> Tensor:
        xy = torch.tensor([[-9.0, -9.0], [x, -9.0], [x, 20.0], [-9.0, 20.0]]) / 8 * 2 - 1
        pos = torch.cat((xy, torch.zeros(4, 1), torch.ones(4, 1)), 1)
        tri = torch.tensor([[0, 1, 2], [0, 2, 3]])
        frags = raster.fragments(pos, tri, raster.rasterize_ids(pos, tri, 8, 8))
        image = raster.scatter(torch.ones_like(frags.depth)[:, None], frags, 0.0)
        return antialias(image, raster.depth_image(frags), pos, tri, edge_table(tri, 4))[4, :, 0]

    for x in (3.0, 3.25, 3.5, 3.75, 3.999):
        expected = [1, 1, 1, x - 3, 0, 0, 0, 0]
        assert edge_at(x).tolist() == pytest.approx(expected, abs=1e-3)


def test_an_outline_before_another_surface_is_seen_and_one_behind_is_not() -> None:
    """Two squares, the nearer one half over the farther: the hidden edge has no say."""

    def layer(x0: float, x1: float, z: float) -> Tensor:
        xy = torch.tensor([[x0, 1.3], [x1, 1.3], [x1, 6.7], [x0, 6.7]]) / 8 * 2 - 1
        return torch.cat((xy, torch.full((4, 1), z), torch.ones(4, 1)), 1)

    pos = torch.cat((layer(1.2, 5.3, 0.5), layer(3.4, 7.1, -0.5))).requires_grad_()
    tri = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    frags = raster.fragments(pos, tri, raster.rasterize_ids(pos, tri, 8, 8))
    colour = (frags.face[:, None] < 2) * 0.3 + 0.4
    image = antialias(
        raster.scatter(colour, frags, 0.0), raster.depth_image(frags), pos, tri, edge_table(tri, 8)
    )
    assert image[4, :, 0].tolist() == pytest.approx(
        [0, 0.56, 0.7, 0.7 - 0.3 * 0.6, 0.4, 0.4, 0.4, 0.04], abs=1e-3
    )
    gradient = torch.autograd.grad(image[4, :, 0].sum(), pos)[0]
    assert gradient[[1, 2], 0].abs().max() == 0, "the far square's right edge is hidden"
    assert gradient[[0, 3], 0].sum() < 0 < gradient[[5, 6], 0].sum()


def test_corners_behind_the_camera_leave_gradients_finite() -> None:
    v, tri = sphere(3)
    edges = edge_table(tri, len(v))
    pos = (torch.cat((v, torch.ones_like(v[:, :1])), 1) @ mvp(32).T).clone()
    pos[::7, 3] = -0.3
    pos[3::7, 3] = 0.0
    pos.requires_grad_()
    frags = raster.fragments(pos, tri, raster.rasterize_ids(pos, tri, 32, 32))
    image = raster.scatter(torch.ones_like(frags.depth)[:, None], frags, 0.0)
    image = antialias(image, raster.depth_image(frags), pos, tri, edges)
    assert torch.autograd.grad(image.sum(), pos)[0].isfinite().all()


def test_empty_meshes_and_one_pixel() -> None:
    pos, tri = torch.tensor([[-1.0, -1, 0, 1], [3, -1, 0, 1], [-1, 3, 0, 1]]), torch.tensor([[0, 1, 2]])
    image, depth = torch.rand(1, 1, 3), torch.zeros(1, 1)
    assert torch.equal(antialias(image, depth, pos, tri, edge_table(tri, 3)), image)
    assert torch.equal(antialias(image, depth, pos, tri[:0], edge_table(tri[:0], 3)), image)
