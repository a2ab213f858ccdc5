"""Files that are either whole or not there: a temporary name, a flush, a rename."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from backend.errors import DiskError

_FULL = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns an OSError inside the block into a DiskError that says what to do about `path`."""
    try:
        yield
    except OSError as error:
        raise explain(error, path) from error


def is_full(error: Exception) -> bool:
    """Whether this says that a disk, or the share of one, is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def explain(error: OSError, path: Path) -> DiskError:
    """What to tell the user about an operation on `path` that failed."""
    if is_full(error):
        return DiskError(
            f"The disk is full: {path} could not be written.",
            f"Free some space on the disk that holds {path.parent} (older job folders are safe to delete), "
            "or choose another folder with --out.",
        )
    if error.errno in _FORBIDDEN:
        return DiskError(
            f"There is no permission to write {path}.", "Choose a folder of your own with --out."
        )
    reason = error.strerror or type(error).__name__
    return DiskError(f"{path} could not be written or read: {reason}.", "Choose another folder with --out.")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, with its suffix, that takes its place if the block succeeds.

    If the block fails, the temporary file is removed and `path` stays as it was. Raises DiskError.
    """
    temporary = path.with_name(f".{path.stem[:60]}-{secrets.token_hex(4)}.part{path.suffix}")
    try:
        with disk_errors(path):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):  # gone by the rename, or its folder is: then that error is on its way already
            temporary.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """The whole file or nothing; raises DiskError."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """The whole file or nothing, UTF-8 with line feeds on every system; raises DiskError."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))
