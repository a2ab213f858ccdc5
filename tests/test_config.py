import dataclasses

import pytest

from backend.config import PAPER, PRESETS, STAGES, resolve
from backend.errors import InputError


def test_the_paper_preset_is_the_papers_schedule() -> None:
    sizes = {"nerf": 256, "geometry": 512, "texture": 512, "refine": 1024}
    iterations = {"nerf": 4000, "geometry": 5000, "texture": 2000, "refine": 300}
    ends = {"nerf": (999, 200), "geometry": (800, 400.4), "texture": (500, 101), "refine": (300, 10)}
    for name in STAGES:
        walk = getattr(PAPER, name)
        levels = walk.noise_levels()
        assert walk.size == sizes[name] and walk.iterations == iterations[name]
        assert levels[0].timestep == pytest.approx(ends[name][0])
        assert levels[-1].timestep == pytest.approx(ends[name][1])
    assert PAPER.nerf.samples == 512 and (PAPER.nerf.grid_levels, PAPER.nerf.grid_log2_size) == (16, 19)
    assert PAPER.refine.noise_levels()[-1].kappa == 1


def test_overrides_replace_single_settings() -> None:
    preset = resolve("draft", {"nerf.levels": 3, "refine.guidance_scale": 2, "delivery.max_faces": 100})
    assert preset.nerf.levels == 3 and preset.refine.guidance_scale == 2.0
    assert preset.delivery.max_faces == 100
    assert preset.texture == PRESETS["draft"].texture


@pytest.mark.parametrize(
    ("preset", "overrides", "says"),
    [
        ("best", {}, "preset 'best'"),
        ("draft", {"nerf.level": 3}, "nerf.level"),
        ("draft", {"colour.levels": 3}, "colour.levels"),
        ("draft", {"nerf.levels": "many"}, "needs a int"),
        ("draft", {"nerf.levels": 0}, "at least 1, got 0"),
        ("draft", {"nerf.size": -64}, "at least 1, got -64"),
        ("draft", {"nerf.size": 10**9}, "4096"),
        ("draft", {"nerf.start": 0.01}, "start > end"),
        ("draft", {"delivery.texture_size": 7}, "between 64 and 8192"),
        ("draft", {"nerf.levels": 2.5}, "needs a int"),
        ("draft", {"nerf.levels": True}, "needs a int"),
    ],
)
def test_bad_settings_are_met_with_a_clear_word(preset: str, overrides: dict, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        resolve(preset, overrides)
    assert caught.value.todo


def test_presets_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PAPER.nerf.levels = 1  # type: ignore[misc]
