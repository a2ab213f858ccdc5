"""The judge of samples, on true pictures."""

from __future__ import annotations

import torch
from torch import Generator

from backend.diffusion.view_words import VIEWS, view_words
from backend.training.dataset import draw, make_album
from backend.training.samples import view_cameras
from benchmarks.judge import judge, true_pictures

KINDS = ("ball", "duck", "cone")


def test_true_pictures_are_judged_right() -> None:
    truths = true_pictures([make_album(kind, 24, 32, 1) for kind in KINDS])
    albums = [make_album(kind, 24, 32, 0) for kind in KINDS]
    generator = Generator().manual_seed(0)
    shown = [p for p in (draw(albums, generator) for _ in range(60)) if not p.description.normal_map]
    shown = [p for p in shown if not p.description.parts]
    verdicts = judge(
        torch.stack([p.image.permute(1, 2, 0) for p in shown]), [p.description for p in shown], truths
    )
    assert sum(v.right_kind for v in verdicts) >= 0.93 * len(shown)
    assert sum(v.right_colour for v in verdicts) >= 0.93 * len(shown)


def test_a_wrong_picture_is_judged_wrong() -> None:
    truths = true_pictures([make_album(kind, 24, 32, 1) for kind in KINDS])
    albums = [make_album("cone", 8, 32, 0)]
    generator = Generator().manual_seed(0)
    shown = [p for p in (draw(albums, generator) for _ in range(20)) if not p.description.normal_map]
    asked = [type(p.description)("duck", "red", view="front") for p in shown]
    verdicts = judge(torch.stack([p.image.permute(1, 2, 0) for p in shown]), asked, truths)
    assert not any(v.right_kind for v in verdicts)


def test_view_cameras_mean_their_words() -> None:
    assert view_words(view_cameras(list(VIEWS), 8)) == list(VIEWS)
