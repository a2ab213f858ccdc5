"""What a run remembers of its iterations, and when it reports, previews, draws a snapshot, and saves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from backend.config import STAGES
from backend.stages.apfo import Step
from backend.stages.checkpoint import RunState
from dreamflow_blender.contract.protocol import Progress


@dataclass
class Curves:
    """Per iteration of one stage; the tensors stay on their device until they are read.

    before  from a checkpoint, each [iterations] float32 on the CPU: the rest may be on a card
    """

    loss: list[Tensor] = field(default_factory=list)
    gap: list[Tensor] = field(default_factory=list)
    gradient: list[Tensor] = field(default_factory=list)
    before: dict[str, Tensor] = field(default_factory=dict)

    def add(self, step: Step) -> None:
        self.loss.append(step.loss)
        self.gap.append(step.gap)
        self.gradient.append(step.gradient)

    def arrays(self) -> dict[str, Tensor]:
        """Each [iterations] float32, on the CPU."""
        found = {}
        for name, values in (("loss", self.loss), ("gap", self.gap), ("gradient", self.gradient)):
            new = torch.stack(values).cpu() if values else torch.zeros(0)
            found[name] = torch.cat([self.before[name], new]) if name in self.before else new
        return found


@dataclass
class RunLog:
    """A run's curves, contact sheets and timings."""

    curves: dict[str, Curves] = field(default_factory=dict)
    sheets: dict[str, Tensor] = field(default_factory=dict)  # [8,H,W,3] after each stage
    seconds: dict[str, float] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        found = {f"sheet.{stage}": sheet for stage, sheet in self.sheets.items()}
        for stage, curves in self.curves.items():
            found |= {f"curve.{stage}.{name}": values for name, values in curves.arrays().items()}
        return found

    def restore(self, saved: RunState) -> None:
        sheets = saved.part("sheet.")
        self.sheets = {stage: sheets[stage] for stage in STAGES if stage in sheets}  # in the order of the run
        self.seconds = dict(saved.notes["seconds"])
        for stage in STAGES:
            if parts := saved.part(f"curve.{stage}."):
                self.curves[stage] = Curves(before=parts)


class Throttle:
    """Something done every few seconds, and less often where that would take more than a share of the time."""

    def __init__(self, every: float, share: float) -> None:
        self._every, self._share = every, share
        self._began = self._last = time.monotonic()
        self._cost = 0.0  # of the last time
        self.spent = 0.0  # seconds, all in all

    def due(self, soon: bool = False) -> bool:
        """0 seconds means every time, whatever it costs; `soon`: as soon as the share allows."""
        now = time.monotonic()
        if self._every == 0:
            return True
        affordable = self.spent + self._cost <= self._share * (now - self._began)
        return affordable and (soon or now - self._last >= self._every)

    @contextmanager
    def doing(self) -> Iterator[None]:
        """Round what was due: what it cost decides when it is due again."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._last = time.monotonic()
            self._cost = self._last - began
            self.spent += self._cost

    def skip(self, seconds: float) -> None:
        """Leave out time in which the run was paused."""
        self._began += seconds
        self._last += seconds


class RunClock:
    """When a run reports, previews and saves; results do not depend on it."""

    REPORT_EVERY = 0.5  # seconds
    PREVIEW_EVERY = 5.0
    SLOW = 3.0  # seconds of an iteration; a client that stops the backend leaves it five for everything

    def __init__(self, checkpoint_seconds: float, snapshot_seconds: float) -> None:
        # previews and snapshots together stay under 3 % of the time, checkpoints under 2 %
        self.preview = Throttle(self.PREVIEW_EVERY, 0.014)
        self.snapshot = Throttle(snapshot_seconds, 0.014)
        self.checkpoint = Throttle(checkpoint_seconds, 0.015)
        self.turn = 0.0  # degrees of the preview's camera
        self._begin = self._reported = self._stepped = time.monotonic()
        self._total, self._first = 1, 0

    def due_checkpoint(self) -> bool:
        """Called after every iteration. After a slow one a checkpoint is taken as soon as its share of the
        time allows: a client that goes away does not wait for the next iteration's end."""
        now = time.monotonic()
        slow, self._stepped = now - self._stepped > self.SLOW, now
        return self.checkpoint.due(slow)

    def skip(self, seconds: float) -> None:
        """The run was paused for so long."""
        self._begin += seconds
        self._stepped += seconds
        for throttle in (self.preview, self.snapshot, self.checkpoint):
            throttle.skip(seconds)

    def start(self, total: int, first: int) -> None:
        """A stage begins at iteration `first`."""
        self._begin = self._reported = self._stepped = time.monotonic()
        self._total, self._first = total, first

    def elapsed(self) -> float:
        return time.monotonic() - self._begin

    def due_report(self, done: int) -> bool:
        return done == self._total or time.monotonic() - self._reported >= self.REPORT_EVERY

    def plain_progress(self, stage: str, done: int) -> Progress:
        """Of what has no noise levels."""
        self._reported = time.monotonic()
        left = self.elapsed() / max(1, done - self._first) * (self._total - done)
        return Progress(stage, done, self._total, done, self._total, round(left, 1))

    def progress(self, stage: str, step: Step, levels: int) -> Progress:
        self._reported = time.monotonic()
        done = step.iteration + 1
        left = self.elapsed() / (done - self._first) * (self._total - done)
        level = done * levels // self._total
        return Progress(
            stage, level, levels, done, self._total, round(left, 1), float(step.loss), float(step.gap)
        )
