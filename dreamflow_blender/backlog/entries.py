"""A job of the queue or the history, and what its folder tells of it. No `bpy`."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..contract import protocol as p
from ..contract.files import is_file
from ..contract.jobfolder import JobFolder
from ..contract.wire import BadMessage

STATES = ("waiting", "running", "interrupted", "candidate", "finished", "cancelled", "failed")
OPEN = ("waiting", "running")


@dataclass(frozen=True)
class Entry:
    """A job and what became of it."""

    job: p.Job
    place: dict[str, Any] = field(default_factory=dict)  # where the result goes, and the like: JSON
    # one of STATES; "interrupted": Blender or the backend died at it; "candidate": it waits to be chosen
    state: str = "waiting"
    error: p.Failed | None = None
    note: str = ""  # "61 %", where it was stopped
    seconds: float = 0.0  # that were spent on it
    figures: dict[str, float] = field(default_factory=dict)  # as in the event `finished`
    added: float = 0.0  # seconds since 1970, set by `put`, as `ended` and `session`
    ended: float = 0.0  # 0: it has not
    session: str = ""  # the Blender that it waits or runs in
    star: bool = False  # a favorite

    @property
    def folder(self) -> Path:
        return Path(self.job.folder)

    @property
    def thumbnail(self) -> Path | None:
        """The newest picture; a candidate's from four sides."""
        files = JobFolder(self.folder)
        return _there(files.candidate_png if self.state == "candidate" else files.preview)

    @property
    def candidate_of(self) -> str:
        """The name of the group among which one is to be chosen; "" for an ordinary job, and once that is done."""
        group = self.place.get(CANDIDATE, "")
        return group if isinstance(group, str) else ""

    @property
    def result(self) -> Path | None:
        """mesh.npz, where it was delivered."""
        return _there(JobFolder(self.folder).mesh_npz)

    @property
    def so_far(self) -> Path | None:
        """snapshot.npz: what there is of a job that was stopped."""
        return _there(JobFolder(self.folder).snapshot)

    @property
    def title(self) -> str:
        """The prompt, and of a refine job the object's name."""
        target = self.place.get(PLACE)
        name = target.get("object", "") if isinstance(target, dict) else ""
        return f"{name}: {self.job.prompt}" if name else self.job.prompt

    def matches(self, text: str) -> bool:
        """Whether every word of the text stands in its title."""
        return all(word in self.title.lower() for word in text.lower().split())

    @property
    def can_resume(self) -> bool:
        """It stopped before its end, and the backend knows what was asked."""
        return self.state not in (*OPEN, "candidate", "finished") and is_file(JobFolder(self.folder).job)


def find_jobs(folder: Path) -> list[Entry]:
    """What the folders themselves tell, for a history that was lost; the oldest first."""
    found = []
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError, BadMessage):  # no job's folder
                job = JobFolder(path).read_job()
                began = JobFolder(path).job.stat().st_mtime
                found.append(as_found(Entry(job, state="running", added=began)))
    unique = {entry.job.id: entry for entry in sorted(found, key=lambda entry: entry.added)}
    return list(unique.values())


def as_found(entry: Entry) -> Entry:
    """A job that no process runs any more, as its own folder records it."""
    folder = JobFolder(entry.folder)
    last, ended = folder.last_event(), time.time()
    with suppress(OSError):
        ended = folder.events.stat().st_mtime
    match last:
        case p.Finished():
            return replace(entry, state="finished", ended=ended, figures=dict(last.figures))
        case p.Failed():
            return replace(entry, state="failed", ended=ended, error=last)
    if not is_file(folder.job):  # it had not begun: it waits again
        return replace(entry, state="waiting", session="")
    if entry.candidate_of and is_file(folder.candidate):
        return replace(entry, state="candidate", ended=ended)
    # A `cancelled` here was written by a worker whose Blender was gone, not asked for: it is offered again.
    return replace(entry, state="interrupted", ended=ended)


def _there(path: Path) -> Path | None:
    return path if is_file(path) else None


# Keys in an entry's `place`
PLACE = "refine"
CANDIDATE = "candidate"  # the group; "": one that was not chosen
