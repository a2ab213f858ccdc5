"""Files that are written whole or not at all, and what to tell the user where that fails."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from backend.errors import DiskError
from dreamflow_blender.contract import files

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
    """contract.files.replacing. Raises DiskError."""
    with disk_errors(path), files.replacing(path) as temporary:
        yield temporary


def write_bytes(path: Path, content: bytes) -> None:
    """The whole file or nothing; raises DiskError."""
    with disk_errors(path):
        files.write_atomic(path, content)


def write_text(path: Path, text: str) -> None:
    """The whole file or nothing, UTF-8 with line feeds on every system; raises DiskError."""
    with disk_errors(path):
        files.write_atomic(path, text)


def write_files(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """By name, into a folder that is made if need be; their paths. Raises DiskError."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_bytes(folder / name, content)
    return [folder / name for name in files]
