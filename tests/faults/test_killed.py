"""Killed at any moment, and resumed: the same bytes as if nothing had happened.

KILLS in the environment is how often (6).
"""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from backend.job import last_event
from dreamflow_blender.contract.protocol import Finished
from tests.worker_client import CHILD, ENVIRONMENT

KILLS = int(os.environ.get("KILLS", "6"))
PLACES = ("writing", "nerf", "geometry", "texture", "refine", "deliver")
LONGEST = {"writing": 0.02, "nerf": 1.5, "geometry": 0.5, "texture": 0.3, "refine": 0.3, "deliver": 1.0}  # seconds
RESULTS = ("mesh.npz", "albedo.png")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked, to save the imports")


class Jobs:
    """One job at a time, each in a process of its own."""

    def __init__(self):
        self.parent = subprocess.Popen(
            [sys.executable, str(CHILD), "jobs"], env=ENVIRONMENT, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def begin(self, command, folder):
        self.parent.stdin.write(f"{command} {folder}\n")
        self.parent.stdin.flush()
        self.job = int(self.wait_for("process").split()[1])

    def next(self):
        line = self.parent.stdout.readline().strip()
        assert line, "the process that forks has ended"
        return line

    def wait_for(self, words):
        """The next line that begins like this."""
        while not (line := self.next()).startswith(words):
            assert not line.startswith("ended"), "the job ended before its time"
        return line

    def end(self):
        """How it ended."""
        while not (line := self.next()).startswith("ended"):
            pass
        return int(line.split()[1])

    def finish(self, command, folder):
        self.begin(command, folder)
        assert self.end() == 0
        return results(folder)


def results(folder):
    return {name: (folder / name).read_bytes() for name in RESULTS}


@pytest.fixture(scope="module")
def jobs():
    begun = Jobs()
    yield begun
    begun.parent.kill()
    begun.parent.wait()


@pytest.fixture(scope="module")
def undisturbed(jobs, tmp_path_factory):
    return jobs.finish("generate", tmp_path_factory.mktemp("undisturbed") / "job")


@pytest.mark.parametrize("number", range(KILLS))
def test_killed_and_resumed(jobs, undisturbed, tmp_path, number):
    """In each place in turn, at a random moment of it; one time in six between the halves of a checkpoint."""
    chance = random.Random(number)
    place = PLACES[number % len(PLACES)]
    folder = tmp_path / "job"
    jobs.begin("generate", folder)
    if place == "writing":
        for _ in range(chance.randrange(1, 40)):  # of about 43
            jobs.wait_for("writing")
    else:
        jobs.wait_for(f"started {place}")
    time.sleep(chance.uniform(0, LONGEST[place]))
    os.kill(jobs.job, signal.SIGKILL)
    code = jobs.end()

    left = sorted(path.name for path in (folder / "checkpoints").glob("*"))
    for path in (folder / "checkpoints").glob("0*"):  # whatever has its final name is whole
        json.loads((path / "state.json").read_bytes())
    half = any(name.endswith(".part") for name in left)
    last = next((name for name in reversed(left) if not name.startswith(".")), "no checkpoint")
    print(f"{number}: killed in {place} ({code}), {last}{', one half-written' if half else ''}")
    if not isinstance(last_event(folder), Finished):
        assert jobs.finish("resume", folder) == undisturbed
    assert results(folder) == undisturbed
    assert not list(folder.rglob(".*"))  # nothing half-written is left
