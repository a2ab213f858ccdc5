"""The client with a worker that behaves oddly in every way, and with the real one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from dreamflow_blender.client import client as client_module
from dreamflow_blender.client.client import Client
from dreamflow_blender.client.process import pycache_of
from dreamflow_blender.contract import protocol as p

ROOT = Path(__file__).parents[3]
FAKE = str(ROOT / "tests" / "tools" / "fake_backend.py")
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


@pytest.fixture
def start(tmp_path):
    """start(behaviour, ...) -> Client; every worker is gone at the test's end."""
    made = []

    def make(behaviour, seconds=0.2, **options):
        command = [sys.executable, FAKE, behaviour, str(seconds)]
        made.append(Client(sys.executable, ROOT, tmp_path / "the jobs é", command=command, **options))
        return made[-1]

    yield make
    pids = [client.pid for client in made if client.pid]
    for client in made:
        client.close(0.2)
    for pid in pids:
        gone(pid)


def job(client, number="1"):
    return p.Job(number, "generate", "a ball", str(client.root / f"job {number}"))


def run(client, number="1"):
    client.submit(job(client, number))
    return list(client.events())


def wait(client, kind, seconds=20.0):
    """Poll as the window does, until an event of this kind."""
    until = time.monotonic() + seconds
    seen = []
    while time.monotonic() < until:
        for event in client.poll():
            seen.append(event)
            if isinstance(event, kind):
                return event
        time.sleep(0.01)
    raise AssertionError(f"no {kind} among {seen[-5:]}")


def gone(pid, seconds=5.0):
    """Wait for a process's end."""
    until = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie":
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_job_from_beginning_to_end(start):
    client = start("good")
    assert not client.alive and not client.busy
    events = run(client)
    assert isinstance(events[0], p.Ready) and client.ready == events[0]
    assert [e.stage for e in events if isinstance(e, p.Started)] == [*p.STAGES, "deliver"]
    assert isinstance(events[-1], p.Finished) and Path(events[-1].paths["mesh.npz"]).is_file()
    assert client.alive and not client.busy and client.folder is None
    pid = client.pid
    assert isinstance(run(client, "2")[-1], p.Finished)
    assert client.pid == pid  # the model stays loaded
    assert client.idle_seconds < 5


def test_polling_never_waits_and_misses_no_end(start):
    client = start("good")
    began = time.monotonic()
    client.submit(job(client))
    assert client.poll() == []
    assert time.monotonic() - began < 0.2  # the process is started elsewhere
    assert isinstance(wait(client, p.Finished), p.Finished)
    assert client.poll() == []


def test_one_job_at_a_time(start):
    client = start("slow")
    client.submit(job(client))
    with pytest.raises(RuntimeError, match="one at a time"):
        client.submit(job(client, "2"))


def test_pause_continue_finish(start):
    client = start("slow")
    client.submit(job(client))
    wait(client, p.Progress)
    assert client.pause() and not client.pause()  # asked once
    wait(client, p.Paused)
    time.sleep(0.2)
    client.poll()
    time.sleep(0.2)
    assert not client.poll()
    assert client.go_on() and not client.go_on()
    wait(client, p.Progress)
    assert client.pause()
    wait(client, p.Paused)
    assert client.finish() and not client.finish() and not client.pause()  # a pause does not hold it up
    assert isinstance(wait(client, p.Finished), p.Finished)
    assert not client.pause() and not client.go_on() and not client.finish() and not client.cancel()


def test_cancel_and_the_next_job(start):
    client = start("slow")
    client.submit(job(client))
    wait(client, p.Snapshot)
    assert client.cancel() and not client.cancel()
    assert "snapshot.npz" in wait(client, p.Cancelled).paths
    client.submit(job(client, "2"))
    wait(client, p.Progress)


def test_a_worker_that_leaves_after_cancelled(start):
    """The next job may reach it while it is leaving; it is done all the same, by another worker."""
    client = start("leaves")
    for number in "123":
        client.submit(job(client, number))
        wait(client, p.Progress)
        client.cancel()
        wait(client, p.Cancelled)
    assert isinstance(run(client, "4")[-1], p.Finished)


