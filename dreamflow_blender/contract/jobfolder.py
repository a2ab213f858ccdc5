"""A job's folder as both processes see it: its name, its files, and what they say. Standard library only."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from contextlib import suppress
from pathlib import Path

from .files import is_file, open_plain, read_plain
from .protocol import BadMessage, Event, Job, Progress, decode
from .wire import build

RESERVED = {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}
NUMBERED = re.compile(r"(albedo|snapshot|original)_[0-9]+\.png")
TAIL = 1 << 14  # bytes of events.jsonl that are read for the newest events
MOST = 1 << 22  # bytes of job.json: a job itself is less than wire.MAX_LINE


def slug(prompt: str) -> str:
    """A folder name on every system: 1 to 48 of a-z, 0-9 and dashes, and no device of Windows."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9]+", "-", plain.lower())[:48].strip("-")
    return f"{name}-object" if name in RESERVED else name or "object"


def indexed_filename(path: Path, number: int) -> Path:
    """albedo.png, albedo_2.png, albedo_3.png, ...: one a texture, from 1."""
    return path if number == 1 else path.with_name(f"{path.stem}_{number}{path.suffix}")


class JobFolder:
    """The files of a job. Making one touches nothing."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.job = self.path / "job.json"  # the job as it was given, and what it was resolved to
        self.events = self.path / "events.jsonl"  # what protocol.py's events said, one a line
        self.log = self.path / "log.txt"  # what libraries printed
        self.lock = self.path / "lock"  # held while the job runs
        self.checkpoints = self.path / "checkpoints"  # folders, named 000012-texture-400
        self.snapshot = self.path / "snapshot.npz"  # the newest coarse mesh
        # of a job that was begun to be chosen or not: its score
        self.candidate = self.path / "candidate.json"
        self.candidate_png = self.path / "candidate.png"  # and its views
        # delivered
        self.mesh_glb = self.path / "mesh.glb"
        self.mesh_npz = self.path / "mesh.npz"  # for Blender: meshfile.py
        self.albedo = self.path / "albedo.png"
        self.views = self.path / "views.png"
        self.curves = self.path / "curves.png"
        self.turntable = self.path / "turntable.webp"
        self.preview = self.path / "preview.png"
        # of a refine job
        self.object_npz = self.path / "object.npz"  # the object as it was
        self.object_glb = self.path / "object.glb"  # the file that it was read from, where that was a glTF
        self.object_obj = self.path / "object.obj"  # the same of an OBJ, with its materials
        self.object_mtl = self.path / "object.mtl"
        self.mesh_obj = self.path / "mesh.obj"  # delivered beside mesh.glb where the object was an OBJ
        self.mesh_mtl = self.path / "mesh.mtl"
        self.uvs = self.path / "uvs.npz"  # the UVs that the textures are for
        self.materials = self.path / "materials.json"  # which texture is for which material
        self.snapshot_png = self.path / "snapshot.png"  # the newest texture

    @property
    def _results(self) -> tuple[Path, ...]:
        return (
            self.mesh_glb, self.mesh_npz, self.albedo, self.views, self.curves, self.turntable, self.preview,
        )  # fmt: skip

    @property
    def object_files(self) -> tuple[Path, ...]:
        """What a refine job may begin with, kept beside it."""
        return self.object_npz, self.object_glb, self.object_obj, self.object_mtl

    def result_files(self) -> dict[str, str]:
        """What there is of the results: name -> path."""
        return {path.name: str(path) for path in self._results if is_file(path)}

    def recoverable_files(self) -> dict[str, str]:
        """The results, the newest snapshot and checkpoint, and a candidate's views: what a cancelled job leaves."""
        found = self.result_files()
        for path in (self.snapshot, self.candidate, self.candidate_png):
            if is_file(path):
                found[path.name] = str(path)
        with suppress(OSError):
            names = [p.name for p in self.checkpoints.iterdir() if not p.name.startswith(".")]
            if names:
                found["checkpoint"] = str(self.checkpoints / max(names))  # they begin with their number
        return found

    def writes(self, name: str) -> bool:
        """Whether a job makes, replaces or removes a file of this name in its folder."""
        return name in {path.name for path in vars(self).values()} or NUMBERED.fullmatch(name) is not None

    def old_files(self) -> list[Path]:
        """What an older job has left, but for its checkpoints and for what the new one has replaced already."""
        new = (self.job, self.lock, *self.object_files)
        return [
            path
            for path in self.path.iterdir()
            if self.writes(path.name) and path not in new and is_file(path)
        ]

    def read_job(self) -> Job:
        """The job, wherever its folder is now. Raises OSError, and BadMessage where job.json describes none."""
        text = read_plain(self.job, MOST)
        try:
            return build(Job, json.loads(text)["job"] | {"folder": str(self.path)})
        except BadMessage:
            raise
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadMessage(self.job.name, "a job", error) from error

    def last_event(self) -> Event | None:
        """The newest event; None where none can be read. A line that a crash has torn does not count."""
        lines = self._newest_lines()
        return _event(lines[-1]) if lines else None

    def last_progress(self) -> Progress | None:
        """The newest `progress` among the newest events; None where there is none."""
        found = (_event(line) for line in reversed(self._newest_lines()) if b'"progress"' in line)
        return next((event for event in found if isinstance(event, Progress)), None)

    def _newest_lines(self) -> list[bytes]:
        """Whole lines at the end of events.jsonl, in their order. The rest is not read: a long job writes megabytes."""
        try:
            with open_plain(self.events, "r") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
                return file.read(TAIL).split(b"\n")[:-1]
        except OSError:
            return []


def _event(line: bytes) -> Event | None:
    try:
        return decode(line)
    except BadMessage:
        return None
