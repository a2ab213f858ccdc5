"""A job's checkpoints on the disk: written in a thread, the newest two kept."""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

from backend.errors import DiskError
from backend.files import disk_errors
from backend.stages.checkpoint import RunState, load, write
from dreamflow_blender.contract.jobfolder import JobFolder

KEPT = 2


class CheckpointWriter:
    """Writes checkpoints in a thread, one at a time, and removes all but the newest."""

    def __init__(self, folder: Path) -> None:
        self._folder = JobFolder(folder).checkpoints
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._written: list[Path] = []
        self.seconds = 0.0  # of a processor that writing took from the run
        self._number = max((_number(path) for path in listed(folder)), default=0)

    @property
    def busy(self) -> bool:
        """Whether the last one is still being written."""
        return self._thread is not None and self._thread.is_alive()

    def save(self, saved: RunState) -> None:
        """Begin to write; waits for the one before, and raises its DiskError."""
        self.wait()
        self._number += 1
        path = self._folder / f"{self._number:06d}-{saved.stage}-{saved.iteration}"
        # no daemon: even a process that is ending finishes what it has begun to write
        self._thread = threading.Thread(target=self._write, args=(path, saved), name="checkpoint")
        self._thread.start()

    def settle(self) -> None:
        """Wait until nothing is being written; an error of the thread is left for `wait` to raise."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def wait(self) -> None:
        """Wait until nothing is being written. Raises DiskError."""
        self.settle()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def newly_written(self) -> list[Path]:
        """The checkpoints written since the last call. Raises DiskError."""
        if not self.busy:
            self.wait()
        found = self._written[:]
        del self._written[: len(found)]
        return found

    def _write(self, path: Path, saved: RunState) -> None:
        try:
            write(path, saved)
            self._written.append(path)
            clean(self._folder.parent)
        except Exception as error:  # noqa: BLE001  handed to the run's own thread, which raises it
            self._error = error
        finally:
            self.seconds += time.thread_time()  # the thread is there for this one alone


def clean(folder: Path, kept: int = KEPT) -> None:
    """Remove all of a job's checkpoints but the newest, and what an interrupted write left; raises DiskError."""
    for old in listed(folder)[kept:]:
        with disk_errors(old), suppress(FileNotFoundError):
            old.rename(old.with_name(f".{old.name}.old"))  # a half removed one must not look like a whole one
    for pattern in (".*.old", ".*.part"):
        for rest in JobFolder(folder).checkpoints.glob(pattern):
            shutil.rmtree(rest, ignore_errors=True)


def listed(folder: Path) -> list[Path]:
    """A job's checkpoints, the newest first."""
    try:
        found = [p for p in JobFolder(folder).checkpoints.iterdir() if _number(p)]
    except OSError:
        return []
    return sorted(found, key=_number, reverse=True)


def newest(folder: Path, job_id: str) -> tuple[RunState | None, list[str]]:
    """The newest checkpoint of this very job that can be read, and a note for each damaged one that is skipped."""
    notes: list[str] = []
    for path in listed(folder):
        try:
            saved = load(path)
        except DiskError as error:
            notes.append(f"{error.message} An older one is used.")
            continue
        if saved.notes["job"] == job_id:
            return saved, notes
    return None, notes


def _number(path: Path) -> int:
    """0 for a folder that is no checkpoint."""
    head = path.name.split("-")[0]
    return int(head) if head.isdecimal() and path.name.count("-") == 2 else 0