@pytest.mark.parametrize(
    "behaviour, kind, message, todo, detail",
    [
        ("dies at start", "worker", "could not be started", "Check setup", "DLL load failed"),
        ("exits", "worker", "ended with code 3", "Retry", "c10::Error"),
        ("garbage", "worker", "not DreamFlow's backend", "Check setup", "Microsoft Windows"),
        ("garbage later", "worker", "nonsense", "Retry", "progr"),
        ("wrong version", "version", "version 99", "Repair", ""),
        ("refuses", "input", "rather not", "Change", ""),
        ("fails", "memory", "out of memory", "smaller preset", "12 of 12"),
    ],
)
def test_what_goes_wrong_is_told(start, behaviour, kind, message, todo, detail):
    client = start(behaviour)
    last = run(client)[-1]
    assert isinstance(last, p.Failed) and last.kind == kind
    assert message in last.message and todo in last.todo and detail in last.detail
    assert not client.busy
    assert isinstance(run(client, "2")[-1], p.Failed)  # and it can be tried again


@posix
def test_a_worker_that_is_killed(start):
    last = run(start("dies in between"))[-1]
    assert "memory runs out" in last.message and "checkpoint" in last.todo


def test_a_job_that_died_is_resumed(start):
    client = start("dies once")
    assert isinstance(run(client)[-1], p.Failed)
    client.resume(job(client).folder)
    assert isinstance(list(client.events())[-1], p.Finished)


def test_what_is_no_program(tmp_path):
    client = Client(tmp_path / "no python", ROOT, tmp_path)
    last = run(client)[-1]
    assert last.kind == "worker" and "could not be started" in last.message and "Check setup" in last.todo
    (tmp_path / "file").write_text("")
    client = Client(sys.executable, ROOT, tmp_path / "file" / "jobs")
    assert "could not be started" in run(client)[-1].message


def test_a_worker_that_never_says_a_word(start):
    client = start("hangs", start_seconds=0.5)
    began = time.monotonic()
    last = run(client)[-1]
    assert "did not start" in last.message and time.monotonic() - began < 5
    assert not client.alive


def test_a_worker_that_does_not_hear_cancel(start):
    client = start("deaf", stop_seconds=0.5)
    client.submit(job(client))
    while (
        not isinstance(event := wait(client, (p.Checkpoint, p.Failed)), p.Checkpoint)
        or "000001" not in event.path
    ):
        pass
    pid = client.pid
    client.cancel()
    began = time.monotonic()
    cancelled = wait(client, p.Cancelled)
    assert time.monotonic() - began < 3
    assert cancelled.paths["checkpoint"].endswith("000001") and "snapshot.npz" in cancelled.paths
    assert not client.alive
    gone(pid)


def test_closing_one_that_ignores_everything(start):
    client = start("hangs")
    client.warm_up()
    while client.pid is None:
        time.sleep(0.01)
    time.sleep(0.5)
    began = time.monotonic()
    thread = client.close_soon(0.3)
    assert time.monotonic() - began < 0.25  # the window goes on, while the closing takes more than 0.3 s
    assert not client.alive
    thread.join(10)
    assert not thread.is_alive() and time.monotonic() - began < 5


def test_closing_one_that_is_being_started(start):
    client = start("good")
    client.warm_up()
    client.close(5.0)
    assert not client.alive
    assert isinstance(run(client)[-1], p.Finished)  # and a new one can be had


def test_a_flood(start):
    """Ten thousand events that nobody fetches: few are kept, the end is, and the memory does not grow."""
    client = start("floods")
    client.submit(job(client))
    slowest, until = 0.0, time.monotonic() + 60
    while client.busy and time.monotonic() < until:
        began = time.thread_time()
        client.alive, client.busy, client.idle_seconds  # noqa: B018  what a panel asks
        slowest = max(slowest, time.thread_time() - began)
        time.sleep(0.05)
    assert slowest < 0.01
    events = []
    while got := client.poll():
        assert len(got) <= 200
        events += got
    assert len(events) <= client_module.LIMIT + 1
    assert isinstance(events[-1], p.Finished)
    assert [e.stage for e in events if isinstance(e, p.Started)][-1] == "deliver"


def test_cancel_in_a_flood(start):
    client = start("floods", stop_seconds=1.0)
    client.submit(job(client))
    wait(client, p.Warning)
    client.cancel()
    assert isinstance(wait(client, p.Cancelled, 5), p.Cancelled)


