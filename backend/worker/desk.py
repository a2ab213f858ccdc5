"""`python -m backend worker`: serves one client on standard input and output, one job at a time.

Three threads. The main one runs jobs, and does nothing else. The reader turns standard input into lines. The desk
knows the state (which job is running, what was asked of it), receives messages from the other two, and alone writes
to the client. No lock is held anywhere, so that the main thread may be stopped in the middle of anything.

The main thread looks at what was asked between iterations. A client that does not want to wait for that after `cancel`
kills this process: a job's folder survives it. For a pause, where the main thread has not looked for 1.5 s (a model
that loads, a long iteration), a signal's handler sleeps in the main thread.

The end of standard input means that the client is gone, however it ended: the system closes a dead process's
end of a pipe, on Linux, macOS and Windows alike. This process then ends within LEAVE, and by a watchdog of the
interpreter's own in C even if a library keeps every Python thread from running.
"""

from __future__ import annotations

import _thread
import faulthandler
import gc
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from backend.errors import CardFailed
from backend.interrupts import STOPS
from backend.jobs.drive import Begin, Control, Events, begin, drive, folder_of
from backend.worker.streams import Output, lines, take_streams
from dreamflow_blender.contract import protocol as p
from dreamflow_blender.contract.jobfolder import JobFolder

ANSWER = 1.5  # seconds that the main thread has to see a pause; the client was promised 2
STILL = 0.3  # seconds more until a pause is reported that the main thread is too deep in a library to begin
LEAVE = 3.0  # seconds for the last checkpoint when the client is gone; promised are 5, on a busy machine too
ORDER = ("pause", "finish", "cancel")  # what may be asked of a job: each outdoes those before it
LINES = 16  # that wait; a client that writes faster is held up by its pipe

GONE = object()  # what the desk hears at the end of input


def serve() -> NoReturn:
    """Serve until the client says so or is gone; ends the process. InputError without a standard input."""
    inward, outward = take_streams()
    worker = Worker(outward)
    signal.signal(signal.SIGINT, worker.pause_in_handler)  # and a terminal's Ctrl-C is the client's business
    for number in set(STOPS) - {signal.SIGINT}:
        signal.signal(number, lambda *_: worker.inbox.put(GONE))
    threading.Thread(target=worker.read, args=(inward,), name="reader", daemon=True).start()
    threading.Thread(target=worker.run_loop, name="desk", daemon=True).start()
    worker.work()


