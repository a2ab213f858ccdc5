"""One worker process and the two threads that talk with it. No `bpy`."""

from __future__ import annotations

import json
import queue
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

from ..contract import protocol as p
from ..contract.locks import hold
from ..contract.wire import BadMessage
from .process import kill, start, terminate

RATE = 2000  # lines a second that are read; a worker that floods is slowed by its full pipe
TAIL = 4000  # bytes of the worker's own last words that go into a report
IN_USE = "in-use"  # a file of the environment, held while a worker runs from it
SETUP = "Run Check setup in the preferences, and Repair if it finds something."
AGAIN = "Press Retry; the job goes on from its newest checkpoint."


class Listener(Protocol):
    """Who hears a worker's events; called with `changed` held."""

    changed: threading.Condition

    def heard(self, worker: Worker, event: p.Event) -> None:
        """It has said this."""

    def gone(self, worker: Worker, code: int | None) -> None:
        """It has ended, with this exit code (None: it is still about to) and without a word."""

    def lost(self, worker: Worker, message: str, todo: str, kind: str) -> None:
        """It is of no use any more, and why."""


class Worker:
    """One process and its two threads, which start at once.

    command, root, environment  what to start, in which folder (made if need be), with which variables
    alive     it has not ended and was not given up
    outbox    lines for its input; None ends that
    """

    def __init__(
        self, command: list[str], root: Path, environment: dict[str, str], listener: Listener
    ) -> None:
        self._command, self._root, self._environment = command, root, environment
        self._listener = listener
        self.child: subprocess.Popen[bytes] | None = None
        self.outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.began = time.monotonic()
        self.jobs_ended = 0
        self._over = False  # it has ended or was given up
        self._killed = False
        self._died_at = 0.0
        self._nonsense = ""
        self._spoke = False  # our language
        self._stderr: IO[bytes] | None = None
        self.outbox.put((p.encode_request(p.Hello()) + "\n").encode("ascii"))
        self._writer = threading.Thread(target=self._write, name="dreamflow requests", daemon=True)
        self._writer.start()

    @property
    def alive(self) -> bool:
        return not self._over

    @property
    def died_at(self) -> float:
        """When the process was first seen dead, 0 while it is not or all is said."""
        if self._over or self.child is None or self.child.poll() is None:
            return 0.0
        self._died_at = self._died_at or time.monotonic()
        return self._died_at

    def end(self) -> None:
        """At once; whatever it says from here on is not heard."""
        self._over = self._killed = True
        self.outbox.put(None)
        if self.child:
            kill(self.child)

    def close(self, seconds: float) -> None:
        self._over = True
        self.outbox.put((p.encode_request(p.Shutdown()) + "\n").encode("ascii"))
        self.outbox.put(None)  # ends its input too, which means the same
        until = time.monotonic() + seconds
        while self.child is None and self._writer.is_alive() and time.monotonic() < until:
            time.sleep(0.01)  # it is being started
        if self.child is None:
            return
        for finally_do in (terminate, kill):
            try:
                self.child.wait(max(until - time.monotonic(), 0.0))
                return
            except subprocess.TimeoutExpired:
                finally_do(self.child)
                until = time.monotonic() + 1.0
        with suppress(subprocess.TimeoutExpired):
            self.child.wait(1.0)

    def last_words(self) -> str:
        """The end of what the worker wrote to its standard error, after the nonsense if it spoke any."""
        words = self._nonsense
        if self._stderr is not None:
            with suppress(OSError, ValueError):
                size = self._stderr.seek(0, 2)
                self._stderr.seek(max(size - TAIL, 0))
                words += self._stderr.read(TAIL).decode("utf-8", errors="replace")
        return words.strip()

    def ended(self) -> None:
        """With the condition held: the process is dead or dying, and nothing more can be heard."""
        if not self._over:
            self._over = True
            self.outbox.put(None)
            self._listener.gone(self, self.child.poll() if self.child else None)

    # the writing thread, which also starts the process: on some systems that takes a while

    def _write(self) -> None:
        changed = self._listener.changed
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  a file, so that the worker never waits for us
            child = start(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr,
                cwd=self._root, env=self._environment,
            )  # fmt: skip
        except OSError as error:
            with changed:
                self._over = True
                self._listener.lost(
                    self, f"The backend could not be started ({error.strerror or error}).", SETUP, "worker"
                )
            return
        used = None
        with suppress(OSError):  # an environment that cannot be written to
            used = hold(Path(self._command[0]).parents[1] / IN_USE)  # a repair leaves this environment alone
        with changed:
            self.child = child
            if self._killed:  # while it was being started
                kill(child)
        assert child.stdin is not None and child.stdout is not None
        threading.Thread(
            target=self._read, args=(child.stdout,), name="dreamflow events", daemon=True
        ).start()
        with suppress(OSError):  # it has ended: the other thread says so
            while (line := self.outbox.get()) is not None:
                child.stdin.write(line)
                child.stdin.flush()
        with suppress(OSError):
            child.stdin.close()
        child.wait()
        if used:
            used.close()

    # the reading thread

    def _read(self, output: IO[bytes]) -> None:
        window, lines = time.monotonic(), 0
        with suppress(OSError, ValueError):
            while line := output.readline(p.MAX_LINE + 1):
                if not self._take(line):
                    break
                lines += 1
                if lines >= RATE / 20:  # a twentieth of a second's worth
                    time.sleep(max(0.0, window + 0.05 - time.monotonic()))
                    window, lines = time.monotonic(), 0
        assert self.child is not None
        with suppress(subprocess.TimeoutExpired):
            self.child.wait(2.0)
        with self._listener.changed:
            self.ended()
        if self.child.poll() is None:  # it has closed its output and lives on
            kill(self.child)
        with suppress(subprocess.TimeoutExpired):
            self.child.wait(5.0)  # or it stays a zombie until the next child is started

    def _take(self, line: bytes) -> bool:
        """Hear one line; False where it is no use to listen any longer."""
        try:
            event = decode(line)
        except OtherVersion as other:
            self._give_up(str(other), "Press Repair in the preferences, then restart Blender.", "version")
            return False
        except BadMessage:
            self._nonsense = f"It said: {line[:200]!r}\n"
            if self._spoke:
                self._give_up("The backend spoke nonsense and was ended.", AGAIN, "worker")
            else:
                self._give_up("What was started is not DreamFlow's backend.", SETUP, "worker")
            return False
        with self._listener.changed:
            self._spoke = True
            if not self._over:
                self._listener.heard(self, event)
            return not self._over

    def _give_up(self, message: str, todo: str, kind: str) -> None:
        with self._listener.changed:
            if not self._over:
                self.end()
                self._listener.lost(self, message, todo, kind)


class OtherVersion(Exception):
    """A worker of another release."""


def decode(line: bytes) -> p.Event:
    """The event on a line. Raises BadMessage, and OtherVersion for a `ready` that is not our release's."""
    try:
        event = p.decode(line)
    except BadMessage:
        with suppress(ValueError, RecursionError, AttributeError):
            message = json.loads(line)
            if message.get("event") == "ready" and message.get("protocol") != p.VERSION:
                raise OtherVersion(_versions(message.get("protocol"))) from None
        raise
    if isinstance(event, p.Ready) and event.protocol != p.VERSION:
        raise OtherVersion(_versions(event.protocol))
    return event


def _versions(other: object) -> str:
    return f"The backend speaks version {str(other)[:20]} of the protocol, this add-on version {p.VERSION}."
