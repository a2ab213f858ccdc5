"""A job from its beginning to its end: progress told as events, checkpoints, previews, and stops when asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Generator as Events
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from backend.chain import Moment, look_at_hand_over, run_stages
from backend.checkpoint import Keeper, Saved, capture, listed, load
from backend.config import STAGES, Preset, resolve
from backend.device import pick_device, prepare_device
from backend.diffusion.open_prior import open_prior
from backend.diffusion.prior import Kind, Prior
from backend.errors import DiskError, InputError, SceneError
from backend.finish import finish
from backend.job import kept, last_event, read_job
from backend.kernels import Kernels, select
from backend.lock import locked
from backend.pictures import BACKGROUND, around, look, look_at_clay
from backend.record import versions, write_job
from backend.report import write_preview
from backend.snapshot import as_it_stands, write_snapshot
from backend.stages import Scene
from backend.watch import Curves, Watch
from dreamflow_blender.contract.protocol import (
    Cancelled,
    Checkpoint,
    Event,
    Finished,
    Job,
    Paused,
    Preview,
    Ready,
    Snapshot,
    Started,
    Warning,
)

Asked = Callable[[], str | None]  # "pause", "finish", "cancel", or None


def nobody() -> None:
    """Asks for nothing."""


@dataclass
class Told:
    """What a run has to show for itself beside its scene."""

    curves: dict[str, Curves] = field(default_factory=dict)
    sheets: dict[str, Tensor] = field(default_factory=dict)  # [8,H,W,3] after each stage
    seconds: dict[str, float] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        found = {f"sheet.{stage}": sheet for stage, sheet in self.sheets.items()}
        for stage, curves in self.curves.items():
            found |= {f"curve.{stage}.{name}": values for name, values in curves.arrays().items()}
        return found

    def restore(self, saved: Saved) -> None:
        sheets = saved.part("sheet.")
        self.sheets = {stage: sheets[stage] for stage in STAGES if stage in sheets}  # in the order of the run
        self.seconds = dict(saved.notes["seconds"])
        for stage in STAGES:
            if parts := saved.part(f"curve.{stage}."):
                self.curves[stage] = Curves(**{name: list(values.unbind()) for name, values in parts.items()})


def generate(job: Job, asked: Asked = nobody) -> Events[Event, None, None]:
    """Run a job in its existing folder, from its start. `asked` is looked at between iterations.

    Closing the generator, or a KeyboardInterrupt in it, keeps what there is: a mesh is delivered from the
    last finished iteration before the exception goes on.
    """
    with locked(Path(job.folder)):
        yield from _run(job, asked, None)


def resume(folder: Path, asked: Asked = nobody) -> Events[Event, None, None]:
    """Go on with the job in this folder, from its newest checkpoint that can be read, or from its start.

    Raises InputError where there is nothing to go on with.
    """
    job = read_job(folder)
    if isinstance(last_event(folder), Finished):
        raise InputError(f"The job in {folder} is finished.", "Generate another one.")
    with locked(folder):
        notes: list[str] = []
        saved = _newest(job, notes)
        run = _run(job, asked, saved)
        yield next(run)  # ready
        for note in notes:
            yield Warning(note)
        yield from run


def _newest(job: Job, notes: list[str]) -> Saved | None:
    """Of this very job; a damaged one is passed over with a note."""
    for path in listed(Path(job.folder)):
        try:
            saved = load(path)
        except DiskError as error:
            notes.append(f"{error.message} An older one is used.")
            continue
        if saved.notes["job"] == job.id:
            return saved
    return None


def _run(job: Job, asked: Asked, saved: Saved | None) -> Events[Event, None, None]:
    began = time.monotonic()
    preset = resolve(job.preset, job.overrides)
    device = pick_device(job.device)
    threads = prepare_device(device, saved.notes["threads"] if saved else job.threads)
    folder = Path(job.folder)
    kernels = select(device)
    prior = open_prior(job.prior, device)
    refiner = open_prior(job.refiner, device) if job.refiner and job.refiner != job.prior else None
    for name in job.stages:
        theirs = refiner or prior if name == "refine" else prior
        kind: Kind = "normal" if name == "geometry" else "colour"
        theirs.check(job.prompt, job.negative, kind, getattr(preset, name).size)  # before anything is begun
    told = Told()
    constant = {"job": job.id, "threads": threads, "kernels": kernels.names, "versions": versions()}
    if saved is None:
        write_job(job, preset, device, threads, kernels, prior, refiner)
    else:
        told.restore(saved)
    yield _ready(device, kernels, threads)
    for name in ("kernels", "versions"):
        if saved is not None and saved.notes[name] != constant[name]:
            yield Warning(f"The {name} have changed since the checkpoint: the result may differ in detail.")

    watch = Watch(job.checkpoint_seconds, job.snapshot_seconds)
    keeper = Keeper(folder)
    moment: Moment | None = None

    def save(of: Moment) -> None:
        assert of.work is not None
        watch.checkpoint.due()  # its clock starts
        notes = constant | {"seconds": told.seconds}
        keeper.save(capture(of.scene, of.work, of.done, of.attempt, of.what == "ended", told.tensors(), notes))
        watch.checkpoint.done()

    try:
        for moment in run_stages(job, preset, prior, refiner, kernels, device, saved):
            if moment.what == "began":
                watch.start(moment.total, moment.done)
                if moment.done == 0:
                    told.curves[moment.stage] = Curves()
                yield Started(moment.stage, moment.total)
            elif moment.what == "again":
                yield Warning(moment.note)
            elif moment.step is not None:
                told.curves[moment.stage].add(moment.step)
                if watch.due_report(moment.done):
                    yield watch.progress(moment.stage, moment.step, getattr(preset, moment.stage).levels)
                yield from _show(moment, watch, job, kernels)
                if watch.checkpoint.due() and not (keeper.busy and job.checkpoint_seconds):
                    save(moment)
            elif moment.what == "ended":
                told.seconds[moment.stage] = round(told.seconds.get(moment.stage, 0.0) + watch.elapsed(), 2)
                told.sheets[moment.stage] = _sheet(moment, device, kernels)
                save(moment)
            for path in keeper.news():
                yield Checkpoint(str(path))

            word = asked()
            if word == "pause":
                if moment.work is not None:
                    save(moment)
                yield Paused()
                while (word := asked()) == "pause":
                    time.sleep(0.05)
            if word == "cancel":
                if moment.work is not None:
                    save(moment)
                keeper.wait()
                yield Cancelled(kept(folder))
                return
            if word == "finish":
                break
    except (GeneratorExit, KeyboardInterrupt) as stop:
        if moment is not None:
            if isinstance(stop, GeneratorExit) and moment.work is not None:  # it stands between iterations
                save(moment)
                keeper.wait()
            with suppress(SceneError):  # nothing to deliver yet; the events say how far it came
                scene = _solid(moment, prior, preset, kernels, job)
                _deliver(scene, preset, kernels, job, told)
        raise
    assert moment is not None, "a job has stages"
    keeper.wait()
    for path in keeper.news():
        yield Checkpoint(str(path))
    yield Started("deliver", 1)
    scene = _solid(moment, prior, preset, kernels, job)
    done = _deliver(scene, preset, kernels, job, told)
    figures = done.figures | {f"seconds_{name}": s for name, s in told.seconds.items()}
    figures["seconds"] = round(time.monotonic() - began, 2)
    yield Finished(done.paths, figures)


def _show(moment: Moment, watch: Watch, job: Job, kernels: Kernels) -> Events[Event, None, None]:
    """The preview and the snapshot that are due."""
    device = moment.scene.field.table.device
    if watch.preview.due():
        camera = around(1, 256, device, first=watch.turn)
        path = Path(job.folder) / "preview.png"
        background = torch.full((3,), BACKGROUND, device=device)
        image = look(as_it_stands(moment.scene, moment.stage), camera, kernels, background)[0]
        write_preview(path, image.cpu())
        watch.preview.done()
        watch.turn += 37.0
        yield Preview(str(path))
    if job.snapshot_faces and watch.snapshot.due():
        path = Path(job.folder) / "snapshot.npz"
        with suppress(SceneError):  # nothing to see yet
            write_snapshot(path, as_it_stands(moment.scene, moment.stage), job.snapshot_faces)
            yield Snapshot(str(path))
        watch.snapshot.done()


def _sheet(moment: Moment, device: torch.device, kernels: Kernels) -> Tensor:
    """[8,H,W,3]: the stage's result from all sides, on the CPU; geometry's in grey."""
    cameras = around(8, 192, device)
    background = torch.full((3,), BACKGROUND, device=device)
    if moment.stage == "geometry" and moment.scene.mesh is not None:
        return look_at_clay(moment.scene.mesh, cameras, kernels, background).cpu()
    return look(moment.scene, cameras, kernels, background).cpu()


def _solid(moment: Moment, prior: Prior, preset: Preset, kernels: Kernels, job: Job) -> Scene:
    """The scene with a surface, wherever the run was stopped. Raises SceneError where there is none."""
    if moment.what == "ended":
        scene = moment.scene
    else:
        scene = as_it_stands(moment.scene, moment.stage)
    if scene.mesh is None:
        look_at_hand_over(scene, prior, preset, kernels, job.seed)
    return scene


def _deliver(scene: Scene, preset: Preset, kernels: Kernels, job: Job, told: Told) -> Any:
    arrays = {name: curves.arrays() for name, curves in told.curves.items()}
    return finish(scene, preset.delivery, kernels, Path(job.folder), job, arrays, told.sheets)


def ready() -> Ready:
    """What would do the work, with nothing else said."""
    device = pick_device("auto")
    return _ready(device, select(device), torch.get_num_threads())


def _ready(device: torch.device, kernels: Kernels, threads: int) -> Ready:
    return Ready(versions(), (str(device),), kernels.names, threads, memory_gb(device), kernels.why)


def memory_gb(device: torch.device) -> float:
    """Of the device: a card's own, or the machine's."""
    if device.type == "cuda":
        return round(torch.cuda.get_device_properties(device).total_memory / 1e9, 1)
    return round(psutil.virtual_memory().total / 1e9, 1)
