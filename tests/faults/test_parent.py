"""The client is killed: its worker keeps the last iteration and is gone within 5 s, with all that it started."""

import subprocess
import sys
import time

import psutil
import pytest

from backend.stages.checkpoint import load
from backend.stages.checkpoint_writer import listed
from dreamflow_blender.contract import protocol as p
from dreamflow_blender.contract.jobfolder import JobFolder
from tests.tools.worker_client import CHILD, ENVIRONMENT, PATIENCE, fresh

# A client that reads nothing: its worker's events go straight to the test, so no pipe breaks when it is killed.
CLIENT = (
    "import subprocess, sys, time\n"
    f"worker = subprocess.Popen([sys.executable, {str(CHILD)!r}], stdin=subprocess.PIPE)\n"
    "worker.stdin.write(sys.argv[1].encode() + bytes([10])); worker.stdin.flush()\n"
    "time.sleep(1000)\n"
)
STAGES = ("nerf", "geometry", "texture", "refine", "deliver")


@pytest.mark.parametrize(
    "place",
    [
        "start",
        "geometry",
        *(pytest.param(place, marks=pytest.mark.slow) for place in ("load", *STAGES) if place != "geometry"),
    ],
)
def test_killed(tmp_path, place):
    overrides = {f"{place}.levels": 50_000} if place in STAGES[:-1] else {}
    job = fresh(tmp_path / "job", overrides=overrides)
    environment = {"load": {"LOADING": "60"}, "deliver": {"UNWRAP": "60"}}.get(place, {})
    line = p.encode_request(p.Generate(job))
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, line], stdout=subprocess.PIPE, env=ENVIRONMENT | environment
    )
    assert client.stdout is not None
    while not (started := psutil.Process(client.pid).children()):
        time.sleep(0.05)
    worker = started[0]
    if place == "load":
        assert isinstance(p.decode(client.stdout.readline()), p.Ready)
    elif place != "start":
        wanted = p.Started if place == "deliver" else p.Progress  # which is after an iteration
        while not (isinstance(event := p.decode(client.stdout.readline()), wanted) and event.stage == place):
            assert not isinstance(event, p.Failed), event
    time.sleep(0.7)
    deadline = time.monotonic() + PATIENCE
    while place == "deliver" and not worker.children() and time.monotonic() < deadline:
        time.sleep(0.05)  # what comes before the unwrapping takes long on a busy machine
    family = [worker, *worker.children(recursive=True)]
    assert place != "deliver" or len(family) > 1
    gone = time.monotonic()
    client.kill()
    client.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    took = time.monotonic() - gone
    print(f"parent killed, {place}: {took:.2f} s")
    assert not alive
    assert took < 5
    if place in STAGES:
        newest = load(listed(tmp_path / "job")[0])
        assert newest.stage == ("refine" if place == "deliver" else place)
        assert newest.ended == (place == "deliver") and newest.iteration > 0
        assert isinstance(JobFolder(tmp_path / "job").last_event(), p.Cancelled)
