"""`resume`: a job that was stopped, from its newest checkpoint that can be read."""

from __future__ import annotations

from collections.abc import Generator as Events
from pathlib import Path

from backend.errors import DiskError, InputError
from backend.jobs.folder import locked, read_job
from backend.jobs.generate import Generating
from backend.jobs.keeper import listed
from backend.jobs.record import read_settings
from backend.jobs.run import Asked, Work, nobody, run
from backend.stages.checkpoint import Saved, load
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import (
    Event,
    Finished,
    Job,
    Warning,
)


def resume(folder: Path, asked: Asked = nobody) -> Events[Event, None, None]:
    """Go on with the job in this folder, from its newest checkpoint that can be read, or from its start.

    Raises InputError where there is nothing to go on with.
    """
    job = read_job(folder)
    if isinstance(JobFolder(folder).last_event(), Finished):
        raise InputError(f"The job in {folder} is finished.", "Generate another one.")
    checkpoints = JobFolder(folder).checkpoints
    if checkpoints.is_symlink():  # what lies elsewhere is not this job's to clean up
        raise InputError(f"{checkpoints} is a link.", "Put the checkpoints themselves in its place.")
    with locked(folder):
        for rest in folder.glob(".*.part*"):  # files that a killed process was writing
            rest.unlink(missing_ok=True)
        notes: list[str] = []
        saved = _newest(job, notes)
        work: Work = Generating(job)
        if job.kind == "refine":
            from backend.jobs.refine import Refining

            work = Refining.again(job)
        events = run(job, work, asked, saved, read_settings(folder))
        yield next(events)  # ready
        for note in notes:
            yield Warning(note)
        yield from events


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
