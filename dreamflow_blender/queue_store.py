"""The queue and the history on disk, for every Blender that uses the same folder of jobs. No `bpy`.

    ROOT/queue.json    every job that waits, is at work or has been: what was asked and what became of it
    ROOT/a-red-mug-42  a job's folder, which the backend makes when the job begins

queue.json is written whole, under a lock, after every change; it is read again when another Blender has written
it. Where it is damaged it is put aside, and the history is found again in the jobs' folders.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .contract import protocol as p
from .contract.wire import BadMessage, dump
from .folder import write_json

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

VERSION = 1
LOCK_BYTE = 1 << 20  # of a job's lock, on Windows; as in backend/lock.py
TAIL = 1 << 17  # bytes of events.jsonl that are looked at for the last event
STATES = ("waiting", "running", "interrupted", "finished", "cancelled", "failed")
RESERVED = {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}


@dataclass(frozen=True)
class Entry:
    """A job and what became of it."""

    job: p.Job
    state: str = "waiting"  # one of STATES; "interrupted": Blender or the backend was killed at it
    added: float = 0.0  # seconds since 1970, as `ended`
    ended: float = 0.0  # 0: it has not
    message: str = ""  # what went wrong, and what to do about it
    todo: str = ""
    figures: dict[str, float] = field(default_factory=dict)  # as in the event `finished`
    extra: dict[str, Any] = field(default_factory=dict)  # the client's own JSON values: height, place, ...

    @property
    def id(self) -> str:
        return self.job.id

    @property
    def folder(self) -> Path:
        return Path(self.job.folder)

    @property
    def thumbnail(self) -> Path | None:
        """The newest picture."""
        path = self.folder / "preview.png"
        return path if path.is_file() else None

    @property
    def can_resume(self) -> bool:
        """It has stopped before its end and has a checkpoint, or was stopped before the first."""
        return self.state in ("interrupted", "cancelled", "failed") and (self.folder / "job.json").is_file()

    @property
    def result(self) -> Path | None:
        """mesh.npz, where it was delivered."""
        path = self.folder / "mesh.npz"
        return path if path.is_file() else None

    @property
    def so_far(self) -> Path | None:
        """snapshot.npz: what there is of a job that was stopped."""
        path = self.folder / "snapshot.npz"
        return path if path.is_file() else None


class Store:
    """The jobs of one folder. Every change is on the disk when its method returns; all raise OSError."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._path = self.root / "queue.json"
        self._seen: tuple[int, int] | None = None  # time and size of the file that `_entries` are from
        self._entries: list[Entry] = []
        self._mine: set[str] = set()  # ids that this Blender has begun

    # looking

    @property
    def entries(self) -> list[Entry]:
        """All of them: those that wait in their order, the others in the order in which they were added."""
        self._refresh()
        return list(self._entries)

    @property
    def waiting(self) -> list[Entry]:
        """The queue, first things first."""
        return [entry for entry in self.entries if entry.state == "waiting"]

    @property
    def history(self) -> list[Entry]:
        """What has been, the newest first."""
        over = [entry for entry in self.entries if entry.state not in ("waiting", "running")]
        return sorted(over, key=lambda entry: entry.ended or entry.added, reverse=True)

    def get(self, job_id: str) -> Entry | None:
        """The entry of this id."""
        return next((entry for entry in self.entries if entry.id == job_id), None)

    def next(self) -> Entry | None:
        """The job to begin now, as far as the queue is concerned."""
        return next(iter(self.waiting), None)

    def to_offer(self) -> list[Entry]:
        """On start: what was at work when Blender, the backend or the machine died, the newest first.

        A job that another Blender is at work on stays what it is.
        """
        with self._changing():
            for number, entry in enumerate(self._entries):
                if entry.state == "running" and entry.id not in self._mine and not at_work(entry.folder):
                    self._entries[number] = _as_found(entry)
        return [entry for entry in self.history if entry.state == "interrupted" and entry.can_resume]

    def new_folder(self, prompt: str, seed: int) -> Path:
        """A folder that no job has, ROOT/a-red-mug-42; the backend makes it."""
        name = f"{slug(prompt)}-{seed}"
        taken = {entry.folder.name.lower() for entry in self.entries}
        number = 1
        while (candidate := f"{name}-{number}" if number > 1 else name).lower() in taken or (
            self.root / candidate
        ).exists():
            number += 1
        return self.root / candidate

    # changing

    def add(self, job: p.Job, extra: dict[str, Any] | None = None) -> Entry:
        """Put a job at the queue's end. ValueError where its id is taken or `extra` is not JSON."""
        dump(extra or {}, "extra")
        entry = Entry(job, added=time.time(), extra=extra or {})
        with self._changing():
            if any(other.id == job.id for other in self._entries):
                raise ValueError(f"There is a job {job.id} already.")
            self._entries.append(entry)
        return entry

    def move(self, job_id: str, by: int) -> None:
        """Earlier (-1) or later (1) in the queue; as far as it goes."""
        with self._changing():
            places = [i for i, entry in enumerate(self._entries) if entry.state == "waiting"]
            at = next((n for n, i in enumerate(places) if self._entries[i].id == job_id), None)
            if at is None:
                return
            order = [self._entries[i] for i in places]
            order.insert(max(0, at + by), order.pop(at))
            for i, entry in zip(places, order, strict=True):
                self._entries[i] = entry

    def begin(self, job_id: str) -> None:
        """This Blender is at work on it now, from the start or resumed."""
        self._mine.add(job_id)
        self._set(job_id, state="running", ended=0.0, message="", todo="")

    def end(self, job_id: str, event: p.Event) -> None:
        """Its last event has come."""
        self._mine.discard(job_id)
        match event:
            case p.Finished():
                self._set(job_id, state="finished", ended=time.time(), figures=dict(event.figures))
            case p.Cancelled():
                self._set(job_id, state="cancelled", ended=time.time())
            case p.Failed():
                told = {"message": event.message, "todo": event.todo}
                self._set(job_id, state="failed", ended=time.time(), **told)

    def note(self, job_id: str, **extra: Any) -> None:
        """Add to what the client keeps with a job. BadMessage where it is not JSON."""
        entry = self.get(job_id)
        if entry:
            dump(extra, "extra")
            self._set(job_id, extra={**entry.extra, **extra})

    def again(self, job_id: str) -> None:
        """Back to the queue's end, to be resumed or done anew."""
        with self._changing():
            found = [entry for entry in self._entries if entry.id == job_id]
            self._entries = [entry for entry in self._entries if entry.id != job_id]
            self._entries += [
                replace(entry, state="waiting", ended=0.0, message="", todo="") for entry in found
            ]

    def remove(self, job_id: str, files: bool = False) -> None:
        """Forget a job, and with `files` its folder, if that lies in ROOT and holds a job.

        ValueError while somebody is at work on it.
        """
        entry = self.get(job_id)
        if entry is None:
            return
        if entry.state == "running" and (entry.id in self._mine or at_work(entry.folder)):
            raise ValueError(f"“{entry.job.prompt}” is being made: stop it first.")
        if files and self._is_job(entry.folder):
            shutil.rmtree(entry.folder)
        with self._changing():
            self._entries = [other for other in self._entries if other.id != job_id]

    # the file

    def _is_job(self, folder: Path) -> bool:
        inside = self.root.resolve() in folder.resolve().parents
        return inside and not folder.is_symlink() and (folder / "job.json").is_file()

    def _set(self, job_id: str, **changes: Any) -> None:
        with self._changing():
            self._entries = [replace(e, **changes) if e.id == job_id else e for e in self._entries]

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Read, let the block change `_entries`, write; nothing is written where it changes nothing or fails."""
        self.root.mkdir(parents=True, exist_ok=True)
        with _locked(self.root / "queue.lock"):
            self._refresh()
            before = list(self._entries)
            try:
                yield
                if self._entries != before:
                    self._write()
            except BaseException:
                self._entries = before
                raise

    def _write(self) -> None:
        entries = [
            {**asdict(e), "job": {**asdict(e.job), "folder": self._short(e.folder)}} for e in self._entries
        ]
        write_json(self._path, {"version": VERSION, "jobs": entries})
        self._seen = self._stamp()

    def _refresh(self) -> None:
        stamp = self._stamp()
        if stamp is None:
            if self._seen is not None or not self._entries:
                self._entries = find_jobs(self.root)
            self._seen = None
            return
        if stamp == self._seen:
            return
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
            self._entries = [self._entry(one) for one in stored["jobs"]]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            with suppress(OSError):
                self._path.replace(self._path.with_name("queue.damaged.json"))
            self._entries = find_jobs(self.root)
        self._seen = stamp

    def _entry(self, stored: dict[str, Any]) -> Entry:
        job = dict(stored["job"])
        job["folder"] = str(self.root / job["folder"])  # an absolute one stays what it is
        entry = Entry(**{**stored, "job": p.decode_job(json.dumps(job))})
        if (
            entry.state not in STATES
            or not isinstance(entry.extra, dict)
            or not isinstance(entry.figures, dict)
        ):
            raise ValueError(f"no state of a job: {entry.state!r}")
        return entry

    def _short(self, folder: Path) -> str:
        """Relative to the root, so that the whole may be moved."""
        return folder.relative_to(self.root).as_posix() if folder.is_relative_to(self.root) else str(folder)

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size


def find_jobs(root: Path) -> list[Entry]:
    """What the folders themselves tell, for a history that was lost; the oldest first."""
    found = []
    with suppress(OSError):
        for path in root.iterdir():
            with suppress(
                OSError, ValueError, KeyError, TypeError, RecursionError
            ):  # BadMessage is a ValueError
                stored = json.loads((path / "job.json").read_text(encoding="utf-8"))["job"]
                job = p.decode_job(json.dumps({**stored, "folder": str(path)}))
                began = (path / "job.json").stat().st_mtime
                found.append(_as_found(Entry(job, "running", added=began)))
    unique = {entry.id: entry for entry in sorted(found, key=lambda entry: entry.added)}
    return list(unique.values())


def last_event(folder: Path) -> p.Event | None:
    """The last whole line of events.jsonl; None where there is none."""
    try:
        with (folder / "events.jsonl").open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            lines = file.read().split(b"\n")[:-1]
        return p.decode(lines[-1]) if lines else None
    except (OSError, BadMessage):
        return None


def at_work(folder: Path) -> bool:
    """Whether a process holds the job's lock, as the backend does while it is at work."""
    try:
        with (folder / "lock").open("r+b") as file:
            return not _take(file.fileno())  # closing it lets go again
    except OSError:
        return False


