"""Files that are read without surprises, and written whole or not at all. Standard library only."""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

MOST = 1 << 28  # bytes of a file that is read whole, where nothing else is said
_OPENING = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


def open_handle(path: str | Path, flags: int) -> int:
    """os.open of a file that must be a plain one: no link, which may lead anywhere, no pipe, no device, no folder.

    All that lies in a job's folder is opened by this, since a stranger may have sent the folder. Raises OSError.
    """
    if is_link(path):
        raise OSError(errno.ELOOP, "it is a link, which is not followed", str(path))
    handle = os.open(path, flags | _OPENING | getattr(os, "O_BINARY", 0), 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    return handle


def is_link(path: str | Path) -> bool:
    """Whether it is a symbolic link, or a junction of Windows."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    junction = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", -1)
    return stat.S_ISLNK(status.st_mode) or getattr(status, "st_reparse_tag", 0) == junction


def open_plain(path: Path, mode: str, buffering: int = -1) -> IO[bytes]:
    """open(path, mode) in binary, as open_handle. Raises OSError."""
    return open(path, f"{mode}b", buffering, opener=open_handle)


def read_plain(path: Path, most: int = MOST) -> bytes:
    """The content of a plain file. Raises OSError, where it is larger than `most` bytes too."""
    with open_plain(path, "r") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
        return file.read(size)


def read_linked(path: Path, most: int = MOST) -> bytes:
    """As read_plain, of a file that links may lead to, as they do in the hub's cache. Raises OSError, ValueError."""
    return read_plain(Path(os.path.realpath(path)), most)


def is_file(path: Path) -> bool:
    """Path.is_file, which raises where a folder may not be looked into and where a name is too long: False there."""
    return os.path.isfile(path)  # noqa: PTH113


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in this file; None where there is none that can be read."""
    try:
        value = json.loads(read_plain(path))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def write_json(path: Path, value: dict[str, Any]) -> None:
    """As write_atomic."""
    write_atomic(path, json.dumps(value, indent=1))


def write_atomic(path: Path, content: bytes | str, sync: bool = True) -> None:
    """The whole file or nothing; text as UTF-8 with line feeds on every system. Raises OSError.

    sync  wait until the disk has it, tens of milliseconds; without, a power cut may cost the file, but no crash does
    """
    with replacing(path, sync) as temporary:
        temporary.write_bytes(
            content.encode("utf-8", errors="backslashreplace") if isinstance(content, str) else content
        )


@contextmanager
def replacing(path: Path, sync: bool = True) -> Iterator[Path]:
    """A temporary path in the same folder, with the suffix of `path`, that takes its place if the block succeeds.

    If the block fails, the temporary file is removed and `path` stays as it was. Raises OSError.
    """
    temporary = path.with_name(f".{path.stem[:60]}-{secrets.token_hex(4)}.part{path.suffix}")
    try:
        yield temporary
        if sync:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):  # gone by the rename, or its folder is: then that error is raised already
            temporary.unlink()
