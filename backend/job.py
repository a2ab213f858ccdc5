"""A job's folder: its name, its making, and the record of what happened in it."""

from __future__ import annotations

import os
import re
import unicodedata
from contextlib import suppress
from pathlib import Path

from backend.errors import DiskError, InputError
from backend.files import disk_errors
from dreamflow_blender.contract.protocol import MAX_PROMPT, BadMessage, Event, clean_text, decode, encode

_RESERVED = {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}
_RESULTS = (
    "mesh.glb",
    "mesh.npz",
    "albedo.png",
    "views.png",
    "curves.png",
    "turntable.webp",
    "preview.png",
)


def clean_prompt(text: str) -> str:
    """What was typed as one line; raises InputError if it is empty or too long."""
    prompt = clean_text(text)
    if not prompt:
        raise InputError("The prompt is empty.", 'Say what to make, as in "a red mug".')
    if len(prompt) > MAX_PROMPT:
        raise InputError(
            f"The prompt is too long: expected at most {MAX_PROMPT:,} characters, got {len(prompt):,}.",
            "Say it in a few words: a text encoder reads about 75.",
        )
    return prompt


def slug(prompt: str) -> str:
    """A folder name on every system: 1 to 48 of a-z, 0-9 and dashes, and no device of Windows."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9]+", "-", plain.lower())[:48].strip("-")
    return f"{name}-object" if name in _RESERVED else name or "object"


def default_folder(prompt: str, seed: int, root: Path) -> Path:
    """Where this job goes if nothing else was said: root/SLUG-SEED."""
    return root / f"{slug(prompt)}-{seed}"


def reserved_part(folder: Path) -> str | None:
    """The part of this path that Windows keeps for a device, if there is one."""
    return next((part for part in folder.parts if part.split(".")[0].strip().lower() in _RESERVED), None)


def claim_folder(folder: Path, overwrite: bool = False) -> None:
    """Makes the folder, with its parents, and sees that it can be written; removes nothing.

    Raises InputError if another job (unless `overwrite`) or anything else is in it, and DiskError.
    """
    if os.name == "nt" and (part := reserved_part(folder)):
        raise InputError(f"Windows keeps the name {part} for itself.", "Choose another folder with --out.")
    with disk_errors(folder):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file, not a folder.", "Choose another folder with --out.")
        there = sorted(p.name for p in folder.iterdir()) if folder.exists() else []
        if there and not {"job.json", "events.jsonl"} & set(there):
            raise InputError(
                f"{folder} is not empty and holds no job: {', '.join(there[:3])}.",
                "Choose a new or empty folder with --out.",
            )
        if there and not overwrite:
            raise InputError(
                f"{folder} already holds a job.", "Choose another folder with --out, or add --overwrite."
            )
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.write_bytes(b"")
        probe.unlink()


def clear_folder(folder: Path) -> None:
    """Removes what an older job wrote, but for job.json, which the new one has replaced; raises DiskError."""
    with disk_errors(folder):
        for name in (*_RESULTS, "events.jsonl", "snapshot.npz", "log.txt"):
            (folder / name).unlink(missing_ok=True)


class EventLog:
    """events.jsonl of a folder, a line an event, on the disk at once; raises DiskError."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "events.jsonl"
        with disk_errors(self._path):
            self._file = self._path.open("a", encoding="ascii", newline="\n")

    def write(self, event: Event) -> None:
        with disk_errors(self._path):
            self._file.write(encode(event) + "\n")
            self._file.flush()

    def close(self) -> None:
        with suppress(OSError):  # whatever could not be written has been said by write
            self._file.close()


def results(folder: Path) -> dict[str, str]:
    """What a person can open of what lies in this folder: name -> path."""
    return {name: str(folder / name) for name in _RESULTS if (folder / name).is_file()}


def read_events(folder: Path) -> list[Event]:
    """What EventLog wrote. A torn last line, as a crash leaves it, is left out; raises DiskError."""
    path = folder / "events.jsonl"
    with disk_errors(path):
        lines = path.read_bytes().split(b"\n")
    whole = lines[:-1]  # the last piece is empty, or torn
    try:
        return [decode(line) for line in whole]
    except BadMessage as error:
        raise DiskError(f"{path} is damaged. {error}", "Start the job again.") from error
