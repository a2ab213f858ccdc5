"""What fits into memory, and what to do when something did not.

A run starts with the first of diffusion/savings.py's SAVINGS with which every stage should fit, by the
counted table of models/load.py and the render's own share below. When memory runs out all the same,
it takes the next one and resumes from its newest checkpoint (jobs/run.py). The networks of one prior at a time
are loaded.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from backend.config import NerfStage, Preset, StageSchedule, TextureStage
from backend.device import card_limit_gb
from backend.diffusion.graphs import wanted
from backend.diffusion.prior import Prior
from backend.diffusion.savings import SAVINGS, Savings
from backend.errors import OutOfMemory, is_out_of_memory
from backend.kernels.hashgrid import GridLayout
from backend.sides.views import COUNT, SixSides

T = TypeVar("T")

SAMPLE = 960  # bytes that a ray's sample keeps until the backward pass: counted, 16 levels x 4, heads of 64
PIXEL = 1000  # bytes of a mesh's pixel, likewise, were the whole picture covered
USABLE = 0.92  # share of a device's memory: its context, the kernels' workspaces, what lies between blocks


def capacity_gb(device: torch.device) -> float:
    """All that the device has and the user allows, or all that the machine has.

    Not what is free just now, which would change results.
    """
    if device.type == "cuda":
        return card_limit_gb(device)
    return float(psutil.virtual_memory().total) / 1e9


def peak_gb(device: torch.device) -> float:
    """The most that this process has held so far, of the card's memory or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e9
    with suppress(OSError):  # Linux; getrusage would count the process that has started this one
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    held = psutil.Process().memory_info()
    return float(getattr(held, "peak_wset", held.rss)) / 1e9  # Windows; elsewhere what it holds now


def savings_of(rung: int, graphs: bool) -> Savings:
    """What a prior is asked to save on this rung, with CUDA graphs or without."""
    return replace(SAVINGS[rung][1], graphs=graphs)


def needed_gb(name: str, preset: Preset, prior: Prior, rung: int, graphs: bool = False) -> float:
    """An estimate of a stage's peak."""
    schedule: StageSchedule = getattr(preset, name)
    still = isinstance(schedule, TextureStage)
    spec = (prior.spec.still or prior.spec) if still else prior.spec
    views = COUNT if isinstance(spec.poses, SixSides) else spec.frames
    networks = prior.footprint(schedule.size, savings_of(rung, graphs), still)
    return networks + _scene_gb(schedule, preset.nerf, views)


def _scene_gb(schedule: StageSchedule, nerf: NerfStage, views: int) -> float:
    """The field with its gradient and AdamW's moments, and the activations of the renders of an update."""
    layout = GridLayout(nerf.grid_levels, nerf.grid_features, nerf.grid_log2_size, finest=nerf.grid_finest)
    field = layout.entries * layout.features * 4 * 4
    render = nerf.budget * SAMPLE if isinstance(schedule, NerfStage) else schedule.size**2 * PIXEL
    return (field + render * views) / 1e9


@dataclass(frozen=True)
class Plan:
    """How a run begins."""

    rung: int  # of SAVINGS
    needed: dict[str, float]  # GB by stage, estimated
    capacity: float  # GB
    graphs: bool = False  # CUDA graphs, where there is room for them on this rung; `needed` counts them then

    @property
    def fits(self) -> bool:
        return all(value <= USABLE * self.capacity for value in self.needed.values())

    def note(self) -> str:
        """What the user should know; "" where all fits as it is."""
        if not self.needed or (self.fits and self.rung == 0):
            return ""
        most = max(self.needed, key=lambda name: self.needed[name])
        there = f"about {self.needed[most]:.1f} GB for stage {most}, {self.capacity:.1f} GB are there"
        if self.fits:
            return f"To fit into memory ({there}): {'; '.join(words_of(self.rung))}."
        return f"It may not fit into memory ({there})."

    def record(self) -> dict[str, Any]:
        """For job.json."""
        return asdict(self) | {"fits": self.fits, "savings": words_of(self.rung)}


def words_of(rung: int) -> list[str]:
    """What is done on this rung."""
    return [words for words, _ in SAVINGS[1 : rung + 1]]


