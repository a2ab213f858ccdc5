"""The embedded prior's training data: right pictures, right captions, no held-out pair."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Generator

from backend.diffusion.view_words import view_words
from backend.objects.kinds import COLOURS
from backend.objects.shapes import KINDS, build
from backend.objects.sphere_trace import render
from backend.training import dataset
from backend.training.dataset import (
    FIRST_KINDS,
    LEARNED,
    NO_CAPTION_SHARE,
    NORMAL_BACKGROUND,
    POSES,
    Album,
    caption,
    draw,
    held_out,
    make_album,
    open_album,
    paint,
    paint_normals,
    smaller,
    spoil,
)
from dreamflow_blender.contract.language.reading import Description, read
from dreamflow_blender.contract.language.vocabulary import THINGS


@cache
def mushroom() -> Album:
    return make_album("mushroom", 4, 32, seed=3)


@pytest.mark.parametrize("background", [(0.0, 0.0, 0.0), (0.2, 0.9, 0.4)])
def test_a_painted_view_is_the_rendered_one(background: tuple[float, ...]) -> None:
    cameras = POSES.sample(Generator().manual_seed(3), 4, 32, 32)
    shape = build(Description("mushroom", "cyan", {"stem": "red"}))
    views = render(shape, cameras, edge=2)
    for row in range(4):
        painted = paint(mushroom(), row, shape.colours, torch.tensor(background))
        expected = views.over(background)[row].permute(2, 0, 1)
        assert (painted - expected).abs().max() < 5 / 255  # a byte a map, up to four maps in a pixel
    assert mushroom().words == view_words(cameras)


def test_normal_maps_are_the_rendered_ones_before_their_background() -> None:
    cameras = POSES.sample(Generator().manual_seed(3), 4, 32, 32)
    expected = render(build(Description("mushroom")), cameras, edge=2).over(NORMAL_BACKGROUND, normal=True)
    for row in range(4):
        error = paint_normals(mushroom().normal[row], mushroom().alpha[row]) - expected[row].permute(2, 0, 1)
        assert error.abs().max() < 5 / 255


def test_no_normal_that_faces_the_camera_is_the_background() -> None:
    solid = mushroom().normal.float()[:, 2][mushroom().alpha == 255] / 255
    assert solid.min() > 0.4 and NORMAL_BACKGROUND[2] == 0


def test_an_album_is_kept_and_read_again(tmp_path) -> None:
    first = open_album(tmp_path, "ball", count=2, size=16)
    again = open_album(tmp_path, "ball", count=2, size=16)
    assert list(tmp_path.glob("ball-2-16-0.safetensors"))
    for name in ("shade", "alpha", "normal", "angles"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert first.words == again.words


def test_a_smaller_album_shows_the_same() -> None:
    half = smaller(mushroom(), 2)
    colours = build(Description("mushroom", "blue")).colours
    grey = torch.full((3,), 0.5)
    for row in range(4):
        pooled = torch.nn.functional.avg_pool2d(paint(mushroom(), row, colours, grey)[None], 2)[0]
        assert (paint(half, row, colours, grey) - pooled).abs().max() < 5 / 255


def test_one_pair_in_ten_is_held_out_and_never_drawn(monkeypatch) -> None:
    held = [(k, c) for k in LEARNED for c in COLOURS if held_out(k, c)]
    assert 0.05 < len(held) / (len(LEARNED) * len(COLOURS)) < 0.15
    assert all(THINGS[kind].natural != colour for kind, colour in held)
    generator = Generator().manual_seed(0)
    drawn = [draw([mushroom()], generator).description for _ in range(300)]
    assert not any(held_out(d.kind, d.colour) for d in drawn)
    assert {d.colour for d in drawn} == {c for c in COLOURS if not held_out("mushroom", c)}
    assert 0.08 < sum(d.normal_map for d in drawn) / 300 < 0.23
    assert any(d.parts for d in drawn)


def test_captions_are_of_the_grammar() -> None:
    generator = Generator().manual_seed(1)
    said = [(d := draw([mushroom()], generator).description, caption(d, generator)) for _ in range(200)]
    empty = sum(text == "" for _, text in said)
    assert abs(empty / 200 - NO_CAPTION_SHARE) < 0.08
    for description, text in said:
        if text:
            parsed = read(text)
            assert (parsed.kind, parsed.normal_map) == (description.kind, description.normal_map)
            assert parsed.view in (description.view, None)


def test_junk_is_no_picture_but_stays_in_range() -> None:
    image = torch.rand(8, 3, 64, 64, generator=Generator().manual_seed(2))
    spoilt = spoil(image, image.flip(0), Generator().manual_seed(3))
    assert spoilt.shape == image.shape and spoilt.min() >= -0.2 and spoilt.max() <= 1.2
    assert (spoilt - image).abs().mean((1, 2, 3)).min() > 0.01


def test_every_learned_kind_is_in_the_grammar() -> None:
    assert set(FIRST_KINDS) <= set(KINDS) and len(FIRST_KINDS) == 10
    assert set(LEARNED) <= set(THINGS) and len(LEARNED) >= 20
    assert dataset.SIZE % 64 == 0
