"""The field's normals as pictures: a ball's are known, and gradients are those of finite differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from backend.kernels import using
from backend.scene.camera import Camera, rays, rings_of
from backend.scene.field import Field, Occupancy
from backend.scene.render_nerf import Sampling, render_field_normals
from tests.scene.test_render_nerf import camera
from tests.scene.test_render_nerf import scene as scene
from tests.tools.here import generator, here

SAMPLING = Sampling(samples=64, budget=2**20, near=0.1, orientation_points=0)


def background() -> Tensor:
    return torch.tensor([0.5, 0.5, 1.0], device=here())


@pytest.mark.parametrize("frames", [1, 4])
def test_a_ball_s_normals_are_its_own_in_every_camera_s_own_space(
    scene: tuple[Field, Occupancy], frames: int
) -> None:
    """A soft ball of radius 0.5: where a ray meets it, the normal is the direction from the centre."""
    views = rings_of(camera(24), frames)
    out = render_field_normals(*scene, views, background(), SAMPLING)
    assert out.image.shape == (frames, 24, 24, 3) and out.opacity.shape == (frames, 24, 24, 1)
    assert torch.allclose(out.image[0, 0, 0], background(), atol=0.01)
    origins, directions = rays(views)
    along = -(origins * directions).sum(-1, keepdim=True)
    nearest = origins + along * directions
    inside = 0.42**2 - nearest.square().sum(-1, keepdim=True)  # well inside, away from its soft edge
    hit = nearest - inside.clamp(min=0).sqrt() * directions
    expected = torch.einsum("bhwi,bij->bhwj", F.normalize(hit, dim=-1), views.c2w[:, :3, :3])
    got = F.normalize((out.image - (1 - out.opacity) * background()) * 2 - out.opacity, dim=-1)
    middle = inside[..., 0] > 0.08
    assert middle.sum() > 20 * frames
    assert float((got * expected).sum(-1)[middle].detach().min()) > 0.97


def test_gradients_are_those_of_finite_differences(scene: tuple[Field, Occupancy]) -> None:
    field, occupancy = scene
    field = field.double()
    torch.nn.init.uniform_(field.table, -0.3, 0.3)
    view = camera(6)
    view = Camera(view.c2w.double(), view.proj.double(), view.height, view.width)
    weight = torch.rand(1, 6, 6, 3, generator=torch.Generator().manual_seed(1)).double().to(here())

    def loss() -> Tensor:
        out = render_field_normals(field, occupancy, view, background().double(), SAMPLING, generator(3))
        return (weight * out.image).sum()

    with using("torch"):  # the kernels know float32 alone
        compare(field, loss)


def compare(field: Field, loss: Callable[[], Tensor]) -> None:
    loss().backward()
    for parameter in (field.table, field.density_head[0].weight, field.density_head[2].bias):
        assert parameter.grad is not None
        flat, gradient = parameter.data.view(-1), parameter.grad.flatten()
        for at in gradient.abs().argsort(descending=True)[[0, 3, 7]] if len(flat) > 8 else range(len(flat)):
            kept, step, sides = float(flat[at]), 1e-5, []
            for sign in (1, -1):
                flat[at] = kept + sign * step
                with torch.no_grad():
                    sides.append(float(loss()))
            flat[at] = kept
            assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(
                float(gradient[at]), rel=1e-3, abs=1e-6
            )
