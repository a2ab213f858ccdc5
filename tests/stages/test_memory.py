"""Running out of memory in the middle: it is resumed with more savings, and gives the same result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from backend import device
from backend.config import resolve
from backend.diffusion.lora import LoRAPhi
from backend.diffusion.savings import SAVINGS
from backend.errors import InputError, OutOfMemory
from backend.jobs import generate
from backend.jobs.telemetry import RunClock
from backend.models.latent_prior import LatentPrior
from backend.stages import apfo, memory
from backend.stages.checkpoint import RunState, load
from backend.stages.checkpoint_writer import listed
from backend.stages.memory import make_plan
from dreamflow_blender.contract.protocol import Finished, Progress, Warning
from tests.tools.cuda_calls import CudaCalls
from tests.tools.oracle import Oracle
from tests.tools.published_plan import Published, plan_of
from tests.tools.tiny import OVERRIDES, tiny_job
from tests.tools.tiny_models import build

FEW = OVERRIDES | {"nerf.levels": 2, "nerf.views": 2, "nerf.size": 16, "nerf.samples": 16}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("models")
    return build(root / "base", "sd21-base"), build(root / "own", "sd21", seed=1)


def out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Failing:
    """Calls through, and fails at these calls, counted from 1."""

    def __init__(self, real: Callable, *at: int) -> None:
        self.real, self.at, self.calls = real, at, 0

    def __call__(self, *args: Any, **named: Any) -> Any:
        self.calls += 1
        if self.calls in self.at:
            out_of_memory()
        return self.real(*args, **named)


def run(prior: Any, folder: Path, checkpoint_seconds: float = 0.0) -> tuple[RunState, list[str]]:
    """Four iterations of stage 1: (the checkpoint after them, the warnings)."""
    job = tiny_job(folder, stages=("nerf",), overrides=FEW, seed=3, checkpoint_seconds=checkpoint_seconds)
    notes, done = list[str](), [0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backend.jobs.priors.open_prior", lambda *_: prior)
        patch.setattr(RunClock, "REPORT_EVERY", 0.0)
        patch.setattr(RunClock, "SLOW", float("inf"))  # no checkpoint but when it is due
        for event in generate.generate(job, lambda: "cancel" if done[-1] == 4 else None):
            if isinstance(event, Warning):
                notes.append(event.message)
            elif isinstance(event, Progress):
                done.append(event.iteration)
    return load(listed(folder)[0]), notes


@pytest.fixture(scope="module")
def undisturbed(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> RunState:
    prior = LatentPrior(folders[0], CPU, folders[1])
    saved, notes = run(prior, tmp_path_factory.mktemp("undisturbed"))
    assert notes == [] and saved.iteration == 4
    return saved


def failing_at(where: str, prior: Any, monkeypatch: pytest.MonkeyPatch, *iterations: int) -> None:
    """Memory runs out in this part of these iterations, counted from 1 and over all repetitions."""
    if where == "optimiser":
        monkeypatch.setattr(apfo, "gradient_norm", Failing(apfo.gradient_norm, *iterations))
    elif where in ("encode", "D_p"):
        name = {"encode": "encode", "D_p": "denoise"}[where]
        monkeypatch.setattr(prior, name, Failing(getattr(prior, name), *iterations))
    else:
        name = {"fit": "fit", "D_phi": "__call__"}[where]
        failing = Failing(getattr(LoRAPhi, name), *iterations)
        monkeypatch.setattr(LoRAPhi, name, lambda self, *args: failing(self, *args))


@pytest.mark.parametrize("where", ["encode", "fit", "D_phi", "D_p", "optimiser"])
@pytest.mark.parametrize(
    "checkpoints",
    [
        pytest.param(True, id="checkpoints"),
        pytest.param(False, id="no checkpoint yet", marks=pytest.mark.slow),
    ],
)
def test_wherever_it_runs_out_the_result_is_the_same(
    where: str,
    checkpoints: bool,
    folders: tuple[Path, Path],
    undisturbed: RunState,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Twice, and from the newest checkpoint or from the start: both savings compute again what they do not keep."""
    prior = LatentPrior(folders[0], CPU, folders[1])
    failing_at(where, prior, monkeypatch, 3, 4)
    saved, notes = run(prior, tmp_path, 0.0 if checkpoints else 86_400.0)
    second = 2 if checkpoints else 0
    assert len(notes) == 2 and saved.iteration == 4
    assert "Out of memory in stage nerf, iteration 2." in notes[0] and "encoder checkpointed" in notes[0]
    assert f"stage nerf, iteration {second}." in notes[1] and "D_phi's step checkpointed" in notes[1]
    assert saved.tensors.keys() == undisturbed.tensors.keys()
    for name, value in saved.tensors.items():
        assert torch.equal(value, undisturbed.tensors[name]), name


