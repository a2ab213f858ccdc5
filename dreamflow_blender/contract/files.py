"""Files that are read without surprises, and written whole or not at all. Standard library only."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in this file; None where there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
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
