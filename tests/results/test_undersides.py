"""What faces the ground takes the colours of what is seen beside it; all else stays to the bit."""

from __future__ import annotations

import math

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
