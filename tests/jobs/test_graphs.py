"""CUDA graphs from a job's beginning to its end, on a pretended card: used, counted in the plan, given up, told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.config import resolve
from backend.diffusion import graphs
from backend.diffusion.savings import Savings
from backend.jobs import generate
from backend.models.latent_prior import LatentPrior
from backend.stages.checkpoint import load
from backend.stages.checkpoint_writer import listed
from backend.stages.memory import MemorySavings, make_plan
from dreamflow_blender.contract.protocol import Cancelled, Event, Job, Warning
from tests.card.pretended import PretendedCard
from tests.tools.oracle import Oracle
from tests.tools.tiny import tiny_job
from tests.tools.tiny_models import build

FEW = {
    "nerf.levels": 2, "nerf.views": 2, "nerf.size": 16, "nerf.samples": 8, "nerf.occupancy": 8, "geometry.cells": 6,
    "delivery.texture_size": 64, "nerf.phi": "lora",
}  # fmt: skip
CARD = torch.device("cuda", 0)


@pytest.fixture
def card() -> Iterator[PretendedCard]:
    with PretendedCard() as made:
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("models") / "base", "sd21-base")


def two_steps(job: Job) -> tuple[list[Event], dict[str, Any], torch.Tensor]:
    """Cancelled after two iterations: (events, job.json, the losses)."""
    looks = iter([None] * 5)  # two a moment: the beginning, an iteration, and of the second the last

    def answer() -> str | None:
        return next(looks, "cancel")

    events = list(generate.generate(job, answer))
    assert isinstance(events[-1], Cancelled), events[-1]
    record = json.loads((Path(job.folder) / "job.json").read_text(encoding="utf-8"))
    return events, record, load(listed(Path(job.folder))[0]).tensors["curve.nerf.loss"]


@pytest.mark.slow
def test_a_job_with_them_and_without(
    card: PretendedCard, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny_job(tmp_path / "with", prior=str(folder), stages=("nerf",), overrides=FEW)
    events, record, losses = two_steps(job)
    assert len(losses) == 2 and card.replays == 4 and record["memory"]["graphs"]  # D_p's and D_phi's
    assert "notes" not in record and not [e for e in events if isinstance(e, Warning)]
    monkeypatch.setenv(graphs.SWITCH, "0")
    job = tiny_job(tmp_path / "without", prior=str(folder), stages=("nerf",), overrides=FEW)
    _, record, plain = two_steps(job)
    assert card.replays == 4 and not record["memory"]["graphs"]
    assert torch.equal(losses, plain)


@pytest.mark.slow
def test_a_job_that_cannot_have_them_says_so_once(
    card: PretendedCard, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any) -> Any:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nsecond line")

    monkeypatch.setattr(graphs, "capture", fails)
    job = tiny_job(tmp_path / "job", prior=str(folder), phi=str(folder), stages=("nerf",), overrides=FEW)
    events, record, _ = two_steps(job)
    said = [event.message for event in events if isinstance(event, Warning)]
    assert len(said) == 1 and "CUDA graphs are not used" in said[0] and "second line" not in said[0]
    assert record["notes"] == said and card.replays == 0


class Sized(Oracle):
    """Networks of 10 GB, 1 GB less a rung, and 0.5 GB for graphs."""

    asked: Savings

    def footprint(self, size: int, savings: Savings, still: bool = False) -> float:
        saved = savings.checkpoint_encode + savings.checkpoint_fit + savings.share
        return 10.0 - saved + 0.5 * savings.graphs

    def save_memory(self, savings: Savings) -> None:
        self.asked = savings


@pytest.mark.parametrize(
    ("gigabytes", "rung", "captured"), [(24.0, 0, True), (12.7, 0, False), (12.3, 1, True)]
)
def test_they_are_planned_where_there_is_room(
    monkeypatch: pytest.MonkeyPatch, gigabytes: float, rung: int, captured: bool
) -> None:
    """The scene takes 1.44 GB at 1024 px; 92 % of a card are used. They cost no rung."""
    monkeypatch.setattr("backend.stages.memory.capacity_gb", lambda _: gigabytes)
    plan = make_plan(("refine",), resolve("paper").preset, Sized(), {}, CARD)
    assert (plan.rung, plan.graphs) == (rung, captured)
    assert plan.needed["refine"] == pytest.approx(10 - rung + 0.5 * captured + 1.44, abs=0.05)
    assert not make_plan(("refine",), resolve("paper").preset, Sized(), {}, torch.device("cpu")).graphs


def test_they_are_the_first_to_go() -> None:
    prior = Sized()
    ladder = MemorySavings(resolve("paper").preset, prior, {}, 1, graphs=True)
    assert prior.asked == Savings(checkpoint_encode=True, graphs=True)
    error = torch.OutOfMemoryError("CUDA out of memory.")
    said = ladder.step_down("refine", 7, error, torch.device("cpu"))
    assert "without CUDA graphs" in said and "iteration 7" in said
    assert prior.asked == Savings(checkpoint_encode=True) and ladder.rung == 1
    assert "D_phi's step" in ladder.step_down("refine", 7, error, torch.device("cpu")) and ladder.rung == 2


def test_a_network_loaded_again_is_as_thrifty(card: PretendedCard, folder: Path) -> None:
    """The hand-over may let go of all networks; the next stage loads them by using them."""
    prior = LatentPrior(folder, "cuda:0")
    prior.save_memory(Savings(checkpoint_encode=True, checkpoint_fit=True, graphs=True))
    for _ in range(2):
        assert prior._network.graphs is not None and prior._network.graphs.allowed
        assert prior._network.unet.is_gradient_checkpointing
        assert any("forward" in vars(block) for block in prior._vae.encoder.modules())
        prior.release()
