"""A job from its beginning to its end: prepared, its stages run, and delivered."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from collections.abc import Generator as Events
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from backend.device import choose_device, choose_threads, prepare_device
from backend.errors import SceneError, is_out_of_memory
from backend.jobs import priors
from backend.jobs.folder import versions
from backend.jobs.record import (
    begun_as,
    check_models,
    check_settings,
    read_record,
    recorded_threads,
    resolve_job,
    settings_of,
    write_job,
)
from backend.jobs.recorder import Control, Delivery, Outcome, Recorder, Start, Work
from backend.kernels import select
from backend.objects import grammar
from backend.results.deliver import STEPS, Delivered
from backend.stages.checkpoint import RunState
from backend.stages.damage import Damaged
from backend.stages.happenings import Reached, StageBegan, StageEnded, Stepped
from backend.stages.memory import as_out_of_memory, collect, peak_gb
from backend.stages.setup import Setup, set_up, stages_left
from backend.weights.resident import RESIDENT
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import (
    Cancelled,
    Event,
    Finished,
    Job,
    Paused,
    Progress,
    Ready,
    Started,
    Warning,
)

THREADS = torch.get_num_threads()  # torch's own choice, whatever the jobs of this process ask for


def run(folder: Path, start: Callable[[], Start], control: Control) -> Events[Event, None, None]:
    """The events of the job in this folder, which the caller holds locked."""
    began, RESIDENT.read = time.monotonic(), 0
    started = start()
    work, saved = started.work, started.saved
    setup = prepare(work, saved, started.record)
    recorder = Recorder(setup, work, facts_of(setup) | {"begun": begun_as(read_record(folder))})
    yield _ready(setup.device, setup.threads)
    for note in (*started.notes, *notes_about(setup, saved)):
        yield Warning(note)
    if saved is not None:
        recorder.log.restore(saved)
    cancelled = yield from iterate(setup, work, recorder, control, saved, started.until)
    if not cancelled:
        cancelled = yield from deliver(setup, work, recorder, control, began)
    if cancelled:
        yield Cancelled(JobFolder(folder).recoverable_files())


def prepare(work: Work, saved: RunState | None, record: dict[str, Any] | None) -> Setup:
    """The job's device, priors, settings and plan; job.json where it is new, and the first stage's networks.

    record: job.json of a job that is resumed.
    Raises InputError for a mistake in the job, before anything is loaded; ModelError, DeviceError, DiskError.
    """
    job = work.job
    check_settings(job)
    device, _ = choose_device(job.device)
    threads = prepare_device(
        device, saved.notes["threads"] if saved else _threads(job, device, record is not None)
    )
    prior = priors.open_prior(
        job.prior, device, job.phi or None, job.lora, job.control, job.image, job.image_adapter, job.scene
    )
    others = priors.open_others(job, prior, device)
    if record is None:
        settings = resolve_job(job, prior, others)
    else:
        check_models(job, record, prior, others)
        settings = settings_of(record)
    setup = set_up(job, settings.preset, prior, others, device, threads, saved)
    left = stages_left(job, saved)
    if left:
        setup.prior_for(left[0]).load()  # damaged weights are found here
    if record is None:
        write_job(job, settings, device, threads, prior, others, setup.plan, work.kept())
    return setup


def _threads(job: Job, device: torch.device, resumed: bool) -> int:
    """As the job says, as its record says where it is begun again, or what is fastest now."""
    if job.threads:
        return job.threads
    if resumed and (known := recorded_threads(Path(job.folder))):
        return known
    return choose_threads(THREADS) if device.type == "cpu" else THREADS


def facts_of(setup: Setup) -> dict[str, Any]:
    """What a resumed run compares with its own, in every checkpoint's notes."""
    return {
        "job": setup.job.id,
        "threads": setup.threads,
        "kernels": select(setup.device).names,
        "versions": versions(),
    }


def notes_about(setup: Setup, saved: RunState | None) -> list[str]:
    """What the user should know before the run begins."""
    about_device = choose_device(setup.job.device)[1]
    kinds = setup.prior.spec.kinds
    read_as = grammar.note(setup.job.prompt, kinds) if kinds is not None else ""
    notes = [read_as, about_device, *select(setup.device).notes(setup.device), setup.plan.note()]
    if saved is None and setup.threads < THREADS and not setup.job.threads:
        notes.append(
            f"Other programs keep the processor busy: {THREADS} threads are slower than one now, so this job uses one."
            " --threads decides otherwise."
        )
    facts = facts_of(setup)
    for name in ("kernels", "versions") if saved is not None else ():
        if saved is not None and saved.notes[name] != facts[name]:
            notes.append(f"The {name} have changed since the checkpoint: the result may differ in detail.")
    return [note for note in notes if note]


