"""One job from its folder to its last event, the same for the command line and for the worker."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from backend.errors import DiskError, DreamFlowError
from backend.jobs.failures import failure_event
from backend.jobs.folder import EventLog, check_free, claim_folder, clear_folder, locked, read_job, release
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import (
    Cancelled,
    Event,
    Failed,
    Finished,
    Generate,
    Job,
    Refine,
    Resume,
)

Begin = Generate | Refine | Resume  # the requests that begin a job
End = Finished | Cancelled | Failed
Control = Callable[[], str | None]  # what is asked for now: "pause", "finish", "cancel", or None
Events = Generator[Event, None, None]


def folder_of(request: Begin) -> Path:
    return Path(request.folder if isinstance(request, Resume) else request.job.folder)


def as_request(job: Job) -> Begin:
    return Refine(job) if job.kind == "refine" else Generate(job)


def begin_again(job: Job) -> Begin:
    """The job from its start: another one, of the same words, on the object that it has kept."""
    folder = JobFolder(job.folder)
    kept = next(
        (path for path in (folder.object_glb, folder.object_obj, folder.object_npz) if path.is_file()), None
    )
    mesh = str(kept) if kept and job.kind == "refine" else job.mesh
    return as_request(replace(job, id=uuid.uuid4().hex[:12], mesh=mesh))


def begin(request: Begin, control: Control) -> Events:
    """The job's events. Torch and all else is imported here: some seconds."""
    from backend.jobs import generate, refine, resume

    match request:
        case Resume():
            return resume.resume(Path(request.folder), control, request.until)
        case Refine():
            return refine.refine(request.job, control)
        case Generate():
            return generate.generate(request.job, control, request.until)


def drive(
    request: Begin,
    control: Control,
    emit: Callable[[Event], None],
    overwrite: bool = False,
    run: Callable[[Begin, Control], Events] = begin,
) -> End:
    """Lock and run a job, and return its last event. Whatever stops it becomes that event; nothing is raised.

    control    looked at between iterations
    emit       is given every event but the last, once it is in events.jsonl. A KeyboardInterrupt that comes from it
               stops the job, which delivers what there is
    overwrite  an older job in the folder is replaced, when this one has begun

    A job that cannot begin leaves nothing behind, but log.txt where that is a bug of ours.
    """
    folder = folder_of(request)
    made: list[Path] = []
    log: EventLog | None = None
    end: End | None = None
    ours = False  # the folder
    try:
        made = _claim(request, overwrite)
        with locked(folder):
            if not isinstance(request, Resume):  # another may have begun and ended since it was claimed
                check_free(folder, overwrite, request.job.mesh)
            ours = True
            events = run(request, control)
            try:
                for event in events:  # to the very end: closed before it, they would deliver what there is
                    if log is None:
                        log = _begin_log(request, overwrite)
                    _record(log, event, events)
                    if isinstance(event, End):
                        end = event
                    else:
                        emit(event)
            except KeyboardInterrupt:
                with suppress(KeyboardInterrupt):  # pressed again: at once
                    events.close()
                end = end or Cancelled(JobFolder(folder).result_files() if log else {})
                if log is not None and isinstance(end, Cancelled):
                    log.write(end)
    except KeyboardInterrupt:
        end = Cancelled({})
    except Exception as error:  # noqa: BLE001  the outermost edge: nothing may end without a word
        end = failure_event(error, folder)
        if log is not None:
            with suppress(DreamFlowError):  # a full disk, say: perhaps the very failure that is reported
                log.write(end)
    finally:
        if log is not None:
            log.close()
    assert end is not None, "a job ends with an event"
    if log is None and made and not (isinstance(end, Failed) and end.kind == DreamFlowError.kind):
        with suppress(OSError):
            if ours:
                JobFolder(folder).log.unlink()
        release(made)
    return end


def _claim(request: Begin, overwrite: bool) -> list[Path]:
    """The folders that were made for it. Raises InputError and DiskError."""
    if isinstance(request, Resume):
        read_job(Path(request.folder))  # InputError where there is none
        return []
    return claim_folder(Path(request.job.folder), overwrite, request.job.mesh)


def _begin_log(request: Begin, overwrite: bool) -> EventLog:
    folder = folder_of(request)
    if overwrite and not isinstance(request, Resume):
        clear_folder(folder)
    return EventLog(folder)


def _record(log: EventLog, event: Event, events: Events) -> None:
    """Raises DiskError, in the job too: to close it would be to have it deliver to a full disk."""
    try:
        log.write(event)
    except DiskError as error:
        events.throw(error)
