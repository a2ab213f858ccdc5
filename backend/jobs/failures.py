"""Whatever stopped a job, as the last event of it."""

from __future__ import annotations

import traceback
from pathlib import Path

from backend.errors import (
    CardFailed,
    DeviceError,
    DiskError,
    DreamFlowError,
    OutOfMemory,
    card_error,
    is_out_of_memory,
)
from backend.files import disk_errors, is_full
from dreamflow_blender.contract.files import open_plain
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import Failed

# characters of a sentence: a path may take a request's whole line, and an event's has to hold it
LONGEST = 5000
NO_TEMPORARY = "No usable temporary directory"  # Python's tempfile, when it could write in none


def failure_event(error: Exception, folder: Path) -> Failed:
    """What to tell the user; a bug of ours leaves its traceback in log.txt."""
    # a DeviceError says the same, and better
    failed = "" if isinstance(error, DeviceError) else card_error(error)
    if isinstance(error, DreamFlowError) and not failed:
        return Failed(error.kind, error.message[:LONGEST], error.todo[:LONGEST])
    # in the job's folder it would be a DiskError
    if not failed and (is_full(error) or NO_TEMPORARY in str(error)):
        todo = "Free some space on it, or set TMPDIR (TEMP on Windows) to a folder on another disk."
        return Failed(DiskError.kind, "The disk for temporary files is full.", todo, detail=str(error)[:2000])
    if not failed and is_out_of_memory(error):
        todo = "Close other programs, choose a smaller preset, or use a machine with more memory."
        return Failed(
            OutOfMemory.kind, "There is not enough memory for this job.", todo, detail=str(error)[:2000]
        )
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, ModuleNotFoundError):
        return Failed(
            "internal", f"The Python package {error.name} is missing.", "Run: python build.py setup"
        )
    log = JobFolder(folder).log
    try:
        with disk_errors(log), open_plain(log, "a") as file:
            file.write(trace.encode(errors="backslashreplace"))  # after what libraries said
        report = f"Please report it with {log}."
    except DreamFlowError:
        report = "Please report it."
    if failed:
        todo = (
            "Start the job again: it goes on from its newest checkpoint. If the card fails again, restart the"
            f" computer and update the card's driver; if that does not help: {report}"
        )
        message = f"The graphics card failed in the middle of its work: {failed}"[:500]
        return Failed(CardFailed.kind, message, todo, detail=trace[-4000:])
    todo = f"This is a bug in DreamFlow. {report}"
    return Failed("internal", f"{type(error).__name__}: {error}"[:500], todo, detail=trace[-4000:])
