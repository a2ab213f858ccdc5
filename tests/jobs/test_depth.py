"""How far it is from a job to the network, and how often the prompt is read on the way."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from backend import __main__ as command_line
from backend.diffusion.denoiser import Network
from backend.jobs import generate
from backend.jobs.priors import open_prior
from backend.models import text
from backend.models.latent_prior import LatentPrior
from backend.texture.colour_field import FitSettings
from dreamflow_blender.contract import meshfile
from dreamflow_blender.contract.language import reading
from dreamflow_blender.contract.protocol import Started
from tests.tools import refine_run
from tests.tools.made_meshes import painted_ball
from tests.tools.tiny import OVERRIDES, tiny_job
from tests.tools.tiny_models import build

CALLS = ["drive", "run", "iterate", "run_stages", "steps", "apfo", "denoise", "denoise_guided"]


class Reached(Exception):
    """The network was called."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("models") / "base", "sd21-base")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the backend's functions between the command line and the network, where it is called."""
    found: list[str] = []

    def predict(*_: Any) -> Any:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename != command_line.__file__:
            if frame.f_code.co_filename.startswith(backend):
                found.insert(0, frame.f_code.co_name)
            frame = frame.f_back
        assert frame is not None, "it was not the command line"
        raise Reached

    backend = str(Path(command_line.__file__).parent)
    monkeypatch.setattr(Network, "predict", predict)
    return found


def set_arguments(changes: dict[str, Any]) -> list[str]:
    return [part for name, value in changes.items() for part in ("--set", f"{name}={json.dumps(value)}")]


def test_generate(folder: Path, tmp_path: Path, calls: list[str]) -> None:
    changes = OVERRIDES | {"nerf.phi": "none"}
    job = ["generate", "a ball", "--prior", str(folder), "--out", str(tmp_path / "job"), "--device", "cpu"]
    assert command_line.main([*job, *set_arguments(changes)]) == 1
    assert calls == CALLS


def test_refine(folder: Path, tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    refine_run.shorten(monkeypatch)
    monkeypatch.setattr("backend.jobs.priors.open_prior", open_prior)
    monkeypatch.setattr(refine_run.refine, "FITS", {"fast": FitSettings(6, 2, 12, 64, 16, 40, 4096)})
    source = tmp_path / "ball.npz"
    source.write_bytes(meshfile.to_bytes(painted_ball()))
    changes = refine_run.OVERRIDES | {"refine.phi": "none", "refine.size": 64}
    job = ["refine", str(source), "a ball", "--prior", str(folder), "--out", str(tmp_path / "job")]
    more = ["--preset", "fast", "--device", "cpu"]
    assert command_line.main([*job, *more, *set_arguments(changes)]) == 1
    assert calls == CALLS


def test_the_prompt_is_embedded_once_a_stage_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The built-in prior, shown colours and normal maps in stage 1, and its refiner, to where texture begins."""
    counts: Counter[str] = Counter()

    def counted(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **named: Any) -> Any:
            counts[name] += 1
            return real(*args, **named)

        monkeypatch.setattr(owner, name, call)

    monkeypatch.setenv("DREAMFLOW_CACHE", str(tmp_path / "cache"))
    counted(reading, "read")
    counted(text, "load_text")
    counted(LatentPrior, "prepare")
    before: list[Counter[str]] = []
    began: list[str] = []
    few = {"nerf.levels": 6, "nerf.views": 1, "geometry.levels": 1, "geometry.views": 1}  # each of four views
    job = tiny_job(tmp_path / "job", prior="mini", overrides=few)
    job = dataclasses.replace(job, prompt="a red mug")
    for event in generate.generate(job, lambda: "cancel" if "texture" in began else None):
        if isinstance(event, Started):
            began.append(event.stage)
            before.append(Counter(counts))
    assert began == ["nerf", "geometry", "texture"] and before == [counts] * 3, "a stage embeds nothing"
    assert counts["prepare"] == 5 and counts["load_text"] <= 4, counts
    assert counts["read"] <= 8, counts
