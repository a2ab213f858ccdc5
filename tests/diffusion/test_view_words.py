"""View words: the paper's four, and a compass for priors that were taught it."""

from __future__ import annotations

import torch

from backend.diffusion.view_words import COMPASS, VIEWS, view_words
from backend.scene.camera import orbit
from backend.training.samples import view_cameras


def at(*azimuths: float, elevation: float = 10.0) -> list[str]:
    azimuth = torch.tensor(azimuths)
    same = torch.ones(len(azimuths))
    return view_words(orbit(azimuth, elevation * same, 1.5 * same, 45 * same, 8, 8), COMPASS)


def test_a_camera_on_plus_x_sees_the_left_of_an_object_that_faces_minus_y() -> None:
    assert at(90.0, -90.0) == ["left", "right"]


def test_each_word_has_45_degrees() -> None:
    assert at(0.0, 22.0, 23.0, 67.0, 68.0) == ["front", "front", "front left", "front left", "left"]
    assert at(-22.0, -23.0, 179.0, -179.0, 157.0) == ["front", "front right", "back", "back", "back left"]


def test_from_above_there_is_one_word() -> None:
    assert at(0.0, 90.0, elevation=70.0) == ["overhead", "overhead"]


def test_cameras_in_the_middle_of_each_word() -> None:
    assert view_words(view_cameras(list(COMPASS), 8), COMPASS) == list(COMPASS)
    assert view_words(view_cameras(list(VIEWS), 8)) == list(VIEWS)
