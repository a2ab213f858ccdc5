"""Locks on files, which the system frees when the process that holds them dies. Standard library only."""

from __future__ import annotations

import os
import struct
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


# struct flock as fcntl takes it, and the place of its kind. Linux's locks of an open file can be asked about; so can
# macOS's flock, which its kernel keeps in one list with fcntl's (XNU, bsd/kern/kern_lockf.c). Windows's can only be
# tried.
LAYOUTS = {"linux": ("hhqqi4x", 0), "darwin": ("qqihh", 3)}


def _flock(kind: int, system: str = sys.platform) -> bytes:
    """struct flock, of the whole file from its start."""
    layout, place = LAYOUTS[system]
    values = [0] * 5
    values[place : place + 2] = kind, os.SEEK_SET  # l_whence is the next one
    return struct.pack(layout, *values)


def hold(path: Path, seconds: float = 0.0) -> IO[bytes] | None:
    """Make this file and lock it, until the answer is closed or given to `remove`.

    None where another process has held it for all of these seconds. Raises OSError.
    """
    until = time.monotonic() + seconds
    while True:
        file = open_plain(path, "a", 0)  # what a full disk does not take is not tried again by close
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
    """Whether a process holds this file's lock. Where the system can say so, the lock is not taken for that."""
    try:
        with open_plain(path, "r+") as file:
            if sys.platform not in LAYOUTS:
                return not take(file.fileno())  # closing it lets go again
            ask = fcntl.F_OFD_GETLK if sys.platform == "linux" else fcntl.F_GETLK
            layout, place = LAYOUTS[sys.platform]
            answer = struct.unpack(layout, fcntl.fcntl(file.fileno(), ask, _flock(fcntl.F_WRLCK)))
            return bool(answer[place] != fcntl.F_UNLCK)
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
        elif sys.platform == "linux":
            fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK))
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
