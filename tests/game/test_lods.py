"""LODs: fewer faces, the same texture at every corner, closed, and near the surface that they came from."""

import numpy as np
import pytest
import torch

from backend.game.details import Surface
from backend.game.game import unwrapped
from backend.game.lods import lighter
from backend.scene.mesh import Mesh, is_closed
from tests.tools.made_meshes import grid_ball, signed_volume


@pytest.fixture(scope="module")
def ball() -> Mesh:
    """A closed ball of 1,000 faces with charts of its own."""
    v, t, _, _ = grid_ball(16, 32)
    place, of = np.unique(np.round(v, 6), axis=0, return_inverse=True)
    mesh = Mesh(torch.from_numpy(place.astype(np.float32)), torch.from_numpy(of.reshape(-1)[t]))
    assert is_closed(mesh)
    return unwrapped(mesh, 256)


def corners(mesh: Mesh) -> set[tuple[float, ...]]:
    assert mesh.v_tex is not None and mesh.t_tex_idx is not None
    at, uv = mesh.v_pos[mesh.t_pos_idx].reshape(-1, 3), mesh.v_tex[mesh.t_tex_idx].reshape(-1, 2)
    return set(map(tuple, torch.cat((at, uv), 1).tolist()))


@pytest.mark.parametrize("faces", [500, 250, 120])
def test_a_ball_stays_a_ball_under_its_texture(ball: Mesh, faces: int) -> None:
    light = lighter(ball, faces)
    assert faces * 0.9 < len(light.t_pos_idx) <= faces
    assert is_closed(light) and signed_volume(light) > 0.85 * signed_volume(ball)
    assert corners(light) <= corners(ball), "a corner has moved in the UV map"
    uv = light.v_tex[light.t_tex_idx]
    one, two = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    assert (one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0] > 0).all(), "a face is turned over in the UV map"
    middle = light.v_pos[light.t_pos_idx].mean(1)
    points = Surface(ball).nearest(middle)
    apart = (points.position(ball) - middle).norm(dim=1)
    assert apart.max() < 0.065, "of a radius of 0.49: 0.056 under six charts, 0.061 under eight"
    shown = (points.uv(ball) - uv.mean(1)).norm(dim=1) < 0.03
    assert shown.float().mean() > 0.9, "it shows other places of the texture"  # all but some beside a seam


def test_the_same_again(ball: Mesh) -> None:
    one, two = lighter(ball, 200), lighter(ball, 200)
    assert torch.equal(one.v_pos, two.v_pos) and torch.equal(one.t_tex_idx, two.t_tex_idx)
