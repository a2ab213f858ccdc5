"""Killed at any moment, and resumed: the same bytes as if nothing had happened.

KILLS is how often (6; the figure in docs/decisions.md is of 60).
"""

import json
import os
import random
import subprocess
import sys
import time

import pytest

from backend.job import last_event
from dreamflow_blender.contract.protocol import Finished
from tests.worker_client import CHILD, ENVIRONMENT

KILLS = int(os.environ.get("KILLS", "6"))
PLACES = ("writing", "nerf", "geometry", "texture", "refine", "deliver")
LONGEST = {"writing": 0.05, "nerf": 1.5, "geometry": 0.5, "texture": 0.3, "refine": 0.3, "deliver": 1.5}  # seconds
RESULTS = ("mesh.npz", "albedo.png")


def begin(command, folder, **environment):
    return subprocess.Popen(
        [sys.executable, str(CHILD), command, str(folder)], env=ENVIRONMENT | environment,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def finish(command, folder):
    assert begin(command, folder).wait(300) == 0
    return {name: (folder / name).read_bytes() for name in RESULTS}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return finish("generate", tmp_path_factory.mktemp("undisturbed") / "job")


@pytest.mark.parametrize("number", range(KILLS))
def test_killed_and_resumed(undisturbed, tmp_path, number):
    """In each place in turn, at a random moment of it; between a checkpoint's two halves one time in six."""
    chance = random.Random(number)
    place = PLACES[number % len(PLACES)]
    folder = tmp_path / "job"
    child = begin("generate", folder, **({"SLOW_WRITES": "0.1"} if place == "writing" else {}))
    assert child.stdout is not None
    which = chance.randrange(1, 40) if place == "writing" else 1  # of about 40 checkpoints
    seen = 0
    for line in child.stdout:
        seen += line.strip() == ("writing" if place == "writing" else f"started {place}")
        if seen == which:
            break
    assert seen == which, "the job ended before its time"
    time.sleep(chance.uniform(0, LONGEST[place]))
    child.kill()  # SIGKILL; TerminateProcess on Windows
    child.wait()
    child.stdout.close()

    left = sorted(path.name for path in (folder / "checkpoints").glob("*"))
    for path in (folder / "checkpoints").glob("0*"):  # whatever has its final name is whole
        json.loads((path / "state.json").read_bytes())
    print(f"killed in {place} ({child.returncode}), left {left}")
    if place == "writing":
        assert any(name.startswith(".") and name.endswith(".part") for name in left)
    if not isinstance(last_event(folder), Finished):
        assert finish("resume", folder) == undisturbed
    assert {name: (folder / name).read_bytes() for name in RESULTS} == undisturbed
    assert not list(folder.rglob(".*"))  # nothing half-written is left
