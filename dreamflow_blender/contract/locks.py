"""Locks on files, which the system frees when the process that holds them dies. Standard library only."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .files import open_plain

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

BYTE = 1 << 20  # the byte of the file that Windows locks: one that is never read or written


def hold(path: Path, seconds: float = 0.0) -> IO[bytes] | None:
    """Make this file and lock it, until the answer is closed or given to `remove`.

    None where another process has held it for all of these seconds. Raises OSError.
    """
    until = time.monotonic() + seconds
    while True:
        file = open_plain(path, "a")
        if not take(file.fileno()):
            file.close()
            if time.monotonic() >= until:
                return None
            time.sleep(0.01)
        elif not _has_name(path, file.fileno()):
            file.close()  # its last holder removed it between our two calls
        else:
            return file


def remove(file: IO[bytes]) -> None:
    """Let a lock go that `hold` gave, and remove its file."""
    if sys.platform == "win32":  # it removes no open file
        file.close()
    with suppress(OSError):
        os.unlink(file.name)  # noqa: PTH108  not another process's: on other systems it is still held
    file.close()


def is_held(path: Path) -> bool:
    """Whether a process holds this file's lock."""
    try:
        with open_plain(path, "r+") as file:
            return not take(file.fileno())  # closing it lets go again
    except OSError:
        return False


@contextmanager
def locked(path: Path, seconds: float = 10.0) -> Iterator[bool]:
    """Hold a lock for a block, waiting for it; whether it was got. A change takes its holder milliseconds."""
    file = hold(path, seconds)
    try:
        yield file is not None
    finally:
        if file is not None:
            file.close()


def take(handle: int) -> bool:
    """Lock an open file; False where another process has. Closing the file, or dying, lets go."""
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


def _has_name(path: Path, handle: int) -> bool:
    """Whether the open file is the one that has this name now."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
