"""Killed at any moment, and resumed: the same bytes as if nothing had happened.

KILLS in the environment is how often for each kind of job (6); they take longer than they are worth every
time, and are `slow`.
"""

import json
import os
import random
import subprocess
import sys
import time

import pytest

from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import Finished
from tests.tools.made_meshes import a_glb
from tests.tools.worker_client import CHILD, ENVIRONMENT, PATIENCE

KILLS = int(os.environ.get("KILLS", "6"))
PLACES = {
    "generate": ("writing", "deliver", "nerf", "geometry", "texture", "refine"),
    "refine": ("deliver", "fit", "writing", "refine"),
}
QUICK = 0
LONGEST = {
    "writing": 0.02,
    "nerf": 1.5,
    "geometry": 0.5,
    "fit": 0.5,
    "texture": 0.3,
    "refine": 0.3,
    "deliver": 1.0,
}  # seconds
RESULTS = ("mesh.npz", "albedo.png", "mesh.glb")


class Running:
    """A job in a process of its own, and what it says. (A fork that has imported torch may hang.)"""

    def __init__(self, command, folder):
        self.process = subprocess.Popen(
            [sys.executable, str(CHILD), command, str(folder)], env=ENVIRONMENT, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def wait_for(self, words):
        """Until it says a line that begins like this."""
        for line in self.process.stdout:
            if line.startswith(words):
                return
        raise AssertionError("the job ended before its time")

    def kill(self):
        self.process.kill()  # SIGKILL; TerminateProcess on Windows
        return self.end()

    def end(self):
        """How it ended."""
        self.process.stdout.read()
        self.process.stdout.close()
        return self.process.wait(PATIENCE)


def finish(command, folder):
    assert Running(command, folder).end() == 0
    return results(folder)


def results(folder):
    return {name: (folder / name).read_bytes() for name in RESULTS}


@pytest.fixture(scope="module", params=PLACES)
def undisturbed(request, tmp_path_factory):
    """The kind of a job, its mesh, and what it delivers."""
    folder, mesh = tmp_path_factory.mktemp("undisturbed") / "job", a_glb()
    folder.with_suffix(".glb").write_bytes(mesh)
    return request.param, mesh, finish(request.param, folder)


@pytest.mark.parametrize(
    "number", [pytest.param(n, marks=[pytest.mark.slow] if n >= QUICK else []) for n in range(KILLS)]
)
def test_killed_and_resumed(undisturbed, tmp_path, number):
    """In each place in turn, at a random moment of it; some of them between the files of a checkpoint."""
    chance = random.Random(number)
    kind, mesh, right = undisturbed
    place = PLACES[kind][number % len(PLACES[kind])]
    folder = tmp_path / "job"
    folder.with_suffix(".glb").write_bytes(mesh)
    job = Running(kind, folder)
    if place == "writing":
        for _ in range(chance.randrange(1, 80)):  # of about 86
            job.wait_for("writing")
    else:
        job.wait_for(f"started {place}")
    time.sleep(chance.uniform(0, LONGEST[place]))
    code = job.kill()
    folder.with_suffix(".glb").write_bytes(b"another file by now")

    left = sorted(path.name for path in (folder / "checkpoints").glob("*"))
    for path in (folder / "checkpoints").glob("0*"):  # whatever has its final name is whole
        json.loads((path / "state.json").read_bytes())
    half = any(name.endswith(".part") for name in left)
    last = next((name for name in reversed(left) if not name.startswith(".")), "no checkpoint")
    print(f"{number}: {kind} killed in {place} ({code}), {last}{', one half-written' if half else ''}")
    if not isinstance(JobFolder(folder).last_event(), Finished):
        assert finish("resume", folder) == right
    assert results(folder) == right
    assert not list(folder.rglob(".*"))  # nothing half-written is left
