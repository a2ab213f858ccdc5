"""The jobs under a folder: what became of them, and what they take of the disk."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from backend.errors import DiskError, InputError
from backend.files import disk_errors
from backend.jobs.folder import read_job
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.locks import is_held
from dreamflow_blender.contract.protocol import Cancelled, Event, Failed, Finished, Progress

DEPTH = 3  # folders below the root that are looked into


@dataclass(frozen=True)
class Listed:
    folder: str
    state: str  # "running", "finished", "cancelled", "failed", or "interrupted": it can be resumed
    prompt: str
    progress: str  # "texture 120/200", "" if there was none
    size: int  # bytes


def list_jobs(root: Path) -> list[Listed]:
    """The jobs under `root`, by folder. Folders that hold no job are passed over."""
    return [listed for folder in find_jobs(root) if (listed := _look(folder)) is not None]


def find_jobs(root: Path, depth: int = DEPTH) -> list[Path]:
    """Folders with a job.json, not looking into these."""
    if JobFolder(root).job.is_file():
        return [root]
    try:
        below = sorted(p for p in root.iterdir() if p.is_dir() and not p.is_symlink())
    except OSError:
        return []
    return [job for folder in below for job in find_jobs(folder, depth - 1)] if depth else []


def clean_jobs(root: Path) -> int:
    """Remove the checkpoints of finished jobs; the bytes that this freed. Raises DiskError."""
    freed = 0
    for folder in find_jobs(root):
        checkpoints = JobFolder(folder).checkpoints
        if (
            checkpoints.is_dir()
            and isinstance(JobFolder(folder).last_event(), Finished)
            and not is_held(JobFolder(folder).lock)
        ):
            freed += size_of(checkpoints)
            with disk_errors(checkpoints):
                shutil.rmtree(checkpoints)
    return freed


def size_of(folder: Path) -> int:
    """Bytes of all files below."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size if not path.is_dir() else 0
        except OSError:  # a running job replaces its files
            continue
    return total


def _look(folder: Path) -> Listed | None:
    try:
        job = read_job(folder)
    except (InputError, DiskError):
        return None
    events = JobFolder(folder).recent_events()
    if is_held(JobFolder(folder).lock):
        state = "running"
    else:
        ends: dict[type[Event], str] = {Finished: "finished", Cancelled: "cancelled", Failed: "failed"}
        state = ends.get(type(events[-1]), "interrupted") if events else "interrupted"
    steps = [event for event in events if isinstance(event, Progress)]
    progress = f"{steps[-1].stage} {steps[-1].iteration}/{steps[-1].total}" if steps else ""
    return Listed(str(folder), state, job.prompt, progress, size_of(folder))