@pytest.mark.slow
def test_the_last_savings_are_used_as_well_and_then_it_says_what_to_change(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = LatentPrior(folders[0], CPU, folders[1])
    failing_at("D_p", prior, monkeypatch, 2, 3, 4)
    saved, notes = run(prior, tmp_path / "goes on")
    assert len(notes) == len(SAVINGS) - 1 == saved.notes["rung"] and saved.iteration == 4
    assert "the prior's own network" in notes[2]
    assert prior.describe()["phi"] == "shared"
    assert saved.tensors["phi.steps"] == 3  # on the other network it began again, after one iteration

    prior = LatentPrior(folders[0], CPU, folders[1])
    failing_at("D_p", prior, monkeypatch, *range(1, 1 + len(SAVINGS)))
    with pytest.raises(
        OutOfMemory, match=r"nerf ran out of memory in iteration 0.*--set nerf\.budget=100000"
    ):
        run(prior, tmp_path / "fails")


def test_a_prior_without_networks_says_at_once_what_to_change(tmp_path: Path) -> None:
    prior = Oracle()
    prior.denoise = Failing(prior.denoise, 3)  # type: ignore[method-assign]
    with pytest.raises(OutOfMemory, match=r"iteration 2.*--set nerf\.budget=100000"):
        run(prior, tmp_path)


def test_an_error_of_another_kind_is_raised_as_it_is(tmp_path: Path) -> None:
    prior = Oracle()
    prior.encode_quietly = lambda _: torch.ones(2) @ torch.ones(3)  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        run(prior, tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("Failed to allocate 4096 bytes on device 'cuda:0'"),  # Warp, context.py
    ],
)
def test_others_run_out_in_other_words(error: Exception) -> None:
    assert memory.is_out_of_memory(error)
    assert not memory.is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_what_is_to_be_changed_by_stage(folders: tuple[Path, Path]) -> None:
    preset, sd = resolve("paper").preset, LatentPrior(folders[0], CPU)  # native size 64
    assert memory.what_to_change("texture", preset, sd) == "Lower texture.size: --set texture.size=256"
    small = dataclasses.replace(preset, refine=dataclasses.replace(preset.refine, size=64))
    assert "--stages nerf,geometry,texture" in memory.what_to_change("refine", small, sd)
    assert memory.what_to_change("geometry", preset, Oracle()).endswith("geometry.size=256")


class Sized(Oracle):
    """Needs 20 GB less 4 a rung for 1024 px."""

    def footprint(self, size: int, savings: Any, still: bool = False) -> float:
        return (20 - 4 * sum(vars(savings).values())) * (size / 1024) ** 2


