"""The files of a folder that holds the backend's environments; environment.py says which there are. No `bpy`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..client.process import WINDOWS
from ..client.steps import SetupError
from ..contract.files import read_json
from ..contract.locks import locked


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One Blender at a time in this folder. Raises SetupError where another one is there."""
    with locked(folder / "lock", seconds=0.5) as ours:
        if not ours:
            raise SetupError("Another Blender is setting DreamFlow up.", "Wait until it is done.")
        yield


def environments(folder: Path) -> list[Path]:
    """All of them, the one in use and others."""
    return sorted(path for path in folder.glob("env-*") if path.is_dir())


def python_in(target: Path) -> Path:
    """Where this environment's interpreter is, or will be."""
    return target / ("Scripts/python.exe" if WINDOWS else "bin/python")


def fingerprint(requirements: Path) -> str:
    """Of what is to be installed, the same with any line ends."""
    return hashlib.sha256(requirements.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def read_record(folder: Path) -> dict[str, Any] | None:
    """environment.json; None where there is none, or nonsense."""
    record = read_json(folder / "environment.json")
    name = str(record.get("folder")) if record else ""
    return record if name.startswith("env-") and name == Path(name).name else None


def size_gb(target: Path) -> float:
    """Of all files below, links not followed."""
    total = 0
    for root, _, files in os.walk(target):
        for name in files:
            with suppress(OSError):
                total += os.lstat(f"{root}/{name}").st_size
    return round(total / 1e9, 2)
