"""One process to a job: FOLDER/lock, held by the system and signed by its holder.

The system's lock on the file goes with its process, however that ends, so a stale one is taken over without
a guess. What is written in it (process id and when that process started, since ids are used again) is for
everybody else: who only wants to know whether a job is at work never touches the lock.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from backend.errors import InputError
from backend.files import disk_errors

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_FAR = 1 << 20  # the byte that Windows locks: one that nobody reads


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock for a block. InputError where another process is at work on this job; DiskError."""
    path = folder / "lock"
    while True:
        with disk_errors(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _take(handle):
            os.close(handle)
            who = holder(folder)
            raise InputError(
                f"Another process{f' (number {who})' if who else ''} is at work on {folder}.",
                "Wait for it, or stop it first.",
            )
        if _is_still(path, handle):
            break
        os.close(handle)  # its last holder removed it between our two calls
    try:
        with disk_errors(path):
            started = psutil.Process().create_time()
            os.ftruncate(handle, 0)
            os.write(handle, json.dumps({"pid": os.getpid(), "started": started}).encode())
        yield
    finally:
        if sys.platform == "win32":  # it removes no open file
            os.close(handle)
            with suppress(OSError):
                path.unlink()
        else:
            with suppress(OSError):
                path.unlink()
            os.close(handle)


def holder(folder: Path) -> int | None:
    """The process that is at work on this job, if there is one."""
    try:
        signed = json.loads((folder / "lock").read_text("utf-8"))
        process = psutil.Process(int(signed["pid"]))
        alive = abs(process.create_time() - float(signed["started"])) < 2 and process.is_running()
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None
    return process.pid if alive and process.status() != psutil.STATUS_ZOMBIE else None


def _take(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            os.lseek(handle, _FAR, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            os.lseek(handle, 0, os.SEEK_SET)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_still(path: Path, handle: int) -> bool:
    """Whether the open file is the one that has this name now."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