def test_the_plan_takes_the_first_rung_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    preset, stages = resolve("paper").preset, ("nerf", "geometry", "texture", "refine")

    def planned(gigabytes: float, at_least: int = 0) -> memory.Plan:
        monkeypatch.setattr(memory, "capacity_gb", lambda _: gigabytes)
        return make_plan(stages, preset, Oracle(), {"refine": Sized()}, CPU, at_least)

    assert planned(80).rung == 0 and planned(80).note() == ""
    assert planned(80, at_least=2).rung == 2  # a run that goes on stays thrifty
    assert planned(80, at_least=99).rung == len(SAVINGS) - 1  # from an edition that knew more savings
    tight = planned(16)
    assert tight.rung == 2 and tight.fits and "D_phi's step checkpointed" in tight.note()
    assert tight.needed["refine"] == pytest.approx(12 + 1.05 + 0.39, abs=0.05)
    assert tight.needed["nerf"] == pytest.approx(2.01 + 0.39, abs=0.05)
    monkeypatch.setattr(memory, "capacity_gb", lambda _: 80)
    textured = make_plan(stages, preset, Oracle(), {"texture": Sized()}, CPU)  # at 512 px a quarter of 20 GB
    assert textured.needed["texture"] == pytest.approx(5 + 0.26 + 0.39, abs=0.05)
    assert textured.needed["refine"] == pytest.approx(1.05 + 0.39, abs=0.05)
    never = planned(1)
    assert never.rung == len(SAVINGS) - 1 and not never.fits and "may not fit" in never.note()


def test_what_mvdream_plans_by_card() -> None:
    """Alone, and with Stable Diffusion's texture and the SDXL refiner, whose last stage alone is too large for two."""
    finer = {"texture": Published("sd21-base", "sd21"), "refine": Published("refiner")}
    alone = [plan_of("paper", card, Published("mvdream"), {}) for card in (8, 12, 16, 24)]
    three = [plan_of("paper", card, Published("mvdream"), finer) for card in (8, 12, 16, 24)]
    assert [plan.rung for plan in alone] == [1, 0, 0, 0] and all(plan.fits for plan in alone)
    assert [plan.rung for plan in three] == [3, 3, 2, 1]
    assert [plan.fits for plan in three] == [False, False, True, True]
    for plan in three:
        assert max(plan.needed[stage] for stage in ("nerf", "geometry", "texture")) < 0.92 * 8
    # 512 px of two networks beside 256 px of four views on one
    assert three[2].needed["texture"] - three[2].needed["geometry"] == pytest.approx(1.73 + 0.07, abs=0.1)


def test_a_job_warns_resumes_and_remembers(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LatentPrior.denoise
    failing = Failing(real, 3)
    monkeypatch.setattr(LatentPrior, "denoise", lambda self, *args, **named: failing(self, *args, **named))
    job = tiny_job(
        tmp_path / "job", prior=str(folders[0]), stages=("nerf",), overrides=FEW, checkpoint_seconds=0.0
    )
    events = list(generate.generate(job))
    assert isinstance(events[-1], Finished)
    said = [event.message for event in events if isinstance(event, Warning)]
    assert len(said) == 1 and "encoder checkpointed" in said[0]
    states = sorted((tmp_path / "job" / "checkpoints").glob("*/state.json"))
    assert '"rung": 1' in states[-1].read_text(encoding="utf-8")
    assert '"memory"' in (tmp_path / "job" / "job.json").read_text(encoding="utf-8")


def test_a_limit_of_the_user_s(cuda_calls: CudaCalls, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan counts with it, and torch's allocator is told; nonsense is refused."""
    cuda = device.pick_device("cuda")
    for said, expected in (("", 24.0), ("6", 6.0), ("99", 24.0)):
        monkeypatch.setenv("DREAMFLOW_MEMORY_GB", said)
        assert memory.capacity_gb(cuda) == expected
        device.prepare_device(cuda, 0)
        assert cuda_calls.fractions.pop() == (pytest.approx(expected / 24), 0)
    for nonsense in ("much", "0", "-3", "nan"):
        monkeypatch.setenv("DREAMFLOW_MEMORY_GB", nonsense)
        with pytest.raises(InputError, match="DREAMFLOW_MEMORY_GB"):
            memory.capacity_gb(cuda)


def test_what_was_held() -> None:
    held = torch.ones(200_000_000 // 4)
    now = psutil.Process().memory_info().rss / 1e9
    assert held[0] == 1 and 0.2 < now < 1.05 * memory.peak_gb(CPU) < 64
