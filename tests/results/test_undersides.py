"""What faces the ground takes the colours of what is seen beside it; all else stays to the bit."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.results.undersides import CLEAR, GRAZING, with_undersides
from backend.scene.mesh import Mesh
from tests.tools.made_meshes import grid_ball

RED, NOISE = torch.tensor((0.8, 0.1, 0.1)), torch.tensor((0.1, 0.9, 0.9))


def ball() -> Mesh:
    v_pos, tri = (torch.from_numpy(np.asarray(each)) for each in grid_ball(48, 96)[:2])
    return Mesh(v_pos.float(), tri.long())


def mug() -> Mesh:
    """A cup 0.8 m wide and high: walls and a floor 0.06 m thick, by turning its outline about z."""
    outline = torch.tensor([(0.0, -0.4), (0.4, -0.4), (0.4, 0.4), (0.34, 0.4), (0.34, -0.34), (0.0, -0.34)])
    steps = torch.cat([torch.lerp(a, b, torch.linspace(0, 1, 25)[:-1, None]) for a, b in pairwise(outline)])
    outline, around = torch.cat((steps, outline[-1:])), 96
    angle = torch.arange(around) * (2 * torch.pi / around)
    turned = torch.stack((angle.cos(), angle.sin()), 1)
    v_pos = torch.cat(
        ((outline[:, :1, None] * turned.T).transpose(1, 2), outline[:, None, 1:].expand(-1, around, 1)), 2
    )
    here, row = torch.arange(around), torch.arange(len(outline) - 1)[:, None] * around
    a, b = row + here, row + (here + 1) % around
    tri = torch.cat((torch.stack((a, b, b + around), -1), torch.stack((a, b + around, a + around), -1)))
    tri = tri.reshape(-1, 3)
    v_pos = v_pos.reshape(-1, 3)
    corners = v_pos[tri]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
    return Mesh(v_pos, tri[area > 1e-9])


def below(lowest: float, angle: float = GRAZING) -> float:
    """The height on a unit ball under which `lowest` cameras say little; with CLEAR, above which they say enough."""
    return math.sin(math.radians(lowest - angle))


@pytest.mark.parametrize("lowest", [-10.0, 0.0])
def test_a_ball_s_underside_is_as_red_as_its_side(lowest: float) -> None:
    mesh = ball()

    def colour(position: Tensor) -> Tensor:
        height = position[:, 2:] / position.norm(dim=1, keepdim=True)
        return torch.where(height < below(lowest) - 0.03, NOISE, RED)

    asked = mesh.v_pos
    found = with_undersides(mesh, colour, lowest)(asked)
    assert torch.allclose(found, RED.expand_as(found), atol=0.02)
    assert not torch.allclose(colour(asked), RED.expand_as(found), atol=0.02)


def test_a_mug_s_underside_is_not_as_white_as_its_inside() -> None:
    mesh = mug()
    white = torch.ones(3)

    def colour(position: Tensor) -> Tensor:
        outside = (position[:, :2].norm(dim=1, keepdim=True) > 0.37) & (position[:, 2:] < 0.37)
        return torch.where(outside, RED, white)

    under = mesh.v_pos[(mesh.v_pos[:, 2] < -0.39) & (mesh.v_pos[:, :2].norm(dim=1) < 0.3)]
    assert len(under) > 1000 and torch.equal(colour(under), white.expand_as(under))
    found = with_undersides(mesh, colour, -10.0)(under)
    assert torch.allclose(found, RED.expand_as(found), atol=0.02)
    inside = mesh.v_pos[(mesh.v_pos[:, 2] > -0.35) & (mesh.v_pos[:, :2].norm(dim=1) < 0.35)]
    assert torch.equal(with_undersides(mesh, colour, -10.0)(inside), colour(inside))


def test_what_is_seen_stays_and_a_low_camera_sees_all() -> None:
    mesh = ball()

    def colour(position: Tensor) -> Tensor:
        return position.sin().abs()

    found = with_undersides(mesh, colour, -10.0)(mesh.v_pos)
    height = mesh.v_pos[:, 2] / mesh.v_pos.norm(dim=1)
    seen = height > below(-10.0, CLEAR) + 0.03
    assert torch.equal(found[seen], colour(mesh.v_pos)[seen])
    unseen = height < below(-10.0)
    assert float((found - colour(mesh.v_pos))[unseen].abs().max()) > 0.05
    assert with_undersides(mesh, colour, -90.0) is colour
