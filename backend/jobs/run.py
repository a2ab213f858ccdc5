"""A job from its beginning to its end: progress told as events, checkpoints, previews, and stops when asked."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from collections.abc import Generator as Events
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import psutil
import torch
from torch import Tensor

from backend.config import Preset, Resolved
from backend.device import choose_device, prepare_device
from backend.diffusion.prior import Kind, Prior
from backend.errors import SceneError
from backend.jobs.keeper import Keeper
from backend.jobs.priors import default_refiner, open_prior
from backend.jobs.record import add_note, check_settings, resolve_job, versions, write_job
from backend.jobs.telemetry import Curves, Told, Watch
from backend.kernels import select
from backend.results.deliver import STEPS, Delivered
from backend.results.look import BACKGROUND, render_clay, render_scene, turntable_cameras
from backend.results.pictures import write_preview
from backend.results.snapshot import with_current_surface
from backend.stages.chain import Moment
from backend.stages.checkpoint import Saved, capture
from backend.stages.memory import Ladder, make_plan, peak_gb, says_what_to_change
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import (
    Cancelled,
    Checkpoint,
    Event,
    Finished,
    Job,
    Paused,
    Preview,
    Progress,
    Ready,
    Snapshot,
    Started,
    Warning,
)

Asked = Callable[[], str | None]  # "pause", "finish", "cancel", or None
Delivery = Events[int, None, Delivered]
THREADS = torch.get_num_threads()  # torch's own choice, whatever the jobs of this process ask for


def nobody() -> None:
    """Asks for nothing."""


class Work(Protocol):
    """What a kind of job does: `generate`'s is below, `refine`'s in refine.py."""

    def moments(
        self, preset: Preset, prior: Prior, refiner: Prior | None, device: torch.device,
        saved: Saved | None, ladder: Ladder,
    ) -> Iterator[Moment]: ...  # fmt: skip

    def snapshot(self, moment: Moment) -> Path:
        """Written. Raises SceneError where there is nothing to see yet."""

    def deliver(self, moment: Moment, prior: Prior, preset: Preset, told: Told, asked: Asked) -> Delivery:
        """Yields how many of the STEPS are done."""


def run(
    job: Job, work: Work, asked: Asked, saved: Saved | None = None, recorded: Resolved | None = None
) -> Events[Event, None, None]:
    """The job's events, in its folder, which is locked. recorded: a resumed job's settings, as job.json has them."""
    began = time.monotonic()
    check_settings(job)
    device, about_device = choose_device(job.device)
    threads = prepare_device(device, saved.notes["threads"] if saved else job.threads or THREADS)
    folder = Path(job.folder)
    prior = open_prior(job.prior, device, job.phi or None)
    finer = job.refiner or default_refiner(job.prior)
    refiner = open_prior(finer, device) if finer and finer != job.prior else None
    settings = recorded or resolve_job(job, prior, refiner)
    preset = settings.preset

    def theirs(name: str) -> Prior:
        return refiner or prior if name == "refine" else prior

    def kind_of(name: str) -> Kind:
        return "normal" if name == "geometry" else "colour"

    for name in job.stages:  # before anything is begun
        theirs(name).check(job.prompt, job.negative, kind_of(name), getattr(preset, name).size)
    left = [name for name in job.stages if saved is None or not saved.passed(name)]
    plan = make_plan(left, preset, prior, refiner, device, saved.notes.get("rung", 0) if saved else 0)
    ladder = Ladder(preset, prior, refiner, plan.rung, plan.graphs)
    if left:
        first = theirs(left[0])
        # The text encoder before the networks, and gone when they come: both at once are a third more.
        first.prepare(job.prompt, job.negative, kind_of(left[0]), getattr(preset, left[0]).size)
        first.load()  # damaged weights are found here
    told = Told()
    constant = {"job": job.id, "threads": threads, "kernels": select(device).names, "versions": versions()}
    if saved is None:
        write_job(job, settings, device, threads, prior, refiner, plan)
    else:
        told.restore(saved)
    yield _ready(device, threads)
    for note in (about_device, *select(device).notes(device), plan.note()):
        if note:
            yield Warning(note)
    for name in ("kernels", "versions"):
        if saved is not None and saved.notes[name] != constant[name]:
            yield Warning(f"The {name} have changed since the checkpoint: the result may differ in detail.")

    watch = Watch(job.checkpoint_seconds, job.snapshot_seconds)
    keeper = Keeper(folder)
    moment: Moment | None = None

    def save(of: Moment) -> None:
        assert of.work is not None
        notes = constant | {"seconds": told.seconds, "rung": ladder.rung}
        with watch.checkpoint.doing():
            keeper.save(
                capture(of.scene, of.work, of.done, of.attempt, of.what == "ended", told.tensors(), notes)
            )

    def delivery(of: Moment) -> Delivery:
        ladder.release()  # it needs no networks
        smaller = max(64, preset.delivery.texture_size // 2)
        todo = f"Lower delivery.texture_size: --set delivery.texture_size={smaller}"
        with says_what_to_change("The delivery", todo):
            return (yield from work.deliver(of, prior, preset, told, asked))

    try:
        for moment in work.moments(preset, prior, refiner, device, saved, ladder):
            if moment.what == "began":
                watch.start(moment.total, moment.done)
                if moment.done == 0:
                    told.curves[moment.stage] = Curves()
                yield Started(moment.stage, moment.total)
            elif moment.what in ("again", "eased", "note"):
                yield Warning(moment.note)
            elif moment.what == "fit":
                if moment.done == 0:
                    watch.start(moment.total, 0)
                    yield Started("fit", moment.total)
                elif watch.due_report(moment.done):
                    yield watch.plain_progress("fit", moment.done)
            elif moment.step is not None:
                told.curves[moment.stage].add(moment.step)
                if watch.due_report(moment.done):
                    yield watch.progress(moment.stage, moment.step, getattr(preset, moment.stage).levels)
                for note in ladder.take_notes():
                    add_note(folder, note)
                    yield Warning(note)
                yield from _show(moment, watch, job, work)
                if watch.due_checkpoint() and not (keeper.busy and job.checkpoint_seconds):
                    save(moment)
            elif moment.what == "ended":
                told.seconds[moment.stage] = round(told.seconds.get(moment.stage, 0.0) + watch.elapsed(), 2)
                told.sheets[moment.stage] = _sheet(moment, device)
                save(moment)
            for path in keeper.news():
                yield Checkpoint(str(path))

            if asked() == "pause" and moment.work is not None:
                save(moment)
            word = yield from _answer(asked, watch)
            if word == "cancel":
                if moment.work is not None:
                    save(moment)
                keeper.wait()
                yield Cancelled(JobFolder(folder).recoverable_files())
                return
            if word == "finish":
                break
            if moment.what == "ended":  # its D_phi may go, and the network under it
                moment = dataclasses.replace(moment, work=None)
    except (GeneratorExit, KeyboardInterrupt) as stop:
        if moment is not None:
            if isinstance(stop, GeneratorExit) and moment.work is not None:  # it stands between iterations
                save(moment)
                keeper.wait()
            with suppress(SceneError):  # nothing to deliver yet; the events say how far it came
                _drain(delivery(moment))
        raise
    finally:
        keeper.settle()  # a job that has failed writes nothing more: the next one may begin at once
    assert moment is not None, "a job has stages"
    keeper.wait()
    for path in keeper.news():
        yield Checkpoint(str(path))
    moment = dataclasses.replace(moment, work=None)
    yield Started("deliver", STEPS)
    steps = delivery(moment)
    try:
        while True:
            done = next(steps)
            yield Progress("deliver", done, STEPS, done, STEPS)
            if (yield from _answer(asked, watch)) == "cancel":
                yield Cancelled(JobFolder(folder).recoverable_files())
                return
    except GeneratorExit:  # so close to its end it goes on
        _drain(steps)
        raise
    except StopIteration as end:
        delivered: Delivered = end.value
    took = time.monotonic() - began
    figures = delivered.figures | {f"seconds_{name}": s for name, s in told.seconds.items()}
    figures["seconds"] = round(took, 2)
    figures["memory_gb"] = round(peak_gb(moment.scene.field.table.device), 2)
    figures["share_checkpoints"] = (watch.checkpoint.spent + keeper.seconds) / took
    figures["share_pictures"] = (watch.preview.spent + watch.snapshot.spent) / took
    yield Finished(delivered.paths, figures)


def _answer(asked: Asked, watch: Watch) -> Events[Event, None, str | None]:
    """Stands still as long as that is asked for; what is asked then."""
    word = asked()
    if word == "pause":
        yield Paused()
        began = time.monotonic()
        while (word := asked()) == "pause":
            time.sleep(0.05)
        watch.skip(time.monotonic() - began)
    return word


def _show(moment: Moment, watch: Watch, job: Job, work: Work) -> Events[Event, None, None]:
    """The preview and the snapshot that are due."""
    device = moment.scene.field.table.device
    if watch.preview.due():
        with watch.preview.doing():
            camera = turntable_cameras(1, 256, device, first=watch.turn)
            path = JobFolder(job.folder).preview
            background = torch.full((3,), BACKGROUND, device=device)
            image = render_scene(with_current_surface(moment.scene, moment.stage), camera, background)[0]
            write_preview(path, image.cpu())
            watch.turn += 37.0
        yield Preview(str(path))
    if job.snapshot_faces and watch.snapshot.due():
        with suppress(SceneError):  # nothing to see yet
            with watch.snapshot.doing():
                path = work.snapshot(moment)
            yield Snapshot(str(path))


def _sheet(moment: Moment, device: torch.device) -> Tensor:
    """[8,H,W,3]: the stage's result from all sides, on the CPU; geometry's in grey."""
    cameras = turntable_cameras(8, 192, device)
    background = torch.full((3,), BACKGROUND, device=device)
    if moment.stage == "geometry" and moment.scene.mesh is not None:
        return render_clay(moment.scene.mesh, cameras, background).cpu()
    return render_scene(moment.scene, cameras, background).cpu()


def _drain(delivery: Delivery) -> None:
    for _ in delivery:
        pass


def ready() -> Ready:
    """What would do the work, with nothing else said."""
    device, about_device = choose_device("auto")
    found = _ready(device, torch.get_num_threads())
    if about_device:
        found = dataclasses.replace(found, kernels_why={"device": about_device, **found.kernels_why})
    return found


def _ready(device: torch.device, threads: int) -> Ready:
    kernels = select(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return Ready(versions(), (name,), kernels.names, threads, memory_gb(device), kernels.why)


def memory_gb(device: torch.device) -> float:
    """Of the device: a card's own, or the machine's."""
    if device.type == "cuda":
        return round(torch.cuda.get_device_properties(device).total_memory / 1e9, 1)
    return round(psutil.virtual_memory().total / 1e9, 1)
