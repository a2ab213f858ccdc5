"""What the worker has said of the running job. No `bpy`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from ..contract import protocol as p
from ..contract import words
from .store import Entry

# Of the seconds of a draft, measured on two processor cores; what this machine has measured takes their place.
SHARES = {"fit": 0.05, "nerf": 0.34, "geometry": 0.3, "texture": 0.12, "refine": 0.19, "deliver": 0.05}
LOSSES = 600  # of the newest, for the curve
WARNINGS = 10


@dataclass
class Running:
    """Changed by `hear`, shown by the panel."""

    entry: Entry
    stages: tuple[str, ...]  # "deliver" included
    stage: str = ""
    fraction: float = 0.0  # of the stage
    seconds_left: float | None = None  # of the stage
    paused: bool = False
    asked: str = ""  # "pause", "finish" or "discard": pressed, and not yet answered
    losses: list[float] = field(default_factory=list)  # of the stage
    warnings: list[str] = field(default_factory=list)
    picture: Path | None = None  # newer than the one that is shown
    snapshot: Path | None = None  # newer than the mesh that is shown
    pictured: bool = False  # of the two above the picture was the last shown: the mesh has its turn
    # seconds of the stages of jobs like this one, here
    measured: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def hear(self, event: p.Event) -> None:
        """Any event but a job's last."""
        match event:
            case p.Started():
                self.stage, self.fraction, self.seconds_left = event.stage, 0.0, None
                self.losses.clear()
            case p.Progress():
                self.stage, self.seconds_left = event.stage, event.seconds_left
                self.fraction = event.iteration / event.total if event.total else 0.0
                if self.entry.candidate_of:  # which ends before the stage does
                    share = p.CANDIDATE_SHARE
                    if self.seconds_left is not None and self.fraction < 1:
                        self.seconds_left *= max(0.0, share - self.fraction) / (1 - self.fraction)
                    self.fraction = min(1.0, self.fraction / share)
                if event.loss is not None:
                    self.losses.append(event.loss)
                    del self.losses[:-LOSSES]
            case p.Preview():
                self.picture = Path(event.path)
            case p.Snapshot():
                self.snapshot = Path(event.path)
            case p.Paused():
                self.paused, self.asked = True, ""
            case p.Warning():
                self.warn(event.message)
            case p.Refused():
                self.asked = ""
                self.warn(event.message)

    def warn(self, message: str) -> None:
        """Keep the note, without its sentences for a command line where it has others."""
        message = words.without_commands(message) or message
        self.warnings = [*self.warnings[1 - WARNINGS :], message]

    def whole(self) -> float:
        """How much of the whole job is done, in [0,1]: each stage counts as long as it takes."""
        if self.stage not in self.stages:
            return 0.0
        weights = self._weights()
        at = self.stages.index(self.stage)
        return (sum(weights[:at]) + self.fraction * weights[at]) / sum(weights)

    def whole_seconds_left(self) -> float | None:
        """Of the whole job; None where it is not known yet."""
        if self.seconds_left is None or self.stage not in self.stages:
            return None
        weights = self._weights()
        at = self.stages.index(self.stage)
        to_do = (1 - self.fraction) * weights[at]
        later = sum(weights[at + 1 :])
        if self.measured:  # the weights are seconds
            return self.seconds_left + later
        return self.seconds_left * (1 + later / to_do) if to_do > 0.01 * weights[at] else None

    def _weights(self) -> list[float]:
        known = self.measured or SHARES
        return [known.get(stage, SHARES.get(stage, 0.1)) for stage in self.stages]

    def share(self) -> str:
        """ "61 %" of the whole."""
        return f"{100 * self.whole():.0f} %"
