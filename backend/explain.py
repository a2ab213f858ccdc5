"""Whatever stopped a job, as the last event of it."""

from __future__ import annotations

import traceback
from pathlib import Path

from backend.errors import DiskError, DreamFlowError, OutOfMemory
from backend.files import disk_errors, is_full
from dreamflow_blender.contract.protocol import Failed

NO_TEMPORARY = "No usable temporary directory"  # Python's tempfile, when it could write in none
# how torch's allocators, the loader of its libraries and the system say it
NO_MEMORY = (
    "out of memory",
    "allocate memory",
    "failed to map segment",
    "not enough memory",
    "can't start new thread",  # it needs a stack
)


def explain(error: Exception, folder: Path) -> Failed:
    """What to tell the user; a bug of ours leaves its traceback in log.txt."""
    if isinstance(error, DreamFlowError):
        return Failed(error.kind, error.message, error.todo)
    if is_full(error) or NO_TEMPORARY in str(error):  # in the job's folder it would be a DiskError
        todo = "Free some space on it, or set TMPDIR (TEMP on Windows) to a folder on another disk."
        return Failed(DiskError.kind, "The disk for temporary files is full.", todo, detail=str(error)[:2000])
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY):
        todo = "Close other programs, choose a smaller preset, or use a machine with more memory."
        return Failed(
            OutOfMemory.kind, "There is not enough memory for this job.", todo, detail=str(error)[:2000]
        )
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, ModuleNotFoundError):
        return Failed(
            "internal", f"The Python package {error.name} is missing.", "Run: python build.py setup"
        )
    log = folder / "log.txt"
    try:
        with disk_errors(log), log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(trace)  # after what libraries said
        todo = f"This is a bug in DreamFlow. Please report it with {log}."
    except DreamFlowError:
        todo = "This is a bug in DreamFlow. Please report it."
    return Failed("internal", f"{type(error).__name__}: {error}"[:500], todo, detail=trace[-4000:])
