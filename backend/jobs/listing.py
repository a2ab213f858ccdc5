"""The jobs under a folder: what became of them, what they take of the disk, and their removal."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backend.errors import DreamFlowError
from backend.files import disk_errors
from backend.jobs.folder import locked, read_job
from dreamflow_blender.contract.files import is_file, read_json
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.locks import is_held
from dreamflow_blender.contract.protocol import Cancelled, Failed, Finished

JOB = JobFolder("").job.name
CANDIDATES = "candidates.json"  # beside the folders of a choice: which they are
DEPTH = 3  # folders below the root that are looked into
ENDS: dict[type, str] = {Finished: "finished", Cancelled: "cancelled", Failed: "failed"}


@dataclass(frozen=True)
class Listed:
    folder: str
    # "running", "finished", "unreadable", or one that can be resumed: "candidate", "cancelled", "failed", "interrupted"
    state: str
    prompt: str  # of an unreadable one, why
    progress: str  # "texture 120/200", "" if there was none
    size: int  # bytes


def list_jobs(root: Path) -> Iterator[Listed]:
    """The jobs under `root`, by folder."""
    return map(look, find_jobs(root))


def find_jobs(root: Path, depth: int = DEPTH) -> list[Path]:
    """Folders with a job.json, whatever that is, not looking into these, nor through links."""
    try:
        with os.scandir(root) as entries:
            there = list(entries)
    except OSError:  # not ours to look into, or gone
        return []
    if any(entry.name == JOB for entry in there):
        return [root]
    below = sorted(entry.name for entry in there if _is_folder(entry))
    return [job for name in below for job in find_jobs(root / name, depth - 1)] if depth else []


def clean_jobs(root: Path) -> int:
    """Remove the checkpoints of finished jobs, and of candidates beside which one was chosen and finished.

    The bytes that this freed. Raises DiskError.
    """
    freed = 0
    jobs = {folder: JobFolder(folder) for folder in find_jobs(root)}
    finished = {folder for folder, files in jobs.items() if isinstance(files.last_event(), Finished)}
    unchosen = {
        folder for root in {folder.parent for folder in jobs} for folder in _not_chosen(root, finished)
    }
    for folder, files in jobs.items():
        if (
            files.checkpoints.is_dir()
            and not files.checkpoints.is_symlink()
            and (folder in finished or folder in unchosen)
            and not is_held(files.lock)
        ):
            freed += size_of(files.checkpoints)
            with disk_errors(files.checkpoints):
                shutil.rmtree(files.checkpoints)
    return freed


def _not_chosen(root: Path, finished: set[Path]) -> set[Path]:
    """The candidates that root's candidates.json names, where one of them was finished; but for those."""
    named = (read_json(root / CANDIDATES) or {}).get("candidates")
    rows = named if isinstance(named, list) else []
    group = {root / str(row.get("folder", "")) for row in rows if isinstance(row, dict)}
    return group - finished if group & finished else set()


def remove_job(folder: Path) -> tuple[int, list[str]]:
    """Remove a job's own files, and its folder where that is empty then: the bytes freed, and the names that stayed.

    Raises InputError where there is no job, or where it is running, and DiskError.
    """
    read_job(folder)
    files = JobFolder(folder)
    with locked(folder):
        before = size_of(folder)
        with disk_errors(folder):
            for path in (*files.old_files(), *folder.glob(".*.part*")):
                if path.is_file():
                    path.unlink()
            if files.checkpoints.is_dir() and not files.checkpoints.is_symlink():
                shutil.rmtree(files.checkpoints)
            files.job.unlink()  # last: what is left of a removal that was stopped can be removed
        freed = before - size_of(folder)
    left = sorted(path.name for path in folder.iterdir())
    if not left:
        with disk_errors(folder):
            folder.rmdir()
    return freed, left


def size_of(folder: Path | str) -> int:
    """Bytes of all files below, not looking through links."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_folder(entry):
                    total += size_of(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    except OSError:  # a running job replaces its files
        pass
    return total


def look(folder: Path) -> Listed:
    """One job; of a folder that holds something odd, why it is unreadable."""
    try:
        job = read_job(folder)
    except DreamFlowError as error:
        if not os.path.lexists(JobFolder(folder).job):
            raise
        return Listed(str(folder), "unreadable", error.message, "", size_of(folder))
    files = JobFolder(folder)
    if is_held(files.lock):
        state = "running"
    else:
        state = ENDS.get(type(files.last_event()), "interrupted")
        if state == "cancelled" and is_file(files.candidate):
            state = "candidate"
    step = files.last_progress()
    progress = f"{step.stage} {step.iteration}/{step.total}" if step else ""
    return Listed(str(folder), state, job.prompt, progress, size_of(folder))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False
