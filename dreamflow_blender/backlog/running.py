"""What the worker has said of the running job. No `bpy`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from ..contract import protocol as p
from .store import Entry

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
        self.warnings = [*self.warnings[1 - WARNINGS :], message]

    def share(self) -> str:
        """ "61 %" of the whole, counting every stage the same."""
        if self.stage not in self.stages:
            return "0 %"
        done = (self.stages.index(self.stage) + self.fraction) / len(self.stages)
        return f"{100 * done:.0f} %"
