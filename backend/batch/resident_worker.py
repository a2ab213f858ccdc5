"""One `python -m backend worker` for job after job, with the models that it has read; a crash of CUDA ends it alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import BinaryIO

from backend.jobs.drive import Begin, End, folder_of
from dreamflow_blender.contract import protocol as p
from dreamflow_blender.contract.jobfolder import JobFolder

TAIL = 2000  # bytes of a log that a report quotes
WAIT = 10.0  # seconds for its last checkpoint, where its input has ended
CRASHED = "worker"  # the kind of a failure that is the process's end


class ResidentWorker:
    """Starts the process with its first job, and again with the next one where it has ended.

    command      what to start in place of this Python's backend
    environment  its variables
    """

    def __init__(self, environment: Mapping[str, str] = os.environ, command: tuple[str, ...] = ()) -> None:
        self._command = command or (sys.executable, "-m", "backend", "worker", "--keep-models")
        self._environment = dict(environment)
        self._child: subprocess.Popen[bytes] | None = None
        self._writing = threading.Lock()
        self._said: BinaryIO | None = None

    @property
    def pid(self) -> int:
        """Of the process; 0 where none is running."""
        return self._child.pid if self._child is not None and self._child.poll() is None else 0

    def run(self, request: Begin, show: Callable[[p.Event], None]) -> End:
        """The job's last event; `show` is given the others. A process that ends in the middle of it is a Failed."""
        if not self.pid:
            self.close()
            self._said = tempfile.TemporaryFile()  # noqa: SIM115  a file, so that it never waits for us
            # a session of its own: a terminal's Ctrl-C is its driver's business
            self._child = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=self._said, start_new_session=True,
            )  # fmt: skip
        child = self._child
        assert child is not None and child.stdout is not None
        self._say(request)
        for line in child.stdout:
            try:
                event = p.decode(line)
            except p.BadMessage:
                break  # it is torn, or another program's
            if isinstance(event, End):
                return event
            if isinstance(event, p.Refused):
                return p.Failed("internal", event.message)
            show(event)
        code = self._end()
        log = JobFolder(folder_of(request)).log
        detail = self._last_words()
        with suppress(OSError), log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL))
            detail = file.read(TAIL).decode("utf-8", "replace") + detail
        return p.Failed(CRASHED, f"The worker process ended with code {code}.", "", detail.strip()[-TAIL:])

    def cancel(self) -> None:
        """The running job, after its iteration; from any thread."""
        self._say(p.Cancel())

    def close(self) -> None:
        """End the process; a job that is running keeps what there is."""
        self._end()
        if self._said is not None:
            self._said.close()
            self._said = None

    def _say(self, request: p.Request) -> None:
        child = self._child
        with self._writing, suppress(OSError, ValueError):  # it has gone, which its output's end says
            if child is not None and child.stdin is not None:
                child.stdin.write(p.encode_request(request).encode("ascii") + b"\n")
                child.stdin.flush()

    def _end(self) -> int | None:
        child, self._child = self._child, None
        if child is None:
            return None
        assert child.stdin is not None and child.stdout is not None
        with self._writing, suppress(OSError):
            child.stdin.close()
        try:
            child.wait(WAIT)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()
        return child.returncode

    def _last_words(self) -> str:
        if self._said is None:
            return ""
        self._said.seek(max(0, self._said.seek(0, 2) - TAIL))
        return self._said.read(TAIL).decode("utf-8", "replace")
