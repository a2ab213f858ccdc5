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
from backend.scene.render_mesh import render_shape
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
    for place, grey in enumerate(GREYS):
        kept = prior.denoise(prior._pictures[place] + 0.05 * noise, level, camera, draw)
        assert torch.equal(prior.decode(kept)[0, 0, 0], prior.decode(prior._pictures[place])[0, 0, 0])
        assert float(prior.decode(kept)[0, 0, 0, 0]) == pytest.approx(grey[0], abs=1e-6)
