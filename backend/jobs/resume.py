"""`resume`: a job that was stopped, from its newest checkpoint that can be read."""

from __future__ import annotations

from collections.abc import Generator as Events
from pathlib import Path

from backend.errors import InputError
from backend.files import disk_errors
from backend.jobs.folder import read_job
from backend.jobs.generate import Generating
from backend.jobs.record import check_unchanged, read_record
from backend.jobs.recorder import Control, Start, Work, no_control
from backend.jobs.run import run
from backend.stages.checkpoint_writer import newest
from dreamflow_blender.contract.files import is_link
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import Event, Finished


def resume(folder: Path, control: Control = no_control, until: float = 0.0) -> Events[Event, None, None]:
    """Go on with the job in this folder, from its newest checkpoint that can be read, or from its start.

    until  as generate's
    Raises InputError where there is nothing to go on with.
    """
    job = read_job(folder)
    if isinstance(JobFolder(folder).last_event(), Finished):
        raise InputError(f"The job in {folder} is finished.", "Generate another one.")
    checkpoints = JobFolder(folder).checkpoints
    if is_link(checkpoints):  # what it points to is not this job's to clean up
        raise InputError(f"{checkpoints} is a link.", "Put the checkpoints themselves in its place.")

    def start() -> Start:
        for rest in folder.glob(".*.part*"):  # files that a killed process was writing
            if is_link(rest) or rest.is_file():
                with disk_errors(rest):
                    rest.unlink(missing_ok=True)
        saved, notes = newest(folder, job.id)
        work: Work = Generating(job)
        if job.kind == "refine":
            from backend.jobs.refine import Refining

            work = Refining.again(job)
        record = read_record(folder)
        check_unchanged(job, record, saved)
        return Start(work, saved, tuple(notes), record, until)

    return run(folder, start, control)
