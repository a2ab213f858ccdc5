"""The queue and the history on disk, for every Blender that uses the same folder. No `bpy`.

    ROOT/queue.json       every job that waits, runs or has ended: its settings and its result
    ROOT/sessions/12-ab   held (as a system's lock) by a Blender while it lives: its jobs are its own
    ROOT/jobs/a-red-mug   a job's folder, which the backend makes when the job begins

queue.json is written whole, under a lock, after every change; it is read again when another Blender has written
it. Blender's main thread writes it, so the disk is not waited for: a crash of Blender costs nothing, and where a
power cut has damaged the file, it is put aside, and the history is found again in the jobs' folders. What was
running when Blender or the machine died is "interrupted" for the Blender that reads it next; what waited then waits for
any Blender.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from ..contract import protocol as p
from ..contract.files import write_atomic
from ..contract.jobfolder import JobFolder
from ..contract.locks import hold, is_held, locked, remove
from ..contract.wire import dump
from .entries import OPEN, STATES, as_found, find_jobs
from .entries import Entry as Entry

VERSION = 1


class Store:
    """The jobs of everybody. Every change is written when its method returns; all raise OSError.

    root  where queue.json lies, made if need be
    jobs  where to look for jobs if queue.json is lost (default: ROOT/jobs)
    """

    def __init__(self, root: Path, jobs: Path | None = None) -> None:
        self.root, self.jobs = Path(root), jobs or Path(root) / "jobs"
        self.session = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._path = self.root / "queue.json"
        self._seen: tuple[int, int] | None = None  # time and size of the file that `_entries` are from
        self._entries: list[Entry] = []
        self._texts: dict[str, tuple[Entry, str]] = {}  # by job: an entry and its line in the file
        self._held: IO[bytes] | None = None  # our session's file

    def close(self) -> None:
        """This Blender is done with it; what waits may be taken by another."""
        if self._held is not None:
            remove(self._held)
            self._held = None

    # looking

    def entries(self) -> list[Entry]:
        """All of them, as added."""
        self._refresh()
        return list(self._entries)

    def waiting(self) -> list[Entry]:
        """This Blender's queue, first things first; with it that of Blenders which are gone."""
        return [entry for entry in self.entries() if entry.state == "waiting" and not self._others(entry)]

    def history(self) -> list[Entry]:
        """What has been, the newest first."""
        over = [entry for entry in self.entries() if entry.state not in (*OPEN, "candidate")]
        return sorted(over, key=lambda entry: entry.ended or entry.added, reverse=True)

    def finished(self, **fields: object) -> list[Entry]:
        """The jobs with these fields that were not ended early, the newest first."""
        over = [entry for entry in self.history() if entry.state == "finished" and not entry.note]
        return [entry for entry in over if all(getattr(entry.job, n) == value for n, value in fields.items())]

    def to_offer(self) -> list[Entry]:
        """What was running when Blender or the machine died, the newest first."""
        return [entry for entry in self.history() if entry.state == "interrupted" and entry.can_resume]

    def to_choose(self) -> list[list[Entry]]:
        """Candidates, by the group among which one is to be chosen, the newest group first."""
        groups: dict[str, list[Entry]] = {}
        for entry in self.entries():
            if entry.state == "candidate":
                groups.setdefault(entry.candidate_of, []).append(entry)
        return list(reversed(groups.values()))

    def find(self, job_id: str) -> Entry | None:
        """The entry of this job's id."""
        return next((entry for entry in self.entries() if entry.job.id == job_id), None)

    # changing

    def put(self, entry: Entry) -> Entry:
        """Add an entry, or replace that of the same job; returns it as it is kept.

        What begins to wait goes to the queue's end. ValueError where another Blender is running it, and where
        `place` is not JSON.
        """
        dump(entry.place, "place")
        now = time.time()
        is_open = entry.state in OPEN
        kept = replace(
            entry,
            added=entry.added or now,
            ended=0.0 if is_open else entry.ended or now,
            session=self._own_session() if is_open else "",
        )
        with self._changing():
            old = self._ours(entry.job.id)
            if old is None or (entry.state == "waiting" != old.state):
                self._entries = [*(other for other in self._entries if other is not old), kept]
            else:
                self._entries[self._entries.index(old)] = kept
        return kept

    def move(self, job_id: str, by: int) -> None:
        """Earlier (-1) or later (1) in the queue; as far as it goes."""
        with self._changing():
            mine = [entry for entry in self._entries if entry.state == "waiting" and not self._others(entry)]
            places = [self._entries.index(entry) for entry in mine]
            at = next((n for n, entry in enumerate(mine) if entry.job.id == job_id), None)
            if at is not None:
                mine.insert(max(0, at + by), mine.pop(at))
                for place, entry in zip(places, mine, strict=True):
                    self._entries[place] = entry

    def remove(self, job_id: str) -> None:
        """Forget a job; its folder stays. ValueError where another Blender is running it."""
        with self._changing():
            old = self._ours(job_id)
            self._entries = [entry for entry in self._entries if entry is not old]

    # whose it is

    def _ours(self, job_id: str) -> Entry | None:
        """The entry that is to be changed, if there is one. ValueError where another Blender is running it."""
        old = next((entry for entry in self._entries if entry.job.id == job_id), None)
        if old is not None and old.state == "running" and self._others(old):
            raise ValueError(f"Another Blender is making “{old.job.prompt}”.")
        return old

    def _own_session(self) -> str:
        if self._held is None:
            folder = self.root / "sessions"
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.iterdir():  # of Blenders that were killed
                if not is_held(path) and (left := hold(path)) is not None:
                    remove(left)  # held while it is removed: it may be new
            self._held = hold(folder / self.session, seconds=10.0)
            if self._held is None:
                raise OSError(f"{folder / self.session} is held by another program")
        return self.session

    def _others(self, entry: Entry) -> bool:
        """Whether it belongs to another Blender that lives, or to a worker that outlives it for a moment."""
        if entry.session in ("", self.session):
            return False
        if is_held(self.root / "sessions" / Path(entry.session).name):
            return True
        return entry.state == "running" and is_held(JobFolder(entry.folder).lock)

    # the file

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Read, let the block change `_entries`, write; nothing is changed where the block or the disk fails."""
        self.root.mkdir(parents=True, exist_ok=True)
        with locked(self.root / "queue.lock"):  # one that is never free is not honoured
            self._refresh()
            before, changed = list(self._entries), False
            try:
                yield
                if self._entries != before:
                    self._write()
                changed = True
            finally:
                if not changed:
                    self._entries = before

    def _write(self) -> None:
        lines = ",\n".join(self._text(entry) for entry in self._entries)
        write_atomic(self._path, f'{{"version": {VERSION}, "jobs": [\n{lines}\n]}}\n', sync=False)
        self._seen = self._stamp()

    def _text(self, entry: Entry) -> str:
        """Its line; kept, since a long history changes in one place at a time."""
        known = self._texts.get(entry.job.id)
        if known is None or known[0] is not entry:
            job = {**asdict(entry.job), "folder": self._short(entry.folder)}
            known = self._texts[entry.job.id] = (entry, json.dumps({**asdict(entry), "job": job}))
        return known[1]

    def _refresh(self) -> None:
        stamp = self._stamp()
        if stamp == self._seen and (stamp is not None or self._entries):
            return
        self._seen = stamp
        if stamp is None:
            self._entries = find_jobs(self.jobs)
            return
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
            self._entries = [self._entry(one) for one in stored["jobs"]]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            with suppress(OSError):
                self._path.replace(self._path.with_name("queue.damaged.json"))
            self._entries, self._seen = find_jobs(self.jobs), None
            return
        for number, entry in enumerate(self._entries):
            if entry.state == "running" and entry.session != self.session and not self._others(entry):
                self._entries[number] = as_found(entry)

    def _entry(self, stored: dict[str, Any]) -> Entry:
        """From its line, or as it is known already."""
        text, job = json.dumps(stored), dict(stored["job"])
        known = self._texts.get(str(job.get("id")))
        if known is not None and known[1] == text:
            return known[0]
        job["folder"] = str(self.root / job["folder"])  # an absolute one stays what it is
        error = p.Failed(**stored["error"]) if stored.get("error") else None
        entry = Entry(**{**stored, "job": p.decode_job(json.dumps(job)), "error": error})
        if (
            entry.state not in STATES
            or not isinstance(entry.place, dict)
            or not isinstance(entry.figures, dict)
        ):
            raise ValueError(f"no state of a job: {entry.state!r}")
        self._texts[entry.job.id] = (entry, text)
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
