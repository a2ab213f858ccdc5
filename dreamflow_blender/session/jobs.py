"""The running job and the waiting ones, as the window sees them; a timer that polls the worker.

State lives in this module, not in the user's file. A tick takes a few milliseconds: it hears what the client
has collected, does at most one slow thing (a picture, the live mesh, the import), and asks for a redraw.
"""

from __future__ import annotations

import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bpy
from bpy.app.handlers import persistent

from ..backlog import work
from ..backlog.running import Running
from ..backlog.store import Entry, Store
from ..contract import meshfile
from ..contract import protocol as p
from ..contract.files import read_plain, write_atomic
from ..contract.jobfolder import JobFolder
from ..scene import pictures, preview, windows
from ..settings import addon
from . import importing, service, tasks

BUSY, IDLE = 0.1, 0.5  # seconds between ticks
HOLD_AFTER = 2  # failures in a row that no prompt is to blame for; then the queue waits for the user
_TO_BLAME = ("input", "model")  # kinds of failure that concern one job alone


@dataclass(frozen=True)
class Problem:
    """What went wrong last: it stays in the panel until it is answered."""

    failed: p.Failed
    entry: Entry | None = None
    stage: str = ""  # that was running
    folded: bool = False  # another job has begun since


store: Store | None = None
running: Running | None = None
problem: Problem | None = None
queue_paused = False  # the queue waits for the user
last_ready: p.Ready | None = None  # what the worker said of itself, for a report
_failures = 0


# what the user asks for


def add(job: p.Job, place: dict[str, Any]) -> None:
    """To the end of the queue; it begins as soon as no other job is running."""
    global queue_paused
    pictures.warm_up()
    get_store().put(Entry(job, place))
    importing.register_started(job.id)
    queue_paused = False
    wake()


def requeue(entry: Entry, how: str, **changes: Any) -> None:
    """Put a job of the history into the queue: "resume" it where it stopped, or "new" with changes."""
    global queue_paused, problem
    if how == "resume":
        get_store().put(replace(entry, state="waiting", error=None))
        importing.register_started(entry.job.id)
        queue_paused = False
        wake()
    else:
        job = replace(entry.job, **changes)
        folder = work.new_folder(addon.jobs_folder(), job.prompt, job.seed)
        mesh = str(copy_mesh(job, folder)) if job.mesh else ""
        place = {k: v for k, v in entry.place.items() if k in importing.PLACE}
        add(replace(job, id=work.new_id(), folder=str(folder), mesh=mesh), place)
    if problem is not None and problem.entry is not None and problem.entry.job.id == entry.job.id:
        problem = None


def copy_mesh(job: p.Job, folder: Path) -> Path:
    """The mesh of a refine job for another job in `folder`. Raises ValueError where it is gone."""
    try:
        content = read_plain(Path(job.folder) / Path(job.mesh).name, meshfile.MOST_BYTES)
    except OSError as error:
        raise ValueError(
            f"The mesh of this job no longer exists ({error}): refine the object again"
        ) from error
    return write_mesh(folder / Path(job.mesh).name, content)


def write_mesh(path: Path, content: bytes) -> Path:
    """Into a folder that may be new. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content, sync=False)
    return path


def open_entries() -> list[Entry]:
    """The running job and the waiting ones."""
    return [*([running.entry] if running else []), *get_store().waiting()]


def pause_or_resume() -> None:
    if running and service.client:
        if running.paused:
            if service.client.go_on():
                running.paused, running.asked = False, ""
        elif service.client.pause():
            running.asked = "pause"


def finish() -> None:
    """Stop here: bake and import what there is."""
    if running and service.client and service.client.finish():
        running.asked, running.paused = "finish", False


def discard() -> None:
    """Stop, and delete the job's folder once the worker has closed its files."""
    if running and service.client and service.client.cancel():
        running.asked, running.paused = "discard", False


def dismiss() -> None:
    """The user has read what went wrong."""
    global problem
    problem = None


def resume_queue() -> None:
    """Start the waiting jobs."""
    global queue_paused, _failures
    queue_paused, _failures = False, 0
    wake()


# the timer


def has_timer() -> bool:
    """Whether Blender runs timers: without a window it does not, and a script waits for the end of what it begins."""
    return not bpy.app.background


def wake() -> None:
    """See that the timer runs."""
    if has_timer() and not bpy.app.timers.is_registered(tick):
        bpy.app.timers.register(tick, first_interval=0.01, persistent=True)


def tick() -> float | None:
    """The seconds until the next; None: there is nothing to look at."""
    global problem
    try:
        changed = _tick()
    except Exception as error:  # noqa: BLE001  an exception would end the timer, and the panel would never move again
        detail = "".join(traceback.format_exception(error))[-4000:]
        problem = Problem(
            p.Failed("internal", f"DreamFlow has a bug: {error}", "Copy the report.", detail), None
        )
        changed = True
    if changed:
        windows.redraw()
    waiting = bool(get_store().waiting()) and not queue_paused
    if running or waiting or tasks.current or importing.due() or pictures.wanted():
        return BUSY
    return IDLE if service.client is not None and service.client.alive else None


def _tick() -> bool:
    global running
    changed = tasks.tick()
    if service.client is not None:
        for event in service.client.poll():
            _hear(event)
            changed = True
    if running is None and not queue_paused:
        changed |= _begin_next()
    if not _one_slow_thing() and running is None:
        service.free_the_device()
        return changed
    return True


