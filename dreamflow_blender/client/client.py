"""The worker as Blender sees it: start, submit, poll for the window, events for batch, close. No `bpy`.

Nothing here blocks its caller but `events` and `close`. Two threads per worker, one for each direction,
start it, write to it and read from it; they touch a list of events and nothing else of Blender's.

However the worker ends, the running job gets its last event: where the worker cannot say so itself, a
`Failed` of ours takes its place, of kind "worker" (it died, was silent or spoke nonsense) or "version".
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..contract import protocol as p
from ..contract.jobfolder import JobFolder
from .process import backend_environment, how_it_ended, pycache_of
from .worker import AGAIN, SETUP, Worker

LIMIT = 1000  # events that wait for a poll; beyond it the oldest that can be spared goes
END = p.Finished | p.Cancelled | p.Failed


class Client:
    """One worker at a time, started when there is work for it, and started again when it has ended.

    All methods are for one thread (Blender's main thread), but `close`, which any thread may call.

    python         the environment's Python (environment.look)
    code           the folder that holds `backend` and `dreamflow_blender`
    root           the jobs' root, made if need be: the worker's working directory
    pycache        for Python's compiled files (default: process.pycache_of)
    environment    further environment variables
    command        what to start instead of `python -P -m backend worker` (tests)
    start_seconds  the worker has to say `ready` in this time
    stop_seconds   and to answer `cancel` in this one; then it is killed
    """

    def __init__(
        self,
        python: Path | str,
        code: Path,
        root: Path,
        *,
        pycache: Path | None = None,
        environment: dict[str, str] | None = None,
        command: Sequence[str] | None = None,
        start_seconds: float = 180.0,
        stop_seconds: float = 5.0,
    ) -> None:
        self.command = list(command or [str(python), "-P", "-m", "backend", "worker"])
        self.code, self.root = Path(code), Path(root)
        caches = pycache or pycache_of(Path(python), self.root)
        self._variables = {**backend_environment(self.code, caches), **(environment or {})}
        self.start_seconds, self.stop_seconds = start_seconds, stop_seconds
        self.ready: p.Ready | None = None  # what the worker said of itself; None until it has
        self.folder: str | None = None  # of the running job
        self.idle_since = time.monotonic()
        self._events: deque[p.Event] = deque()
        self.changed = threading.Condition()  # guards all of this
        self._worker: Worker | None = None
        self._job: p.Request | None = None  # the request that began the running job
        self._answered = False  # the job's first event has come
        self._asked = ""  # "pause", "finish" or "cancel", so that nothing is asked twice
        self._asked_at = 0.0

    # what goes on

    @property
    def busy(self) -> bool:
        """A job was submitted and has not had its last event."""
        return self._job is not None

    @property
    def alive(self) -> bool:
        """A worker runs, and holds memory on the device."""
        return self._worker is not None and self._worker.alive

    @property
    def pid(self) -> int | None:
        """The worker's process id, once it has one."""
        child = self._worker.child if self._worker else None
        return child.pid if child else None

    @property
    def idle_seconds(self) -> float:
        """How long no job has been running; 0 while one is."""
        return 0.0 if self.busy else time.monotonic() - self.idle_since

    # requests: all return at once

    def warm_up(self) -> None:
        """Start the worker where none runs, so that it is ready when a job comes."""
        with self.changed:
            self._need_worker()

    def submit(self, job: p.Job, until: float = 0.0) -> None:
        """Begin a job, a candidate `until` this share of stage 1. RuntimeError while another is running."""
        self._begin(p.Refine(job) if job.kind == "refine" else p.Generate(job, until), job.folder)

    def resume(self, folder: str | Path, until: float = 0.0) -> None:
        """Go on with the job in this folder. RuntimeError while another is running."""
        self._begin(p.Resume(str(folder), until), str(folder))

    def pause(self) -> bool:
        """Stand still after this iteration: `Paused`. False where that cannot be asked now, here and below."""
        return self._ask("pause", p.Pause(), unless=("pause", "finish", "cancel"))

    def go_on(self) -> bool:
        """End a pause."""
        with self.changed:
            if self._asked != "pause":
                return False
            self._asked = ""
            self._say(p.Continue())
            return True

    def finish(self) -> bool:
        """End the running stage, bake and deliver what there is: `Finished`, in up to half a minute."""
        if self._asked == "pause":
            self.go_on()
        return self._ask("finish", p.Finish(), unless=("finish", "cancel"))

    def cancel(self) -> bool:
        """Stop and keep the newest snapshot and checkpoint: `Cancelled`, whatever the worker does."""
        return self._ask("cancel", p.Cancel(), unless=("cancel",))

    # events

    def poll(self, limit: int = 200) -> list[p.Event]:
        """Up to `limit` events since the last poll, the oldest first. Never waits."""
        with self.changed:
            self._look_at_clock()
            count = min(limit, len(self._events))
            return [self._events.popleft() for _ in range(count)]

    def events(self) -> Iterator[p.Event]:
        """Wait for the events of the running job, up to and including its last; none where none is running."""
        while True:
            with self.changed:
                while not self._events and self.busy:
                    self.changed.wait(0.2)
                    self._look_at_clock()
                event = self._events.popleft() if self._events else None
            if event is None:
                return
            yield event
            if isinstance(event, END):
                return

    # the end

    def close(self, seconds: float = 6.0) -> None:
        """End the worker: by message, after `seconds` by terminating it, after one more by killing it.

        Waits for it. A running job keeps its newest checkpoint and gets no further event.
        """
        worker = self._let_go()
        if worker:
            worker.close(seconds)

    def close_soon(self, seconds: float = 6.0) -> threading.Thread:
        """`close` in a thread of its own, for a caller that must not wait. A new worker may start meanwhile."""
        worker = self._let_go()
        thread = threading.Thread(target=worker.close if worker else bool, args=(seconds,), daemon=True)
        thread.start()
        return thread

    def _let_go(self) -> Worker | None:
        with self.changed:
            worker, self._worker, self.ready = self._worker, None, None
            self._events.clear()
            self._end_job()
            return worker

    # below: with the condition held

    def _begin(self, request: p.Request, folder: str) -> None:
        with self.changed:
            if self.busy:
                raise RuntimeError("A job is running, and there is one at a time.")
            self._events = deque(event for event in self._events if isinstance(event, p.Ready))
            self._job, self.folder = request, folder
            self._answered, self._asked = False, ""
            self._need_worker()
            self._say(request)

    def _ask(self, word: str, request: p.Request, unless: tuple[str, ...]) -> bool:
        with self.changed:
            if not self.busy or self._asked in unless:
                return False
            self._asked, self._asked_at = word, time.monotonic()
            self._say(request)
            return True

    def _say(self, request: p.Request) -> None:
        assert self._worker is not None
        self._worker.outbox.put((p.encode_request(request) + "\n").encode("ascii"))

    def _need_worker(self) -> None:
        if self._worker is None or not self._worker.alive or self._worker.died_at:
            self.ready = None
            self._worker = Worker(self.command, self.root, self._variables, self)

    def _end_job(self) -> None:
        self._job = self.folder = None
        self._asked = ""
        self.idle_since = time.monotonic()

    def _look_at_clock(self) -> None:
        """What no event says: that the worker is silent, or does not stop."""
        worker, now = self._worker, time.monotonic()
        if worker is None:
            return
        if self.ready is None and worker.alive and now - worker.began > self.start_seconds:
            worker.end()
            minutes = f"{self.start_seconds / 60:.0f} minutes" if self.start_seconds >= 90 else "its time"
            self.lost(worker, f"The backend did not start within {minutes}.", SETUP, "worker")
        elif self._asked == "cancel" and now - self._asked_at > self.stop_seconds:
            worker.end()
            self._worker = None
            self._append(p.Cancelled(JobFolder(self.folder or ".").recoverable_files()))
        elif worker.died_at and now - worker.died_at > 1.0:
            worker.ended()  # something that it started still holds its output open

    def lost(self, worker: Worker, message: str, todo: str, kind: str) -> None:
        """The worker is of no use any more: say so, if anybody waits for it."""
        if worker is not self._worker:
            return
        waited = self.busy or self.ready is None
        self._worker = self.ready = None
        if waited:
            self._append(p.Failed(kind, message, todo, worker.last_words()))

    def gone(self, worker: Worker, code: int | None) -> None:
        """Its output has ended, and with it the process."""
        if worker is not self._worker:
            return
        if self._job is not None and self._asked == "cancel":
            self._worker = None
            self._append(p.Cancelled(JobFolder(self.folder or ".").recoverable_files()))
        elif self._job is not None and not self._answered and code == 0 and worker.jobs_ended:
            self._worker = None  # it was leaving after `cancelled` when this job came
            self._need_worker()
            self._say(self._job)
        elif self.ready is None:
            self.lost(worker, f"The backend could not be started: {how_it_ended(code)}.", SETUP, "worker")
        else:
            self.lost(
                worker, f"The backend ended in the middle of its work: {how_it_ended(code)}.", AGAIN, "worker"
            )

    def heard(self, worker: Worker, event: p.Event) -> None:
        """It has said this."""
        if worker is not self._worker:
            return
        if isinstance(event, p.Ready):
            self.ready = event
        elif (
            isinstance(event, p.Refused) and self._job is not None and not self._answered and not self._asked
        ):
            event = p.Failed(
                "input", f"The backend refused the job: {event.message}", "Change it and try again."
            )
        elif not isinstance(event, p.Refused):
            if self._job is None:
                return  # the rest of a job that was given up
            self._answered = True
        self._append(event)

    def _append(self, event: p.Event) -> None:
        last = self._events[-1] if self._events else None
        if isinstance(event, p.Progress | p.Preview | p.Snapshot) and type(event) is type(last):
            self._events.pop()  # not polled yet: the newer one replaces it
        elif len(self._events) >= LIMIT:
            spare = (i for i, e in enumerate(self._events) if not isinstance(e, END | p.Started))
            del self._events[next(spare, 0)]
        self._events.append(event)
        if isinstance(event, END):
            if self._worker:
                self._worker.jobs_ended += 1
            self._end_job()
        self.changed.notify_all()
