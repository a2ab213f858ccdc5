"""JSON and text files, read without surprises and written whole. Standard library only."""

from __future__ import annotations

import json
import os
import secrets
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
    """The whole file or nothing. Raises OSError."""
    write_text(path, json.dumps(value, indent=1))


def write_text(path: Path, text: str, sync: bool = True) -> None:
    """The whole file or nothing. Raises OSError.

    sync  wait until the disk has it, tens of milliseconds; without, a power cut may cost the file, but no crash does
    """
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}.part")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
