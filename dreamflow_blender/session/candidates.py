"""Several seeds begun, of which the artist chooses one or more: they wait on the disk until that is done."""

from __future__ import annotations

from dataclasses import replace

from ..backlog.entries import CANDIDATE
from ..backlog.store import Entry
from ..scene import pictures
from . import importing, jobs


def choose(entry: Entry) -> None:
    """Go on with this candidate, at the end of the queue."""
    place = {key: value for key, value in entry.place.items() if key != CANDIDATE}
    jobs.get_store().put(replace(entry, state="waiting", place=place))
    importing.register_started(entry.job.id)
    jobs.resume_queue()


def leave(group: str) -> None:
    """The others of this group stay in the history, where they can be resumed."""
    store = jobs.get_store()
    for entry in store.entries():
        if entry.state == "candidate" and entry.candidate_of == group:
            pictures.drop(entry.job.id)  # the history shows its preview
            store.put(replace(entry, state="cancelled", place={**entry.place, CANDIDATE: ""}))
