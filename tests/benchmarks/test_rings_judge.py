"""The judge of azimuths: true pictures are all right, pictures of the opposite side are all wrong."""

from __future__ import annotations

import torch

from backend.objects.shapes import build
from backend.objects.sphere_trace import render
from benchmarks.rings_judge import AZIMUTHS, azimuth_match, judged_cameras
from dreamflow_blender.contract.language.reading import Description


def test_true_pictures_match_and_turned_ones_are_90_degrees_off() -> None:
    truth = render(build(Description("duck", "yellow")), judged_cameras(), 2)
    images = truth.over((0.3, 0.4, 0.5))
    right = azimuth_match(images, truth)
    assert (right["rank 1"], right["degrees off"]) == (1.0, 0.0) and right["rmse"] < 1e-3
    assert right["background spread"] < 1e-6
    order = torch.arange(AZIMUTHS).view(-1, 4).roll(1, 1).flatten()  # rings are rows 4 i .. 4 i + 3
    wrong = azimuth_match(images[order], truth)
    assert wrong["rank 1"] == 0.0 and 89.9 < wrong["degrees off"] < 90.1
