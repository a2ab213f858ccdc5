"""What a run remembers of its iterations, and when it reports, previews, draws a snapshot, and saves."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from backend.apfo import Step
from dreamflow_blender.contract.protocol import Progress


@dataclass
class Curves:
    """Per iteration of one stage; the tensors stay on their device until they are read."""

    loss: list[Tensor] = field(default_factory=list)
    gap: list[Tensor] = field(default_factory=list)
    gradient: list[Tensor] = field(default_factory=list)

    def add(self, step: Step) -> None:
        self.loss.append(step.loss)
        self.gap.append(step.gap)
        self.gradient.append(step.gradient)

    def arrays(self) -> dict[str, Tensor]:
        """Each [iterations] float32, on the CPU."""
        return {
            name: torch.stack(values).cpu() if values else torch.zeros(0)
            for name, values in vars(self).items()
        }


class Chore:
    """Something done every few seconds, and less often where that would take more than a share of the time."""

    def __init__(self, every: float, share: float) -> None:
        self._every, self._share = every, share
        self._last = self._begin = time.monotonic()
        self._cost = 0.0

    def due(self) -> bool:
        """0 seconds means every time, whatever it costs."""
        self._begin = time.monotonic()
        pause = max(self._every, self._cost / self._share) if self._every else 0.0
        return self._begin - self._last >= pause

    def done(self) -> None:
        """After what was due is done: what it cost decides when it is next."""
        self._last = time.monotonic()
        self._cost = self._last - self._begin


class Watch:
    """The clock of a run; it changes nothing of it."""

    REPORT_EVERY = 0.5  # seconds
    PREVIEW_EVERY = 5.0

    def __init__(self, checkpoint_seconds: float, snapshot_seconds: float) -> None:
        # previews and snapshots together stay under 3 % of the time, checkpoints under 2 %
        self.preview = Chore(self.PREVIEW_EVERY, 0.014)
        self.snapshot = Chore(snapshot_seconds, 0.014)
        self.checkpoint = Chore(checkpoint_seconds, 0.015)
        self.turn = 0.0  # degrees of the preview's camera
        self._begin = self._reported = time.monotonic()
        self._total, self._first = 1, 0

    def start(self, total: int, first: int) -> None:
        """A stage begins at iteration `first`."""
        self._begin = self._reported = time.monotonic()
        self._total, self._first = total, first

    def elapsed(self) -> float:
        return time.monotonic() - self._begin

    def due_report(self, done: int) -> bool:
        return done == self._total or time.monotonic() - self._reported >= self.REPORT_EVERY

    def progress(self, stage: str, step: Step, levels: int) -> Progress:
        self._reported = time.monotonic()
        done = step.iteration + 1
        left = self.elapsed() / (done - self._first) * (self._total - done)
        level = done * levels // self._total
        return Progress(
            stage, level, levels, done, self._total, round(left, 1), float(step.loss), float(step.gap)
        )
