"""A job's folder as both processes see it: its name, and the files that it leaves. Standard library only."""

from __future__ import annotations

import re
import unicodedata
from contextlib import suppress
from pathlib import Path

RESERVED = {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}
RESULTS = (
    "mesh.glb",
    "mesh.npz",
    "albedo.png",
    "views.png",
    "curves.png",
    "turntable.webp",
    "preview.png",
)


def slug(prompt: str) -> str:
    """A folder name on every system: 1 to 48 of a-z, 0-9 and dashes, and no device of Windows."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9]+", "-", plain.lower())[:48].strip("-")
    return f"{name}-object" if name in RESERVED else name or "object"


def results(folder: Path) -> dict[str, str]:
    """What a person can open of what lies in this folder: name -> path."""
    return {name: str(folder / name) for name in RESULTS if (folder / name).is_file()}


def kept(folder: Path) -> dict[str, str]:
    """`results`, the newest snapshot, and the newest checkpoint: what a cancelled job leaves."""
    found = results(folder)
    if (folder / "snapshot.npz").is_file():
        found["snapshot.npz"] = str(folder / "snapshot.npz")
    with suppress(OSError):
        names = [p.name for p in (folder / "checkpoints").iterdir() if not p.name.startswith(".")]
        if names:
            found["checkpoint"] = str(folder / "checkpoints" / max(names))  # they begin with their number
    return found