def test_a_poll_takes_no_time(start):
    """What the window pays for a tick while a job runs."""
    client = start("slow", 0.5)
    client.submit(job(client))
    took, until = [], time.monotonic() + 2
    while time.monotonic() < until:
        began = time.thread_time()
        client.poll()
        took.append(time.thread_time() - began)
        time.sleep(0.02)
    assert max(took) < 0.01


def test_the_worker_s_surroundings(tmp_path, monkeypatch):
    """Blender's Python leaves no trace in the worker's, and nothing is written into the extension's folder. What is
    compiled is kept, whatever the user's shell says: without it torch is compiled at every start."""
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "VIRTUAL_ENV"):
        monkeypatch.setenv(name, "/blender")
    code = (
        "import os, sys, time; absent = 'PYTHONDONTWRITEBYTECODE', 'PYTHONHOME', 'VIRTUAL_ENV';"
        " sys.stderr.write(repr((*map(os.environ.get, absent), os.environ['PYTHONPATH'],"
        " os.environ['PYTHONPYCACHEPREFIX'], os.getcwd(), os.environ['MINE'])));"
    )
    root = tmp_path / "jobs é"
    client = Client("", ROOT, root, command=[sys.executable, "-c", code], environment={"MINE": "yes"})
    said = run(client)[-1].detail
    assert said == repr((None, None, None, str(ROOT), str(root / ".pycache"), str(root), "yes"))
    python = tmp_path / "env-1" / "bin" / "python"
    assert pycache_of(python, root) == root / ".pycache"
    python.parent.mkdir(parents=True)
    (tmp_path / "env-1" / "pyvenv.cfg").write_text("")
    assert pycache_of(python, root) == tmp_path / "env-1" / "pycache"


@posix
def test_ctrl_c_in_blenders_terminal_does_not_reach_it(start):
    client = start("slow")
    client.submit(job(client))
    wait(client, p.Progress)
    assert os.getpgid(client.pid) != os.getpgid(0)


PARENT = """
import sys, time
from pathlib import Path
from dreamflow_blender.client.client import Client
from dreamflow_blender.contract import protocol as p
root, fake = Path(sys.argv[1]), sys.argv[2]
client = Client(sys.executable, Path.cwd(), root, command=[sys.executable, fake, "slow"])
client.submit(p.Job("1", "generate", "a ball", str(root / "job")))
while not any(isinstance(event, p.Progress) for event in client.poll()):
    time.sleep(0.01)
print(client.pid, flush=True)
time.sleep(1000) if sys.argv[3] == "killed" else sys.exit()
"""


@pytest.mark.parametrize("how", ["killed", "ends"])
def test_the_worker_goes_with_its_parent(tmp_path, how):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), FAKE, how], cwd=ROOT, stdout=subprocess.PIPE
    )
    worker = psutil.Process(int(parent.stdout.readline()))
    if how == "killed":
        parent.kill()
    assert (parent.wait(10) == 0) == (how == "ends")
    parent.stdout.close()
    worker.wait(5)


def test_many_clients_leave_no_threads(start):
    before = threading.active_count()
    for number in "123":
        client = start("good", 0.05)
        run(client, number)
        client.close(2)
    until = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.05)
    assert threading.active_count() <= before


@pytest.mark.slow
def test_the_real_worker(tmp_path):
    """A real job on a prior that knows a ball, paused, resumed by another client, to the end."""
    from tests.tools.tiny import OVERRIDES

    client = Client(
        "",
        ROOT,
        tmp_path / "jobs é",
        command=[sys.executable, str(ROOT / "tests" / "tools" / "worker_child.py")],
    )
    made = p.Job(
        "1",
        "generate",
        "a ball",
        str(tmp_path / "jobs é" / "ball"),
        overrides=OVERRIDES,
        threads=1,
        checkpoint_seconds=0,
    )
    try:
        client.submit(made)
        wait(client, p.Checkpoint, 120)
        assert client.pause()
        wait(client, p.Paused, 60)
        assert client.cancel()
        assert "checkpoint" in wait(client, p.Cancelled, 10).paths
        client.resume(made.folder)
        events = list(client.events())
        assert isinstance(events[-1], p.Finished), events[-1]
        assert Path(events[-1].paths["mesh.npz"]).is_file()
    finally:
        client.close()
    assert not client.alive
