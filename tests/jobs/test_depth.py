"""How far it is from a job to the network, and how often the prompt is read on the way."""

from __future__ import annotations

import dataclasses
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from backend.diffusion.denoiser import Network
from backend.jobs import generate, refine
from backend.jobs.priors import open_prior
from backend.models import text
from backend.models.latent_prior import LatentPrior
from backend.objects import grammar
from dreamflow_blender.contract import meshfile
from dreamflow_blender.contract.protocol import Started
from tests.tools import refine_run
from tests.tools.made_meshes import painted_ball
from tests.tools.tiny import tiny_job
from tests.tools.tiny_models import build

FRAMES = [  # with the command line's own one there are eight between `main` and the network
    "run", "iterate", "run_stages", "steps", "apfo", "denoise", "denoise_guided",
]  # fmt: skip


class Reached(Exception):
    """The network was asked."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("models") / "base", "sd21-base")


def frames_above_the_network(events: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of our functions that are on the stack when D_p is asked."""

    def predict(*_: Any) -> Any:
        raise Reached

    monkeypatch.setattr(Network, "predict", predict)
    with pytest.raises(Reached) as caught:
        list(events)
    stack = traceback.extract_tb(caught.value.__traceback__)
    backend = str(Path(generate.__file__).parents[1])
    return [frame.name for frame in stack if frame.filename.startswith(backend)]


def test_a_generate_job_is_seven_calls_from_the_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny_job(tmp_path / "job", prior=str(folder), overrides={"nerf.phi": "none"})
    assert frames_above_the_network(generate.generate(job), monkeypatch) == FRAMES


def test_so_is_a_refine_job(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refine_run.shorten(monkeypatch)
    monkeypatch.setattr("backend.jobs.run.open_prior", open_prior)
    source = tmp_path / "ball.npz"
    source.write_bytes(meshfile.to_bytes(painted_ball()))
    changes = {"refine.phi": "none", "refine.size": 64}
    job = refine_run.refine_job(tmp_path / "job", source, prior=str(folder), overrides=changes)
    assert frames_above_the_network(refine.refine(job), monkeypatch) == FRAMES


def test_the_prompt_is_embedded_once_a_stage_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The built-in prior and its refiner, in all four stages, to where the second one begins."""
    calls: Counter[str] = Counter()

    def counted(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **named: Any) -> Any:
            calls[name] += 1
            return real(*args, **named)

        monkeypatch.setattr(owner, name, call)

    monkeypatch.setenv("DREAMFLOW_CACHE", str(tmp_path / "cache"))
    counted(grammar, "parse")
    counted(text, "load_text")
    counted(LatentPrior, "prepare")
    before: list[Counter[str]] = []
    job = tiny_job(tmp_path / "job", prior="mini")
    job = dataclasses.replace(job, prompt="a red mug")
    for event in generate.generate(job, lambda: "cancel" if before else None):
        if isinstance(event, Started) and event.stage == "nerf":
            before.append(Counter(calls))
    assert before == [calls], "a stage embeds nothing"
    assert calls["prepare"] == 4 and calls["load_text"] <= 4, calls
    assert calls["parse"] <= 8, calls
