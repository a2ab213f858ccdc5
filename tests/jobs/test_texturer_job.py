"""A job whose shape is MVDream's, its colours Stable Diffusion's, its last stage the SDXL refiner's."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest

from backend.jobs import generate, resume
from backend.models.latent_prior import LatentPrior
from dreamflow_blender.contract.protocol import Cancelled, Finished, Progress
from tests.tools.mvdream_reference import build
from tests.tools.tiny import tiny_job

FEW = {
    "nerf.levels": 2, "nerf.views": 1, "nerf.size": 64, "nerf.samples": 16,
    "geometry.levels": 1, "geometry.views": 1, "geometry.size": 64,
    "texture.levels": 2, "texture.views": 1, "texture.size": 64,
    "refine.levels": 1, "refine.views": 1, "refine.size": 64,
}  # fmt: skip


@pytest.fixture(scope="module")
def stated(
    tmp_path_factory: pytest.TempPathFactory, base_folder: Path, v_folder: Path, refiner_folder: Path
) -> dict[str, Any]:
    prior = build(tmp_path_factory.mktemp("models") / "mvdream", base_folder, "ldm")
    named = {"prior": prior, "texturer": v_folder, "refiner": refiner_folder}
    return {name: str(folder) for name, folder in named.items()} | {"overrides": FEW}


def loaded() -> set[str]:
    """The folders whose networks are in memory."""
    priors = [each for each in gc.get_objects() if type(each) is LatentPrior]
    return {each.describe()["prior"]["folder"] for each in priors if {"_network", "_vae"} & set(vars(each))}


@pytest.fixture(scope="module")
def whole(stated: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "job"
    gc.collect()
    there: dict[str, set[str]] = {}
    for event in generate.generate(tiny_job(folder, **stated)):
        if isinstance(event, Progress) and event.iteration:
            there[event.stage] = loaded()
    assert isinstance(event, Finished)
    prior, texturer, refiner = (stated[name] for name in ("prior", "texturer", "refiner"))
    assert there.pop("deliver") == set()
    assert there == {"nerf": {prior}, "geometry": {prior}, "texture": {texturer}, "refine": {refiner}}
    return folder


def test_each_model_is_named_and_states_its_own_stage(whole: Path, stated: dict[str, Any]) -> None:
    record = json.loads((whole / "job.json").read_text(encoding="utf-8"))
    told = {role: models["prior"]["folder"] for role, models in record["models"].items()}
    assert told == {name: stated[name] for name in ("prior", "texturer", "refiner")}
    assert record["set_by"]["nerf.budget"] == "prior" and set(record["memory"]["needed"]) == {
        "nerf", "geometry", "texture", "refine",
    }  # fmt: skip


@pytest.mark.slow
def test_stopped_in_its_stage_and_resumed_it_ends_with_the_same_bytes(
    whole: Path, stated: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "job"

    def asked() -> str | None:
        return "cancel" if list((folder / "checkpoints").glob("[0-9]*-texture-*")) else None

    *_, last = generate.generate(tiny_job(folder, **stated, checkpoint_seconds=0.0), asked)
    assert isinstance(last, Cancelled)
    *_, last = resume.resume(folder)
    assert isinstance(last, Finished)
    for name in ("mesh.npz", "albedo.png"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
