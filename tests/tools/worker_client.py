"""A client of the worker, for tests: it says things, and waits for events of some kinds."""

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dreamflow_blender.contract import protocol as p
from tests.tools.tiny import tiny_job

CHILD = Path(__file__).with_name("worker_child.py")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHILD.parents[2])}
PATIENCE = 120  # seconds: the machine may be busy


class Client:
    def __init__(self, **environment):
        self.process = subprocess.Popen(
            [sys.executable, str(CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=ENVIRONMENT | environment,
        )  # fmt: skip
        self.events = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.events.put(p.decode(line))
        self.events.put(None)

    def say(self, request):
        self.write(p.encode_request(request).encode() + b"\n")

    def write(self, line):
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def next(self, seconds=PATIENCE):
        """None at the end of output."""
        return self.events.get(timeout=max(0.01, seconds))

    def until(self, *kinds, seconds=PATIENCE):
        """The first event of these kinds."""
        deadline = time.monotonic() + seconds
        while True:
            event = self.next(deadline - time.monotonic())
            if isinstance(event, kinds):
                return event
            assert event is not None, "the worker has ended"
            assert not isinstance(event, p.Failed), event

    def until_stage(self, stage):
        while self.until(p.Started).stage != stage:
            pass

    def refused(self, request):
        self.say(request)
        return self.until(p.Refused).message

    def ends(self, seconds=PATIENCE):
        return self.process.wait(seconds)

    def close(self):
        """The client is gone."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()


@pytest.fixture
def start():
    clients = []

    def begin(**environment):
        clients.append(Client(**environment))
        return clients[-1]

    yield begin
    for client in clients:
        client.process.kill()
        client.process.wait()


def fresh(folder, **changes):
    """A tiny job in a folder that the worker has still to make."""
    job = tiny_job(folder, **changes)
    folder.rmdir()
    return job


def long_job(folder, **changes):
    return fresh(folder, overrides={"nerf.levels": 5000}, **changes)