class Worker:
    """The queues between the three threads, and what the desk knows."""

    def __init__(self, outward: int) -> None:
        self.inbox: queue.SimpleQueue[object] = queue.SimpleQueue()  # what the desk hears
        self._jobs: queue.SimpleQueue[Begin] = queue.SimpleQueue()  # what the main thread is given
        self._asked: str | None = None  # one of ORDER: written by the desk
        self._room = threading.Semaphore(LINES)
        # the rest is the desk's alone
        self._outward = outward
        self._ready: p.Ready | None = None
        # the running job, or one that waits for the main thread to be ready
        self._request: Begin | None = None
        self._begun: set[str] = set()  # ids of jobs
        self._started = False  # a stage of it: before that there is nothing to keep
        self._paused = self._leaving = False
        self._due: tuple[float, Callable[[], None]] | None = None  # what to do if it is silent, and when

    # the main thread

    def work(self) -> NoReturn:
        """Run one job after the other; the desk ends the process."""
        try:
            # torch and all else: seconds, in which requests are heard already
            from backend.jobs import run as running

            self.inbox.put(running.ready())
        except Exception as error:  # noqa: BLE001  a broken installation breaks in many ways
            traceback.print_exc()
            what = f"The backend cannot start ({type(error).__name__}: {error})."
            detail = traceback.format_exc()[-4000:]
            self.inbox.put(p.Failed("internal", what[:500], "Run: python -m backend doctor", detail))
        while True:
            request = self._jobs.get()
            end = drive(request, lambda: self._asked, self.inbox.put, run=run_with_log)
            self.inbox.put(end)
            if isinstance(end, p.Failed) and end.kind == CardFailed.kind:
                continue  # the desk ends this process: in it, CUDA can do nothing any more
            free_memory()  # after the word: it may take a while

    def pause_in_handler(self, *_: object) -> None:
        """SIGINT's handler, in the main thread: a pause in the middle of whatever it does."""
        if self._asked == "pause":
            self.inbox.put(p.Paused())
            while self._asked == "pause":
                time.sleep(0.05)

    # the reader

    def read(self, inward: int) -> None:
        """Requests, until the end of input."""
        for line in lines(inward):
            self._room.acquire()
            self.inbox.put(line)
        faulthandler.dump_traceback_later(LEAVE + 1.0, exit=True, file=2)
        self.inbox.put(GONE)

    # the desk

    def run_loop(self) -> None:
        """Hear the others, one thing at a time."""
        try:
            while True:
                try:
                    wait = None if self._due is None else max(0.0, self._due[0] - time.monotonic())
                    heard = self.inbox.get(timeout=wait)
                except queue.Empty:
                    assert self._due is not None
                    what, self._due = self._due[1], None
                    what()
                    continue
                if heard is GONE:
                    self._leave()
                elif isinstance(heard, bytes):
                    self._handle_line(heard)
                    self._room.release()
                else:
                    assert isinstance(heard, p.Event)
                    self._handle_event(heard)
        except BaseException:  # a bug of ours: better no worker than one that is deaf
            traceback.print_exc()
            raise
        finally:
            os._exit(1)

    def _handle_event(self, event: p.Event) -> None:
        """From the main thread."""
        if isinstance(event, p.Paused):
            if self._asked != "pause" or self._paused:
                return  # it was reported already, or is over
            self._paused, self._due = True, None
        elif isinstance(event, p.Started):
            self._started = True
            if isinstance(self._request, p.Generate | p.Refine):
                self._begun.add(self._request.job.id)
        elif isinstance(event, p.Ready):
            if self._ready is None and self._request is not None:
                self._jobs.put(self._request)  # it has waited for this
            self._ready = event
        if not isinstance(event, p.Finished | p.Cancelled | p.Failed):
            self._send(event)
            return
        self._request = self._asked = self._due = None
        self._started = self._paused = False
        self._send(event)
        if self._leaving:
            os._exit(0)
        if isinstance(event, p.Failed) and event.kind == CardFailed.kind:
            os._exit(0)  # the client starts another for its next job
        if self._ready is None and isinstance(event, p.Failed):  # it cannot work at all
            os._exit(1)

    def _handle_line(self, line: bytes) -> None:
        try:
            self._handle_request(p.decode_request(line))
        except p.BadMessage as error:
            self._refuse(str(error))

    def _handle_request(self, request: p.Request) -> None:
        match request:
            case p.Hello() if request.protocol != p.VERSION:
                self._refuse(f"This worker speaks version {p.VERSION}, not {request.protocol}.")
            case p.Hello():
                if self._ready:  # else it is on its way
                    self._send(self._ready)
            case p.Shutdown():
                self._leave()
            case p.Generate() | p.Refine() | p.Resume():
                if reason := self._why_not(request):
                    self._refuse(reason)
                    return
                self._request = request
                if self._ready:
                    self._jobs.put(request)
            case _ if self._request is None or self._leaving:
                self._refuse("No job is running.")
            case p.Continue():
                if self._asked == "pause":
                    self._asked, self._paused, self._due = None, False, None
                else:
                    self._refuse("The job is not paused.")
            case p.Pause() | p.Finish() | p.Cancel():
                word = type(request).__name__.lower()
                if self._asked and ORDER.index(self._asked) >= ORDER.index(word):
                    self._refuse(f"The job was asked to {self._asked} already.")
                else:
                    self._ask(word)

    def _why_not(self, request: Begin) -> str:
        """Why this job cannot begin now; "" if it can."""
        if self._request is not None or self._leaving:
            return "A job is running, and there is one at a time."
        if isinstance(request, p.Resume):
            paths = [request.folder]
        else:
            if request.job.id in self._begun:
                return f"Job {request.job.id} has begun before: resume it, or give it another id."
            job = request.job
            paths = [job.folder, job.prior, job.refiner, job.phi, job.mesh, *job.lora, *job.control]
            paths += [job.texturer, job.image, job.image_adapter]
        try:
            for path in paths:
                os.fsencode(path)
        except UnicodeEncodeError:
            return "A path holds half a character, which this system cannot write."
        return ""

    def _ask(self, word: str) -> None:
        self._asked, self._paused, self._due = word, False, None
        if word == "cancel" and self._ready is None:  # it waits still: the main thread knows nothing of it
            self._handle_event(p.Cancelled({}))
        elif word == "pause":
            self._later(ANSWER, self._interrupt_main)

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        self._due = (time.monotonic() + seconds, what)

    def _interrupt_main(self) -> None:
        """The main thread does not look: its signal's handler stands still for it, where it runs in time."""
        _thread.interrupt_main(signal.SIGINT)
        self._later(STILL, lambda: self._handle_event(p.Paused()))

    def _leave(self) -> None:
        """The client is gone, or wants us to go."""
        if self._leaving:
            return
        self._leaving = True
        if self._request is None or not self._started:  # there is nothing to keep
            os._exit(0)
        self._ask("cancel")
        self._later(LEAVE, lambda: os._exit(0))

    def _refuse(self, why: str) -> None:
        self._send(p.Refused(why))

    def _send(self, event: p.Event) -> None:
        line = memoryview((p.encode(event) + "\n").encode("ascii"))
        try:
            while line:
                line = line[os.write(self._outward, line) :]
        except OSError:  # the reader has gone
            self.inbox.put(GONE)


def run_with_log(request: Begin, control: Control) -> Events:
    """The job's events; what libraries print meanwhile goes to its log.txt."""
    with Output(JobFolder(folder_of(request)).log):
        yield from begin(request, control)


def free_memory() -> None:
    """What the last job held; on a card, for others."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
