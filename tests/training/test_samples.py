"""The sheets that training and the benchmark show what was learnt with."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Generator

from backend.training import samples
from backend.training.dataset import LEARNED, held_out, make_album


def test_a_sheet_has_its_pictures_in_reading_order(tmp_path) -> None:
    images = torch.arange(5.0)[:, None, None, None].expand(5, 4, 6, 3) / 10
    samples.save_sheet(images, tmp_path / "sheet.png", 3)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (8, 18, 3)
    corners = [int(sheet[4 * row, 6 * column, 0]) for row in range(2) for column in range(3)]
    assert corners == [0, 26, 51, 76, 102, 255]  # the sixth is not there: white


def test_a_kind_is_shown_in_a_colour_that_was_held_out_where_one_was() -> None:
    for kind in LEARNED:
        first, second = (prompt.split() for prompt in samples.prompts([kind]))
        assert first[2] == second[2] == kind and first[1] != second[1]
        assert not held_out(kind, second[1])
    firsts = samples.prompts(LEARNED)[::2]
    assert sum(held_out(kind, prompt.split()[1]) for kind, prompt in zip(LEARNED, firsts, strict=True)) >= 14


def test_a_picture_for_the_refiner_is_whole_and_its_blur_keeps_the_mean() -> None:
    clean, description = samples.plain_picture([make_album("cone", 2, 128, 0)], Generator().manual_seed(0))
    assert clean.shape == (1, 128, 128, 3) and description.kind == "cone" and not description.parts
    worse = samples.blurred(clean)
    assert worse.shape == clean.shape
    assert abs(float(worse.mean() - clean.mean())) < 2e-3
    sharpness = [float(image.diff(dim=2).square().mean()) for image in (worse, clean)]
    assert sharpness[0] < 0.5 * sharpness[1]