def iterate(
    setup: Setup,
    work: Work,
    recorder: Recorder,
    control: Control,
    saved: RunState | None,
    until: float = 0.0,
) -> Events[Event, None, bool]:
    """The stages, from the checkpoint where there is one; whether they were cancelled, which a candidate is by itself.

    Where memory runs out, more of it is saved and the run resumes from its newest checkpoint. Closed or interrupted,
    it delivers what there is. Raises whatever stops a stage; OutOfMemory where nothing more can be saved.
    """
    happenings = work.happenings(setup, saved)
    place: tuple[str, int] | None = None  # the stage, and its iterations that are done
    try:
        while True:
            note = ""
            try:
                happening = next(happenings, None)
            except Damaged as error:  # it could be read, but does not fit the run
                assert saved is not None, "nothing else is restored"
                recorder.unfit.add(saved.name)
                yield from recorder.warn(f"{error.message} An older one is used.")
                saved = recorder.go_back()
                happenings = work.happenings(setup, saved)
                continue
            except (RuntimeError, MemoryError) as error:
                if place is None or not is_out_of_memory(error):
                    raise
                note = setup.savings.step_down(*place, error, setup.device)
            if note:  # the error, which held on to the iteration's tensors, is gone by now
                recorder.at = None  # it is in the middle of an iteration, which is no place for a checkpoint
                yield from recorder.warn(note)
                saved = recorder.go_back()
                happenings = work.happenings(setup, saved)
                collect()
                continue
            if happening is None:
                break
            yield from recorder.record(happening)
            if isinstance(happening, StageBegan | Stepped | StageEnded):
                place = happening.at.stage.name, happening.at.done
            if until and isinstance(happening, StageBegan | Stepped) and _is_past(happening.at, until):
                recorder.leave_candidate()
                return True
            happening = None
            if control() == "pause":
                recorder.save()
            word = yield from wait_while_paused(control, recorder)
            if word == "cancel":
                recorder.save()
                recorder.writer.wait()
                return True
            # else as soon as there is something to deliver
            if word == "finish" and recorder.outcome is not None:
                break
            recorder.let_stage_go()
    except (GeneratorExit, KeyboardInterrupt) as stop:
        if isinstance(stop, GeneratorExit):  # it is between two iterations
            recorder.save()
            recorder.writer.wait()
        if recorder.outcome is not None:
            with suppress(SceneError):  # nothing to deliver yet; the events say how far it came
                _drain(delivery(setup, work, recorder, control))
        raise
    finally:
        recorder.writer.settle()  # a job that has failed writes nothing more: the next one may begin at once
    recorder.writer.wait()
    yield from recorder.written()
    return False


def _is_past(at: Reached, until: float) -> bool:
    """Whether a candidate ends here."""
    return at.stage.name != "nerf" or at.done >= until * at.stage.schedule.iterations


def deliver(
    setup: Setup, work: Work, recorder: Recorder, control: Control, began: float
) -> Events[Event, None, bool]:
    """The job's results and their event; whether that was cancelled. `began`: by time.monotonic()."""
    yield Started("deliver", STEPS)
    steps = delivery(setup, work, recorder, control)
    try:
        while True:
            done = next(steps)
            yield Progress("deliver", done, STEPS, done, STEPS)
            if (yield from wait_while_paused(control, recorder)) == "cancel":
                return True
    except GeneratorExit:  # so close to its end it goes on
        _drain(steps)
        raise
    except StopIteration as end:
        delivered: Delivered = end.value
    took = time.monotonic() - began
    figures = delivered.figures | {f"seconds_{name}": s for name, s in recorder.log.seconds.items()}
    figures["seconds"] = round(took, 2)
    figures["networks_read"] = RESIDENT.read
    figures["memory_gb"] = round(peak_gb(setup.device), 2)
    clock = recorder.clock
    figures["share_checkpoints"] = (clock.checkpoint.spent + recorder.writer.seconds) / took
    figures["share_pictures"] = (clock.preview.spent + clock.snapshot.spent) / took
    yield Finished(delivered.paths, figures)
    return False


def delivery(setup: Setup, work: Work, recorder: Recorder, control: Control) -> Delivery:
    """The results are written; no networks are needed for that. Raises OutOfMemory with the setting to lower."""
    recorder.at = None
    outcome: Outcome | None = recorder.outcome
    assert outcome is not None, "a job has stages"
    setup.savings.release()
    smaller = max(64, setup.preset.delivery.texture_size // 2)
    with as_out_of_memory(
        "The delivery", f"Lower delivery.texture_size: --set delivery.texture_size={smaller}"
    ):
        return (yield from work.deliver(setup, outcome, recorder.log, control))


def wait_while_paused(control: Control, recorder: Recorder) -> Events[Event, None, str | None]:
    """Waits as long as the user wants a pause; what the user wants then."""
    word = control()
    if word == "pause":
        yield Paused()
        began = time.monotonic()
        while (word := control()) == "pause":
            time.sleep(0.05)
        recorder.clock.skip(time.monotonic() - began)
    return word


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
    return round(float(psutil.virtual_memory().total) / 1e9, 1)
