import dataclasses
import json

import pytest

from backend.config import GRID_FEATURES, LAYERS, PAPER, PRESETS, STAGES, preset_of, resolve
from backend.errors import InputError
from backend.kernels.hashgrid import WIDTHS
from backend.stages.methods import walk


def test_the_grids_that_a_setting_may_ask_for_are_those_with_a_kernel() -> None:
    assert GRID_FEATURES == WIDTHS


def test_the_paper_preset_is_the_papers_schedule() -> None:
    sizes = {"nerf": 256, "geometry": 512, "texture": 512, "refine": 1024}
    iterations = {"nerf": 4000, "geometry": 5000, "texture": 2000, "refine": 300}
    ends = {"nerf": (999, 200), "geometry": (800, 400.4), "texture": (500, 101), "refine": (300, 10)}
    for name in STAGES:
        stage = getattr(PAPER, name)
        levels, views = walk(stage, seed=0)
        assert stage.size == sizes[name] and len(levels) * views == stage.iterations == iterations[name]
        assert levels[0].timestep == pytest.approx(ends[name][0])
        assert levels[-1].timestep == pytest.approx(ends[name][1])
    assert PAPER.nerf.samples == 512 and (PAPER.nerf.grid_levels, PAPER.nerf.grid_log2_size) == (16, 19)
    assert walk(PAPER.refine, seed=0)[0][-1].kappa == 1


def test_overrides_replace_single_settings() -> None:
    job = {"nerf.levels": 3, "refine.guidance_scale": 2, "delivery.max_faces": 100}
    preset = resolve("draft", {"job": job}).preset
    assert preset.nerf.levels == 3 and preset.refine.guidance_scale == 2.0
    assert preset.delivery.max_faces == 100
    assert preset.texture == PRESETS["draft"].texture


@pytest.mark.parametrize(
    ("preset", "overrides", "says"),
    [
        ("best", {}, "preset 'best'"),
        ("draft", {"nerf.level": 3}, "nerf.level"),
        ("draft", {"colour.levels": 3}, "colour.levels"),
        ("draft", {"__class__.nerf": 3}, "__class__"),
        ("draft", {"nerf.": 3}, "no setting 'nerf"),
        ("draft", {"nerf.lora": {"rank": 2}}, "needs a LoRA"),
        ("draft", {"nerf.levels": "many"}, "needs a whole number, got 'many'"),
        ("draft", {"nerf.levels": 2.5}, "needs a whole number, got '2.5'"),
        ("draft", {"nerf.levels": True}, "needs a whole number, got 'True'"),
        ("draft", {"nerf.half": True}, "needs a number, got 'True'"),
        ("draft", {"nerf.half": 10**400}, "needs a number, got '1000"),
        ("draft", {"nerf.levels": 0}, "1 to 100,000, got 0"),
        ("draft", {"nerf.size": -64}, "1 to 4,096, got -64"),
        ("draft", {"refine.size": 10**9}, "1 to 4,096, got 1,000,000,000"),
        ("draft", {"refine.size": 10**400}, "1 to 4,096, got a number beyond all bounds"),
        ("draft", {"nerf.start": 0.01}, "start > end"),
        ("draft", {"geometry.method": "ism"}, "geometry.method is 'ism', expected apfo, sdedit"),
        ("draft", {"nerf.method": "sds", "nerf.phi": "lora"}, "sds learns no D_phi"),
        ("draft", {"nerf.grid_rate": -1e-3}, "0 to 1,000,000, got -0.001"),
        ("draft", {"nerf.grid_rate": float("nan")}, "got a number beyond all bounds"),
        ("draft", {"nerf.samples": 0}, "1 to 4,096, got 0"),
        ("draft", {"nerf.grid_log2_size": 60}, "4 to 24, got 60"),
        ("draft", {"nerf.grid_features": 3}, "one of 1, 2, 4, 8, got 3"),
        ("draft", {"nerf.occupancy_every": 0}, "got 0"),
        ("draft", {"geometry.cells": -1}, "2 to 256, got -1"),
        ("draft", {"delivery.texture_size": 7}, "64 to 8,192, got 7"),
        ("draft", {"delivery.max_faces": -1}, "4 to 10,000,000, got -1"),
        ("draft", {"delivery.max_faces": "few"}, "needs a whole number, got 'few'"),
        ("draft", {"nerf.phi": 5}, "nerf.phi needs one of prior, lora, none, got '5'"),
    ],
)
def test_bad_settings_are_met_with_a_clear_word(preset: str, overrides: dict, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        resolve(preset, {"job": overrides})
    assert caught.value.todo


def test_a_later_layer_wins_whatever_the_order_in_which_they_are_given() -> None:
    layers = {name: {"refine.levels": n + 1, "nerf.levels": n + 1} for n, name in enumerate(LAYERS)}
    layers["job"] = {"nerf.levels": 9}
    for given in (layers, dict(reversed(layers.items()))):
        resolved = resolve("draft", given)
        assert (resolved.preset.refine.levels, resolved.preset.nerf.levels) == (len(LAYERS) - 1, 9)
        assert resolved.set_by == {"refine.levels": "strength", "nerf.levels": "job"}


@pytest.mark.parametrize("name", PRESETS)
def test_settings_come_back_from_json_as_they_were(name: str) -> None:
    job = {"delivery.max_faces": None, "nerf.grid_rate": 0.1}
    preset = resolve(name, {"job": job}).preset
    assert preset_of(json.loads(json.dumps(dataclasses.asdict(preset)))) == preset


@pytest.mark.parametrize(
    "change", ["one less", "one more", "of the LoRA", "another type", "no stage", "a stage more"]
)
def test_settings_of_another_version_are_refused(change: str) -> None:
    stored = dataclasses.asdict(PAPER)
    match change:
        case "one less":
            del stored["nerf"]["samples"]
        case "one more":
            stored["texture"]["colours"] = 3
        case "of the LoRA":
            del stored["nerf"]["lora"]["rank"]
        case "another type":
            stored["geometry"]["levels"] = "many"
        case "no stage":
            del stored["refine"]
        case "a stage more":
            stored["polish"] = {}
    with pytest.raises(InputError):
        preset_of(stored)


def test_full_detail_may_be_asked_for() -> None:
    assert resolve("draft", {"job": {"delivery.max_faces": None}}).preset.delivery.max_faces is None


def test_presets_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PAPER.nerf.levels = 1  # type: ignore[misc]
