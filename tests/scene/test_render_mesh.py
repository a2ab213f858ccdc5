"""A batch of cameras draws what each of them draws alone, in every renderer of meshes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from backend.kernels.silhouette import edge_table
from backend.scene.camera import Camera, RenderOutput, orbit, rays
from backend.scene.mesh import Mesh
from backend.scene.render_mesh import render_colour, render_normals, render_shaded, render_shape
from tests.tools.made_meshes import grid_ball

Draw = Callable[[Mesh, Camera, Tensor], RenderOutput]


def ball(stretched: Tensor) -> Mesh:
    v_pos, tri = (torch.from_numpy(array) for array in grid_ball()[:2])
    return Mesh(v_pos.float() * stretched, tri.long())


def colours(mesh: Mesh, camera: Camera, background: Tensor) -> RenderOutput:
    edges = edge_table(mesh.t_pos_idx, len(mesh.v_pos))
    return render_colour(mesh, edges, camera, background, lambda points: points * 0.5 + 0.5)


def normals(mesh: Mesh, camera: Camera, background: Tensor) -> RenderOutput:
    return render_normals(mesh, edge_table(mesh.t_pos_idx, len(mesh.v_pos)), camera, background)


def clay(mesh: Mesh, camera: Camera, background: Tensor) -> RenderOutput:
    return render_shaded(mesh, None, camera, background)


@pytest.mark.parametrize("draw", [colours, normals, clay])
def test_a_batch_is_its_views(draw: Draw) -> None:
    mesh = ball(torch.tensor([0.8, 0.4, 0.6]))
    angle = torch.tensor([0.0, 50.0, 140.0])
    same = torch.ones_like(angle)
    camera = orbit(angle, angle / 4, 1.5 * same, 45 * same, 16, 20)
    background = torch.tensor([0.1, 0.2, 0.3])
    batch = draw(mesh, camera, background)
    assert batch.image.shape == (3, 16, 20, 3) and batch.opacity.shape == (3, 16, 20, 1)
    for i in range(3):
        alone = draw(mesh, camera[i : i + 1], background)
        assert torch.equal(batch.image[i], alone.image[0]) and torch.equal(batch.opacity[i], alone.opacity[0])
    assert not torch.equal(batch.image[0], batch.image[1])


def test_every_views_pixels_have_their_own_background_and_give_a_gradient() -> None:
    mesh = ball(torch.full((3,), 0.6))
    mesh = Mesh(mesh.v_pos.requires_grad_(), mesh.t_pos_idx)
    angle = torch.tensor([0.0, 90.0])
    same = torch.ones_like(angle)
    camera = orbit(angle, 0 * angle, 1.5 * same, 45 * same, 8, 8)
    behind = torch.arange(2 * 64.0)[:, None].expand(-1, 3) / 128
    out = colours(mesh, camera, behind)
    corners = out.image[:, 0, 0, 0]
    assert corners.tolist() == [0.0, 0.5]
    out.image[1].sum().backward()
    assert mesh.v_pos.grad is not None and float(mesh.v_pos.grad.abs().sum()) > 0


def test_a_balls_depth_and_normals_are_those_of_the_rays_that_meet_it() -> None:
    """Along the view, not along the ray; in camera space; nothing beside it."""
    camera = orbit(*torch.tensor([[35.0, 190.0], [20.0, -30.0], [1.3, 1.2], [45.0, 50.0]]), 24, 32)
    v_pos, tri = (torch.from_numpy(array) for array in grid_ball(60, 120, 0.4)[:2])
    shape = render_shape(Mesh(v_pos.float(), tri.long()), camera)
    origins, directions = rays(camera)
    along = -(origins * directions).sum(-1)
    inside = 0.4**2 - (origins.square().sum(-1) - along.square())
    hit = inside > 0.01  # away from the outline
    points = origins + directions * (along - inside.clamp(min=0).sqrt())[..., None]
    turned = torch.einsum("bhwi,bij->bhwj", points / 0.4, camera.c2w[:, :3, :3])
    depth = ((origins - points) * camera.c2w[:, None, None, :3, 2]).sum(-1)
    torch.testing.assert_close(shape[..., 0][hit], depth[hit], rtol=0, atol=5e-3)
    torch.testing.assert_close(shape[..., 1:][hit], turned[hit], rtol=0, atol=0.05)
    nothing = inside < -0.01
    assert bool(nothing.any()) and bool(shape[..., 0][nothing].isinf().all())
    assert not bool(shape[..., 1:][nothing].any())
