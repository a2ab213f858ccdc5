"""Six orthographic sides: where a point is seen, how far it is, and what the optimal denoiser of them answers."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Generator, Tensor

from backend.diffusion.schedule import NoiseLevel
from backend.evidence.known_objects import true_mesh
from backend.objects.exact_prior import GREYS
from backend.objects.grammar import parse_object
from backend.objects.shapes import build
from backend.scene.render_mesh import render_colour, render_shape
from backend.sides.views import DISTANCE, HALF, SixSides
from benchmarks import six_sides

SIZE = 32


@pytest.fixture(scope="module")
def seen() -> Tensor:
    camera = SixSides().sample(Generator(), 1, SIZE, SIZE)
    return render_shape(true_mesh(build(parse_object("a red cube")), 12), camera)


def test_every_side_is_seen_straight_and_as_far_as_it_is(seen: Tensor) -> None:
    """No perspective: the outline is as wide as the cube (from so near it would be a fifth wider), the face flat."""
    half, middle = float(true_mesh(build(parse_object("a red cube")), 12).v_pos.amax()), SIZE // 2
    assert seen.shape == (6, SIZE, SIZE, 4)
    for side in seen:
        face = side[middle - 6 : middle + 6, middle - 6 : middle + 6]
        assert float(face[..., 0].amin()) == pytest.approx(DISTANCE - half, abs=0.02)
        assert float(face[..., 0].amax() - face[..., 0].amin()) < 0.01 and float(face[..., 3].amin()) > 0.99
        width = int(side[middle, :, 0].isfinite().sum())
        assert width == pytest.approx(half / HALF * SIZE, abs=1.01)


def test_the_denoiser_knows_the_six_pictures_and_looks_at_all_of_them(seen: Tensor) -> None:
    prior = six_sides.ExactSides(build(parse_object("a red cube")), 1.0, torch.zeros(3))
    camera = SixSides().sample(Generator(), 1, SIZE, SIZE)
    draw = partial(lambda shape, _camera: shape, seen)
    noise = torch.randn(6, 3, SIZE, SIZE, generator=Generator().manual_seed(0))
    found = prior.denoise(3.0 * noise, NoiseLevel(900, 3.0, 2.9), camera, draw)
    shown = prior.decode(found)
    red = shown[0, SIZE // 2, SIZE // 2]
    assert red[0] > 2 * red[1] and float(shown[4, SIZE // 2, SIZE // 2, 0]) > float(red[0])  # lighter on top
    grounds = shown[:, 0, 0]
    assert float((grounds - grounds[0]).abs().max()) < 1e-6  # one background for all six
    level = NoiseLevel(10, 0.05, 0.0)
    (known,) = prior.pictures.values()
    for place, grey in enumerate(GREYS):
        kept = prior.denoise(known[place] + 0.05 * noise, level, camera, draw)
        assert torch.equal(prior.decode(kept)[0, 0, 0], prior.decode(known[place])[0, 0, 0])
        assert float(prior.decode(kept)[0, 0, 0, 0]) == pytest.approx(grey[0], abs=1e-6)


def test_other_sixes_are_the_object_s_own_colours_as_they_see_them() -> None:
    """Of a cube that is red above and blue below its middle, seen by a six that stands askew."""
    mesh = true_mesh(build(parse_object("a red cube")), 12)
    camera = SixSides(((35.0, 45.0),)).sample(Generator(), 1, SIZE, SIZE)
    shape = render_shape(mesh, camera)

    def colour(points: Tensor) -> Tensor:
        above = (points[:, 2:] > 0).float()
        return torch.cat((above, torch.zeros_like(above), 1 - above), 1)

    found = six_sides.pictures(camera, shape, colour)[0]
    seen = render_colour(mesh, None, camera, torch.tensor(GREYS[0]), colour).image
    assert float((found - seen).abs().amax(-1).gt(1e-6).float().mean()) < 0.002  # but for pixels on the line
    assert (found[..., 0] == 1).any() and (found[..., 2] == 1).any()