def _one_slow_thing() -> bool:
    now = running
    if now is not None and (now.picture is not None or now.snapshot is not None):
        if now.picture is not None and not (now.pictured and now.snapshot is not None):
            path, now.picture, now.pictured = now.picture, None, True
            pictures.show(pictures.LIVE, path)
        elif now.snapshot is not None:
            path, now.snapshot, now.pictured = now.snapshot, None, False
            if addon.setting("live_mesh", True) and now.asked not in ("finish", "discard"):
                importing.show_preview(now.entry, path)
        return True
    if importing.due():
        return import_result()
    return pictures.load_one()


def import_result() -> bool:
    """Import the first result that is ready; what goes wrong is shown in the panel."""
    global problem
    try:
        return importing.import_due(get_store())
    except RuntimeError as error:  # what the operator reports
        failed = p.Failed(
            "import", str(error).removeprefix("Error: ").strip(), "The result is kept in History."
        )
        problem = Problem(failed)
        return True


# what the worker says


def _measured(job: p.Job) -> dict[str, float]:
    """The seconds of each stage in the newest job like this one that came to its end here; {} where there is none."""
    prefix = "seconds_"
    same = {name: getattr(job, name) for name in ("kind", "preset", "prior", "stages")}
    for entry in get_store().finished(**same):
        found = {k.removeprefix(prefix): s for k, s in entry.figures.items() if k.startswith(prefix)}
        if set(job.stages) <= set(found):
            rest = entry.figures.get("seconds", 0.0) - sum(found.values())
            return found | {"deliver": found.get("deliver", max(rest, 0.0))}
    return {}


def _begin_next() -> bool:
    global running, problem
    waiting = get_store().waiting()
    interpreter = service.python() if waiting else None
    if interpreter is None:
        return False
    entry = get_store().put(replace(waiting[0], state="running"))
    client = service.get_client(interpreter)
    candidate = bool(entry.candidate_of)
    stages = entry.job.stages[:1] if candidate else (*entry.job.stages, "deliver")
    running = Running(entry, stages, measured={} if candidate else _measured(entry.job))
    if problem is not None:
        problem = replace(problem, folded=True)
    pictures.drop(pictures.LIVE)
    until = p.CANDIDATE_SHARE if candidate else 0.0
    if work.can_resume(entry.folder):
        client.resume(entry.folder, until)
    else:
        client.submit(entry.job, until)
    return True


def _hear(event: p.Event) -> None:
    global last_ready
    now = running
    if isinstance(event, p.Ready):
        last_ready = event
    elif now is None:
        return
    elif isinstance(event, p.Finished | p.Cancelled | p.Failed):
        _end(now, event)
    else:
        now.hear(event)


def _end(now: Running, event: p.Finished | p.Cancelled | p.Failed) -> None:
    global running, problem, queue_paused, _failures
    running = None
    preview.clear()
    job_id = now.entry.job.id
    pictures.drop(job_id)
    note = "" if isinstance(event, p.Finished) and now.asked != "finish" else now.share()
    entry = replace(now.entry, note=note, seconds=now.entry.seconds + time.monotonic() - now.began)
    if isinstance(event, p.Finished):
        entry = replace(entry, state="finished", figures=dict(event.figures))
    elif isinstance(event, p.Cancelled):
        shown = entry.candidate_of and not now.asked and JobFolder(entry.folder).candidate.name in event.paths
        entry = replace(entry, state="candidate" if shown else "cancelled")
    else:
        entry = replace(entry, state="failed", error=event)
    get_store().put(entry)
    if now.asked == "discard":
        forget(job_id)
    elif isinstance(event, p.Finished):
        _failures = 0
        importing.ready(job_id)
    elif isinstance(event, p.Failed):
        problem = Problem(event, entry, now.stage)
        _failures = 0 if event.kind in _TO_BLAME else _failures + 1
        queue_paused = event.kind == "version" or _failures >= HOLD_AFTER


def forget(job_id: str) -> None:
    """Out of the queue or the history, and its folder off the disk."""
    entry = get_store().find(job_id)
    importing.forget(job_id)
    pictures.drop(job_id)
    if entry is not None:
        get_store().remove(job_id)
        work.discard_soon(entry.folder, addon.jobs_folder())


# the beginning and the end


def stop_worker() -> None:
    """End the worker, so that its files may be removed; the running job can be resumed later."""
    service.close()
    _interrupt()


def _interrupt() -> None:
    """The running job has lost its worker: it is in the history, to be resumed."""
    global running
    if running is not None and store is not None:
        with suppress(OSError):
            store.put(replace(running.entry, state="interrupted", note=running.share()))
    running = None
    preview.clear()


def get_store() -> Store:
    """The queue and the history. What is left from the last time waits until the user says so."""
    global store, queue_paused
    if store is None:
        store = Store(addon.user_folder(), addon.jobs_folder())
        queue_paused = bool(store.waiting())
    return store


@persistent
def _file_opened(*_: object) -> None:
    pictures.warm_up()
    importing.file_opened()
    wake()


def register() -> None:
    bpy.app.handlers.load_post.append(_file_opened)
    if not bpy.app.background:  # a startup file is opened before there are add-ons
        bpy.app.timers.register(pictures.warm_up)
    wake()


def unregister() -> None:
    """The worker ends before the extension's files go."""
    global store, problem, queue_paused, _failures
    if _file_opened in bpy.app.handlers.load_post:
        bpy.app.handlers.load_post.remove(_file_opened)
    for function in (pictures.warm_up, tick):
        if bpy.app.timers.is_registered(function):
            bpy.app.timers.unregister(function)
    tasks.stop()
    stop_worker()
    if store is not None:
        store.close()
    store, problem, queue_paused, _failures = None, None, False, 0
