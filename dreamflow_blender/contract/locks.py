"""Locks that the system frees when their holder dies. Standard library only."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

BYTE = 1 << 20  # of a lock's file, on Windows: one that nobody reads; as in backend/jobs/lock.py


def is_held(path: Path) -> bool:
    """Whether a process holds this file's lock, as the backend does with a job's while it is at work."""
    try:
        with path.open("r+b") as file:
            return not take(file.fileno())  # closing it lets go again
    except OSError:
        return False


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait up to ten seconds for another Blender's change to be over."""
    with path.open("ab") as file:
        until = time.monotonic() + 10.0
        while not take(file.fileno()) and time.monotonic() < until:
            time.sleep(0.01)  # each change takes milliseconds; a lock that is never free is not honoured
        yield


def hold(path: Path) -> IO[bytes] | None:
    """Make and lock this file until the answer is closed; None where that cannot be done, or somebody else has."""
    try:
        file = path.open("ab")
    except OSError:
        return None
    if take(file.fileno()):
        return file
    file.close()
    return None


def take(handle: int) -> bool:
    """Lock an open file; False where somebody else has. Closing the file, or dying, lets go."""
    try:
        if sys.platform == "win32":
            os.lseek(handle, BYTE, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            os.lseek(handle, 0, os.SEEK_SET)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