def make_plan(
    stages: Sequence[str],
    preset: Preset,
    prior: Prior,
    others: Mapping[str, Prior],
    device: torch.device,
    at_least: int = 0,
) -> Plan:
    """The first rung, from `at_least` on, where every stage should fit; else the last one that helps."""
    capacity = capacity_gb(device)

    def plan_of(rung: int, graphs: bool) -> Plan:
        needed = {
            name: round(needed_gb(name, preset, others.get(name, prior), rung, graphs), 2) for name in stages
        }
        return Plan(rung, needed, capacity, graphs)

    plans = []
    for rung in range(min(at_least, len(SAVINGS) - 1), len(SAVINGS)):
        plans.append(plan_of(rung, graphs=False))
        if plans[-1].fits:
            captured = plan_of(rung, graphs=wanted(device))
            return captured if captured.fits else plans[-1]
    least = plans[-1].needed
    return next(plan for plan in plans if plan.needed == least)


class MemorySavings:
    """Which of the SAVINGS a run uses now; its priors are told of every change."""

    def __init__(
        self, preset: Preset, prior: Prior, others: Mapping[str, Prior], rung: int = 0, graphs: bool = False
    ) -> None:
        self.rung, self.graphs, self._preset = rung, graphs, preset
        self._prior, self._others = prior, others
        self._all = prior, *others.values()
        self._reported: list[str] = []
        self._apply()

    def step_down(self, stage: str, iteration: int, error: BaseException, device: torch.device) -> str:
        """Save more; the sentence for the user. Raises OutOfMemory from `error` where nothing more can be saved."""
        prior = self._others.get(stage, self._prior)
        needed = [needed_gb(stage, self._preset, prior, rung) for rung in range(len(SAVINGS))]
        networks = needed[0] != needed[-1]  # without them nothing can be saved
        happened = f"Out of memory in stage {stage}, iteration {iteration}."
        if networks and self.graphs:
            self.graphs = False
            self._apply()
            return f"{happened} It is resumed without CUDA graphs."
        if self.rung == len(SAVINGS) - 1 or not networks:
            raise OutOfMemory(
                f"Stage {stage} ran out of memory in iteration {iteration}, with all savings in use:"
                f" {capacity_gb(device):.1f} GB are there.",
                what_to_change(stage, self._preset, prior),
            ) from error
        self.rung += 1
        self._apply()
        return f"{happened} It is resumed with less: {SAVINGS[self.rung][0]}."

    def retry_without_networks(self, work: Callable[[], T], what: str, todo: str) -> T:
        """Run `work`, which needs no networks; on out-of-memory, release them all and try once more.

        Raises OutOfMemory, with `what` ran out and what to do, where that is not enough.
        """
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        self.release()  # the error, which held on to the work's tensors, is gone by now
        with as_out_of_memory(what, todo):
            return work()

    def take_notes(self) -> list[str]:
        """What the priors have to report that has not been reported in this run."""
        found = [note for prior in self._all for note in prior.take_notes()]
        fresh = [note for note in dict.fromkeys(found) if note not in self._reported]
        self._reported += fresh
        return fresh

    def release(self) -> None:
        """Release all networks; they are loaded again when they are needed."""
        release_networks(*self._all)

    def _apply(self) -> None:
        for prior in self._all:
            prior.save_memory(savings_of(self.rung, self.graphs))


def release_networks(*priors: Prior) -> None:
    """Of these priors, with everything that the networks held."""
    for prior in priors:
        prior.release()
    if priors:
        collect()


def collect() -> None:
    """Return what nothing refers to any more to the device."""
    gc.collect()  # a network and peft's layers in it refer to each other
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextmanager
def as_out_of_memory(what: str, todo: str) -> Iterator[None]:
    """An allocator's error in the body becomes OutOfMemory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"{what} ran out of memory.", todo) from error


def what_to_change(stage: str, preset: Preset, prior: Prior) -> str:
    """The setting that makes a stage smaller."""
    schedule: StageSchedule = getattr(preset, stage)
    if isinstance(schedule, NerfStage):
        return f"Lower nerf.budget: --set nerf.budget={schedule.budget // 2}"
    smaller, last = max(8, schedule.size // 16 * 8), SAVINGS[-1][1]
    still = isinstance(schedule, TextureStage)
    networks = prior.footprint(schedule.size, SAVINGS[0][1], still) != prior.footprint(
        schedule.size, last, still
    )
    if not networks or prior.footprint(smaller, last, still) < prior.footprint(schedule.size, last, still):
        return f"Lower {stage}.size: --set {stage}.size={smaller}"
    if stage == "refine":  # the refiner enlarges what is smaller than it was trained at
        return "Leave the stage out: --stages nerf,geometry,texture"
    return "Take another device: --device cpu"
