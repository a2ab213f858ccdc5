"""What ControlNets are shown: known shapes give the colours that the published preprocessors give."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backend.diffusion.control import ShownShape, encode_maps
from backend.scene.camera import Camera, orbit

HALF = math.sqrt(0.5)


def shape(depth: float, normal: tuple[float, float, float]) -> Tensor:
    """[1,1,1,4]"""
    return torch.tensor([depth, *normal]).view(1, 1, 1, 4)


def test_depth_is_inverse_the_nearest_white_and_nothing_black() -> None:
    """MiDaS: a surface twice as far is half as bright, in each view by itself."""
    row = torch.cat([shape(d, (0.0, 0.0, 1.0)) for d in (1.0, 2.0, math.inf)], 2)
    views = torch.cat((row, 3 * row))
    views[..., 1:] = row[..., 1:]
    maps = encode_maps(views)
    assert maps.shape == (2, 6, 1, 3)
    torch.testing.assert_close(maps[:, :3], torch.tensor([1.0, 0.5, 0.0]).expand(2, 3, 1, 3))


def test_an_empty_view_is_black_and_faces_the_camera() -> None:
    maps = encode_maps(shape(math.inf, (0.0, 0.0, 0.0)))
    torch.testing.assert_close(maps[0, :, 0, 0], torch.tensor([0.0, 0.0, 0.0, 0.5, 0.5, 1.0]))


def test_normals_are_red_to_the_left_green_up_and_blue_to_the_front() -> None:
    """ControlNet 1.1's README; a surface turned 45 degrees each way."""
    for normal, colour in (
        ((-HALF, 0.0, HALF), ((1 + HALF) / 2, 0.5, (1 + HALF) / 2)),
        ((0.0, HALF, HALF), (0.5, (1 + HALF) / 2, (1 + HALF) / 2)),
        ((0.0, 0.0, 1.0), (0.5, 0.5, 1.0)),
    ):
        torch.testing.assert_close(encode_maps(shape(1.0, normal))[0, 3:, 0, 0], torch.tensor(colour))


def test_a_shape_is_drawn_once_for_each_camera_at_the_size_of_the_pictures() -> None:
    drawn: list[tuple[int, int]] = []

    def draw(camera: Camera) -> Tensor:
        drawn.append((camera.height, camera.width))
        return torch.ones(len(camera), camera.height, camera.width, 4)

    one, other = (orbit(*torch.tensor([[a], [10.0], [1.2], [50.0]]), 32, 32) for a in (0.0, 90.0))
    shown = ShownShape(draw, factor=8)
    z = torch.zeros(1, 4, 8, 6)
    first = shown(one, z)
    assert shown(one, z) is first and first.shape == (1, 6, 64, 48) and drawn == [(64, 48)]
    assert shown(other, z) is not first and len(drawn) == 2
