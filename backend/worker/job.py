"""One job of a worker: its folder, its record, its log.txt, and whatever stops it told as its last event."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path

from backend.errors import DiskError, DreamFlowError
from backend.jobs.failures import explain
from backend.jobs.folder import EventLog, claim_folder, read_job, release
from backend.worker.streams import Output
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import (
    Cancelled,
    Checkpoint,
    Event,
    Failed,
    Finished,
    Generate,
    Preview,
    Refine,
    Resume,
    Snapshot,
)

Begin = Generate | Refine | Resume  # the requests that begin a job
End = Finished | Cancelled | Failed
Asked = Callable[[], str | None]


def folder_of(request: Begin | None) -> Path:
    assert request is not None
    return Path(request.folder if isinstance(request, Resume) else request.job.folder)


def carry_out(request: Begin, asked: Asked, tell: Callable[[Event], None]) -> End:
    """Run the job, telling all of its events but the last, which is returned. Whatever happens, there is one."""
    folder = folder_of(request)
    made: list[Path] = []
    try:
        if isinstance(request, Resume):
            read_job(folder)  # InputError where there is none
        else:
            made = claim_folder(folder, mesh=request.job.mesh)
        with Output(JobFolder(folder).log):
            try:
                end = _run(request, folder, asked, tell)
            except Exception as error:  # noqa: BLE001  the outermost edge: nothing may end without a word
                end = _record(explain(error, folder), folder)
    except DreamFlowError as error:
        end = explain(error, folder)
    internal = isinstance(end, Failed) and end.kind == DreamFlowError.kind
    if made and not internal and not JobFolder(folder).job.exists():  # not begun: as if nobody had asked
        with suppress(OSError):
            JobFolder(folder).log.unlink()
        release(made)
    return end


def _run(request: Begin, folder: Path, asked: Asked, tell: Callable[[Event], None]) -> End:
    events = _events(request, asked)
    log: EventLog | None = None
    end: End | None = None
    try:
        for event in events:  # to the very end: closed before it, they would deliver what there is
            for path in paths_of(event):
                if not Path(path).is_relative_to(folder):
                    raise AssertionError(f"{path} does not lie in the job's folder")
            try:
                log = log or EventLog(folder)
                log.write(event)
            except DiskError as error:
                events.throw(error)  # closing them would try to deliver
            if isinstance(event, End):
                end = event
            else:
                tell(event)
    finally:
        if log is not None:
            log.close()
    assert end is not None, "a job ends with a word"
    return end


def _events(request: Begin, asked: Asked) -> Generator[Event, None, None]:
    from backend.jobs import generate, resume

    if isinstance(request, Resume):
        return resume.resume(folder_of(request), asked)
    if isinstance(request, Refine):
        from backend.jobs.refine import refine

        events: Generator[Event, None, None] = refine(request.job, asked)
        return events
    return generate.generate(request.job, asked)


def _record(end: Failed, folder: Path) -> Failed:
    """In events.jsonl too, where the job has begun."""
    with suppress(DreamFlowError):  # a full disk, say: perhaps the very failure that is reported
        if JobFolder(folder).events.is_file():
            log = EventLog(folder)
            log.write(end)
            log.close()
    return end


def paths_of(event: Event) -> list[str]:
    if isinstance(event, Preview | Snapshot | Checkpoint):
        return [event.path]
    return list(event.paths.values()) if isinstance(event, Finished | Cancelled) else []


def free_memory() -> None:
    """What the last job held; on a card, for others."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
