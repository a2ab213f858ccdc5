"""What no camera sees keeps its texels, or takes the nearest colours that are seen where a texture is made anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.scene.camera import orbit
from backend.scene.mesh import Mesh
from backend.texture.repaint import paint, prepare
from backend.texture.sheets import plan_sheets
from backend.texture.source_colours import source_colours
from tests.tools.made_meshes import from_parts

SIZE = 32
PLACE = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.float32)
TRI = np.array([[0, 1, 2], [2, 1, 3]], np.int32)


@pytest.mark.parametrize("anew", [False, True])
def test_a_square_under_another(anew: bool) -> None:
    """Seen from above; the upper has the left half of the texture. Its colour says the place, blue the height."""
    lower, upper = (np.concatenate((PLACE - 0.5, np.full((4, 1), z, np.float32)), 1) for z in (-0.2, 0.2))
    corners, tri = np.concatenate((upper, lower)), np.concatenate((TRI, TRI + 4))
    uv = np.concatenate((PLACE[TRI] * (0.5, 1), PLACE[TRI] * (0.5, 1) + (0.5, 0))).astype(np.float32)
    image = np.full((SIZE, SIZE, 4), 200, np.uint8)
    image[..., 3] = 255
    arrays = from_parts(
        corners, tri, uv=uv, base=[(1.0, 1.0, 1.0, 1.0)], image=[0], names=["a"], images=(image,)
    )
    mesh = Mesh(torch.from_numpy(corners), torch.from_numpy(tri).long())
    weight, colours, one = torch.ones(4, 3), source_colours(arrays, "cpu"), torch.ones(1)
    above = orbit(0 * one, 89 * one, 2 * one, 60 * one, 128, 128)
    (sheet,) = plan_sheets(arrays, corners, weight.numpy(), True, 0, SIZE, lambda: False)
    canvas = prepare(sheet, mesh, colours, weight, np.zeros((0, 3), np.float32), above, None, anew)
    made = paint(canvas, mesh, colours, lambda place: (place + 0.5).clamp(0, 1))
    heights = (made[..., 2].float() / 255 - 0.5)[2:-2]
    assert float((heights[:, 2:14] - 0.2).abs().max()) < 0.01
    if not anew:
        assert torch.equal(made[:, 18:], torch.from_numpy(image[:, 18:]))
        return
    assert float((heights[:, 18:-2] - 0.2).abs().max()) < 0.01  # the upper's own
    across = made[SIZE // 2, :, 0].float() / 255
    assert float((across[18:30] - across[2:14]).abs().max()) < 0.05  # of what lies above each place