def slug(prompt: str) -> str:
    """A name that every system can have: letters, digits, hyphens."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9]+", "-", plain.lower())[:48].strip("-")
    return f"{name}-object" if name in RESERVED else name or "object"


def _as_found(entry: Entry) -> Entry:
    """A job that nobody is at work on any more, as its own record tells it."""
    last, ended = last_event(entry.folder), time.time()
    with suppress(OSError):
        ended = (entry.folder / "events.jsonl").stat().st_mtime
    match last:
        case p.Finished():
            return replace(entry, state="finished", ended=ended, figures=dict(last.figures))
        case p.Cancelled():
            return replace(entry, state="cancelled", ended=ended)
        case p.Failed():
            return replace(entry, state="failed", ended=ended, message=last.message, todo=last.todo)
    if not (entry.folder / "job.json").is_file():  # it had not begun: it waits again
        return replace(entry, state="waiting")
    return replace(entry, state="interrupted", ended=ended)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait up to two seconds for another Blender's change to be over."""
    with path.open("ab") as file:
        until = time.monotonic() + 2.0
        while not _take(file.fileno()) and time.monotonic() < until:
            time.sleep(0.01)  # each change takes milliseconds; a lock that is never free is not honoured
        yield


def _take(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            os.lseek(handle, LOCK_BYTE, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            os.lseek(handle, 0, os.SEEK_SET)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
