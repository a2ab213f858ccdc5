"""What a run leaves behind while it goes on: events, curves, previews, snapshots and checkpoints.

`Work` is what the kinds of jobs have in common: the seam between run.py and generate.py, refine.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Generator as Events
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from backend.errors import SceneError
from backend.jobs.record import add_note
from backend.jobs.telemetry import Curves, RunClock, RunLog
from backend.results.candidate import write_candidate
from backend.results.deliver import Delivered
from backend.results.look import BACKGROUND, cameras_round, render_clay, render_scene
from backend.results.pictures import write_preview
from backend.results.snapshot import with_current_surface
from backend.scene.scene import Scene
from backend.stages.checkpoint import RunState, capture
from backend.stages.checkpoint_writer import CheckpointWriter, newest
from backend.stages.happenings import (
    Fitting,
    Happening,
    Note,
    Reached,
    Restored,
    StageBegan,
    StageEnded,
    Stepped,
)
from backend.stages.setup import Setup
from backend.texture.colour_field import Fit
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import Checkpoint, Event, Job, Preview, Snapshot, Started, Warning

Control = Callable[[], str | None]  # what the user wants now: "pause", "finish", "cancel", or None
Delivery = Events[int, None, Delivered]  # yields how many of the STEPS are done


def no_control() -> None:
    """The user wants nothing."""


@dataclass(frozen=True)
class Outcome:
    """What a run has come to, for its delivery."""

    scene: Scene
    stage: str
    ended: bool  # the stage


class Work(Protocol):
    """A kind of job."""

    job: Job

    def kept(self) -> dict[str, bytes]:
        """What resuming it needs beside job.json, of JobFolder.object_files: name -> content."""
        ...

    def happenings(self, setup: Setup, saved: RunState | None) -> Iterator[Happening]:
        """All of the job, from its start or from a checkpoint; called again where memory ran out."""
        ...

    def snapshot(self, scene: Scene, stage: str) -> Path:
        """Writes what there is. Raises SceneError where there is nothing to see yet."""
        ...

    def deliver(self, setup: Setup, outcome: Outcome, log: RunLog, control: Control) -> Delivery:
        """Raises SceneError where there is nothing to deliver."""
        ...


@dataclass(frozen=True)
class Start:
    """How a job begins, found once its folder is locked."""

    work: Work
    saved: RunState | None = None  # None: from its start
    notes: tuple[str, ...] = ()
    record: dict[str, Any] | None = None  # a resumed job's job.json
    until: float = 0.0  # a candidate's share of stage 1; 0: to the end


SHEET = 8, 192  # views in a circle, and pixels a side of each


class Recorder:
    """Turns what happens into the job's events and files.

    at       where the run is; None before the first stage, and after the end of one, whose D_phi may then go
    outcome  what could be delivered now; None while there is nothing
    """

    def __init__(self, setup: Setup, work: Work, facts: dict[str, Any]) -> None:
        """facts: what every checkpoint's notes hold of the run (job, threads, kernels, versions)."""
        self._setup, self._work, self._facts = setup, work, facts
        self._folder = Path(setup.job.folder)
        self._warned: set[str] = set()
        self.log = RunLog()
        self.clock = RunClock(setup.job.checkpoint_seconds, setup.job.snapshot_seconds)
        self.writer = CheckpointWriter(self._folder)
        self.at: Reached | Fitting | None = None
        self.outcome: Outcome | None = None
        self.unfit: set[str] = set()  # names of checkpoints that turned out to be damaged

    def record(self, happening: Happening) -> Events[Event, None, None]:
        """The events of one thing that has happened. Raises DiskError, and NumericsError from a checkpoint."""
        match happening:
            case Restored(scene, stage, ended):
                self.outcome = Outcome(scene, stage, ended)
            case Note(message):
                yield from self.warn(message)
            case Fitting():
                yield from self._fitting(happening)
            case StageBegan(at):
                self._reach(at)
                name, total = at.stage.name, at.stage.schedule.iterations
                self.clock.start(total, at.done)
                if at.done == 0:
                    self.log.curves[name] = Curves()
                yield Started(name, total)
            case Stepped(at, step):
                self._reach(at)
                self.log.curves[at.stage.name].add(step)
                if self.clock.due_report(at.done):
                    yield self.clock.progress(at.stage.name, step, at.stage.schedule.levels)
                for note in self._setup.savings.take_notes():
                    add_note(self._folder, note)
                    yield from self.warn(note)
                yield from self._show(at)
                self._save_if_due()
            case StageEnded(at):
                self._reach(at)
                name, seconds = at.stage.name, self.log.seconds
                seconds[name] = round(seconds.get(name, 0.0) + self.clock.elapsed(), 2)
                self.log.sheets[name] = contact_sheet(at, self._setup.device)
                self.save()
        yield from self.written()

    def warn(self, message: str) -> Events[Event, None, None]:
        """A warning, unless this run has given it before."""
        if message not in self._warned:
            self._warned.add(message)
            yield Warning(message)

    def written(self) -> Events[Event, None, None]:
        """The checkpoints that have been written since the last call. Raises DiskError."""
        for path in self.writer.newly_written():
            yield Checkpoint(str(path))

    def save(self) -> None:
        """Begin a checkpoint, where there is something to take it of."""
        if self.at is None:
            return
        notes = self._facts | {"seconds": self.log.seconds, "rung": self._setup.savings.rung}
        with self.clock.checkpoint.doing():
            self.writer.save(capture(self.at, self.log.tensors(), notes))

    def _save_if_due(self) -> None:
        if self.clock.due_checkpoint() and not (self.writer.busy and self._setup.job.checkpoint_seconds):
            self.save()

    def go_back(self) -> RunState | None:
        """The newest checkpoint, or None for the job's start; what was recorded after it is forgotten.

        Raises DiskError where the last checkpoint could not be written.
        """
        self.at = self.outcome = None
        self.writer.wait()
        saved, _ = newest(self._folder, self._setup.job.id, self.unfit)
        self.log = RunLog()
        if saved is not None:
            self.log.restore(saved)
        return saved

    def leave_candidate(self) -> None:
        """What a candidate is chosen by, with a checkpoint to go on from; nothing where it is past stage 1 already.

        Raises DiskError.
        """
        at = self.at
        assert isinstance(at, Reached), "a stage has begun"
        if at.stage.name != "nerf":
            return
        prior, told = self._setup.prior, self._setup.prompts["nerf", "colour"]
        size, done = self._setup.preset.nerf.size, at.done
        write_candidate(JobFolder(self._folder), at.scene, prior, told, size, done)
        self.save()
        self.writer.wait()

    def let_stage_go(self) -> None:
        """After the end of a stage: its D_phi may go, and the network under it."""
        if self.at is not None and self.at.ended:
            self.at = None

    def _reach(self, at: Reached) -> None:
        self.at = at
        self.outcome = Outcome(at.scene, at.stage.name, at.ended)

    def _fitting(self, at: Fitting) -> Events[Event, None, None]:
        if not isinstance(self.at, Fitting):
            self.clock.start(at.total, at.done)
            yield Started(Fit.name, at.total)
        elif self.clock.due_report(at.done):
            yield self.clock.plain_progress(Fit.name, at.done)
        self.at = at
        self._save_if_due()
        if at.done == at.total:  # a stage comes next; its networks may need the room of the fit's optimizer
            self.at = None

    def _show(self, at: Reached) -> Events[Event, None, None]:
        """The preview and the snapshot that are due."""
        device = self._setup.device
        if self.clock.preview.due():
            with self.clock.preview.doing():
                camera = cameras_round(at.scene, 1, 256, first=self.clock.turn)
                path = JobFolder(self._folder).preview
                background = torch.full((3,), BACKGROUND, device=device)
                write_preview(
                    path,
                    render_scene(with_current_surface(at.scene, at.stage.name), camera, background)[0].cpu(),
                )
                self.clock.turn += 37.0
            yield Preview(str(path))
        if self._setup.job.snapshot_faces and self.clock.snapshot.due():
            with suppress(SceneError):  # nothing to see yet
                with self.clock.snapshot.doing():
                    path = self._work.snapshot(at.scene, at.stage.name)
                yield Snapshot(str(path))


def contact_sheet(at: Reached, device: torch.device) -> Tensor:
    """[views,size,size,3]: the stage's result from all sides, on the CPU; geometry's in grey."""
    cameras = cameras_round(at.scene, *SHEET)
    background = torch.full((3,), BACKGROUND, device=device)
    if at.stage.name == "geometry" and at.scene.mesh is not None:
        return render_clay(at.scene.mesh, cameras, background).cpu()
    return render_scene(at.scene, cameras, background).cpu()
