"""The worker as its client sees it: jobs, requests in and out of order, what lands where."""

import contextlib
import dataclasses
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from dreamflow_blender.contract import protocol as p
from tests.tools.events import read_events
from tests.tools.worker_client import CHILD, ENVIRONMENT, fresh, long_job, start

__all__ = ["start"]  # a fixture


def sockets(pid):
    """What a process has open that others could talk to over a network."""
    found = psutil.Process(pid).net_connections()
    if sys.platform == "linux":
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                name = str(file.readlink())
                found += [name] if name.startswith("socket:") else []
    return found


@pytest.mark.slow
def test_one_job_after_the_other_and_never_a_socket(start, tmp_path):
    client = start()
    client.say(p.Hello())
    ready = client.until(p.Ready)
    assert ready.protocol == p.VERSION and ready.memory_gb > 0 and ready.versions["torch"]
    client.say(p.Generate(fresh(tmp_path / "a")))
    assert "one at a time" in client.refused(p.Generate(fresh(tmp_path / "b")))
    assert not sockets(client.process.pid)
    client.until_stage("texture")
    assert not sockets(client.process.pid)
    done = client.until(p.Finished)
    assert not sockets(client.process.pid)
    assert all(Path(path).is_relative_to(tmp_path / "a") for path in done.paths.values())
    assert Path(done.paths["mesh.npz"]).is_file() and not (tmp_path / "b").exists()
    assert 0 <= done.figures["share_checkpoints"] < 1 and 0 <= done.figures["share_pictures"] < 1
    log = (tmp_path / "a" / "log.txt").read_text()
    assert "a library talks\n" in log and "and its C code, too\n" in log
    assert "has begun before" in client.refused(p.Generate(fresh(tmp_path / "b")))
    again = dataclasses.replace(fresh(tmp_path / "b"), id="another")
    client.say(p.Generate(again))
    client.until(p.Finished)
    for name in ("mesh.npz", "albedo.png"):  # a process that has worked before gives the same
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    client.say(p.Shutdown())
    assert client.ends(5) == 0


def test_a_job_that_cannot_begin_leaves_nothing(start, tmp_path):
    client = start()
    client.until(p.Ready)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "novel.txt").write_text("mine")
    for change, kind in (
        ({"folder": str(tmp_path / "full")}, "input"),
        ({"overrides": {"nerf.wings": 2}}, "input"),
        ({"folder": str(tmp_path / ("x" * 300))}, "disk"),
    ):
        client.say(p.Generate(dataclasses.replace(fresh(tmp_path / "a"), **change)))
        while not isinstance(event := client.next(), p.Failed):
            pass
        assert event.kind == kind and event.message and event.todo
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]
    assert "half a character" in client.refused(
        p.Generate(dataclasses.replace(fresh(tmp_path / "a"), folder="\ud800"))
    )
    client.say(p.Generate(fresh(tmp_path / "a")))  # the same id: it has never begun
    client.until(p.Started)


@pytest.mark.slow
def test_requests_out_of_order_change_nothing(start, tmp_path):
    client = start()
    client.until(p.Ready)
    for request in (p.Pause(), p.Continue(), p.Finish(), p.Cancel()):
        assert "No job" in client.refused(request)
    assert "version 1" in client.refused(p.Hello(99))
    client.say(p.Generate(long_job(tmp_path / "a")))
    client.until(p.Progress)
    assert "not paused" in client.refused(p.Continue())
    client.say(p.Pause())
    client.say(p.Pause())
    assert "pause already" in client.until(p.Refused).message
    client.until(p.Paused)
    client.say(p.Continue())
    client.until(p.Progress)
    client.say(p.Finish())
    client.say(p.Finish())
    assert "finish already" in client.until(p.Refused).message
    assert client.until(p.Finished)


@pytest.mark.slow
def test_pause_stands_still_and_finish_delivers_with_progress(start, tmp_path):
    client = start()
    client.say(p.Generate(long_job(tmp_path / "a")))
    client.until(p.Progress)
    asked = time.monotonic()
    client.say(p.Pause())
    client.until(p.Paused)
    assert time.monotonic() - asked < 2.5  # 2 s, and a machine that is busy
    used = sum(psutil.Process(client.process.pid).cpu_times()[:2])
    time.sleep(1)
    assert client.events.empty()
    assert sum(psutil.Process(client.process.pid).cpu_times()[:2]) - used < 0.3
    client.say(p.Finish())  # from a pause, too
    steps = []
    while not isinstance(event := client.next(), p.Finished):
        if isinstance(event, p.Progress) and event.stage == "deliver":
            steps.append(event.iteration)
    assert steps == [1, 2, 3, 4, 5]
    assert event.figures["faces"] > 0
    assert isinstance(read_events(tmp_path / "a")[-1], p.Finished)


@pytest.mark.slow
def test_finish_at_once_delivers_the_ball_that_a_job_begins_with(start, tmp_path):
    client = start(LOADING="2")
    client.until(p.Ready)
    client.say(p.Generate(fresh(tmp_path / "a")))
    client.say(p.Finish())
    assert client.until(p.Finished).figures["faces"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("where", ["loop", "unwrap"])
def test_cancel_keeps_a_checkpoint_and_the_worker(start, tmp_path, where):
    client = start(**({"UNWRAP": "1000"} if where == "unwrap" else {}))
    client.until(p.Ready)
    job = fresh(tmp_path / "a") if where == "unwrap" else long_job(tmp_path / "a")
    client.say(p.Generate(job))
    if where == "unwrap":
        client.until_stage("deliver")
    else:
        client.until(p.Progress)
    client.say(p.Cancel())
    cancelled = client.until(p.Cancelled)
    assert "checkpoint" in cancelled.paths and not (tmp_path / "a" / "mesh.glb").exists()
    assert read_events(tmp_path / "a")[-1] == cancelled
    client.say(p.Hello())
    assert client.until(p.Ready)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["load", "iteration"])
def test_a_pause_where_nobody_looks(start, tmp_path, where):
    """A long iteration and a model load: one sleep in C, which ends during the pause."""
    client = start(**({"LOADING": "3"} if where == "load" else {"ITERATION": "3"}))
    client.until(p.Ready)
    client.say(p.Generate(fresh(tmp_path / "a")))
    if where == "iteration":
        client.until(p.Started)
    asked = time.monotonic()
    client.say(p.Pause())
    client.until(p.Paused)
    assert time.monotonic() - asked < 2.5
    time.sleep(3)
    assert client.events.empty()
    client.say(p.Continue())
    client.until(p.Progress)


@pytest.mark.slow
def test_a_job_for_a_worker_that_is_starting(start, tmp_path):
    """Heard before torch is there: it waits, and can be cancelled."""
    client = start()
    client.say(p.Generate(fresh(tmp_path / "a")))
    client.say(p.Cancel())
    assert client.until(p.Cancelled).paths == {}
    client.say(p.Generate(fresh(tmp_path / "a")))
    client.until(p.Finished)


@pytest.mark.slow
def test_cancelled_resumes_in_another_worker(start, tmp_path):
    one = start()
    one.say(p.Generate(fresh(tmp_path / "whole")))
    one.until(p.Finished)
    one.say(p.Generate(dataclasses.replace(fresh(tmp_path / "cut"), id="2", checkpoint_seconds=0.0)))
    for _ in range(5):
        one.until(p.Checkpoint)
    one.say(p.Cancel())
    assert "checkpoint" in one.until(p.Cancelled).paths
    one.say(p.Shutdown())
    assert one.ends(5) == 0
    other = start()
    other.say(p.Resume(str(tmp_path / "cut")))
    other.until(p.Finished)
    for name in ("mesh.npz", "albedo.png"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    before = read_events(tmp_path / "cut")
    for folder, words in (("cut", "is finished"), ("nowhere", "no job")):
        other.say(p.Resume(str(tmp_path / folder)))
        while not isinstance(event := other.next(), p.Failed):
            pass
        assert event.kind == "input" and words in event.message
    assert read_events(tmp_path / "cut") == before  # it is finished still


@pytest.mark.parametrize(
    "where",
    ["start", "idle", *(pytest.param(w, marks=pytest.mark.slow) for w in ("loop", "load", "iteration"))],
)
def test_the_end_of_input_ends_the_worker(start, tmp_path, where):
    client = start(**{"load": {"LOADING": "30"}, "iteration": {"ITERATION": "30"}}.get(where, {}))
    if where != "start":
        client.until(p.Ready)
    if where not in ("start", "idle"):
        client.say(p.Generate(long_job(tmp_path / "a")))
    if where in ("loop", "iteration"):
        client.until(p.Started)
    time.sleep(0.5)
    gone = time.monotonic()
    client.close()
    assert client.ends(30) == 0
    took = time.monotonic() - gone
    print(f"the end of input, {where}: {took:.2f} s")
    assert took < 5
    if where == "loop":
        assert list((tmp_path / "a" / "checkpoints").iterdir())


@pytest.mark.slow
def test_terminated_is_as_good_as_the_end_of_input(start, tmp_path):
    client = start()
    client.say(p.Generate(long_job(tmp_path / "a")))
    client.until(p.Progress)
    client.process.terminate()
    client.ends(5)
    if sys.platform != "win32":  # which kills
        assert list((tmp_path / "a" / "checkpoints").iterdir())


@pytest.mark.slow
def test_a_second_worker_keeps_off(start, tmp_path):
    one, other = start(), start()
    one.say(p.Generate(long_job(tmp_path / "a")))
    one.until(p.Progress)
    other.say(p.Resume(str(tmp_path / "a")))
    while not isinstance(event := other.next(), p.Failed):
        pass
    assert f"number {one.process.pid}" in event.message
    one.until(p.Progress)


def test_a_client_that_does_not_read():
    """Its pipe fills up, and it may say no more; once it is gone the worker goes, too."""
    process = subprocess.Popen(
        [sys.executable, str(CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    )
    assert process.stdin is not None and process.stdout is not None

    def flood():
        with contextlib.suppress(OSError):
            for _ in range(100_000):
                process.stdin.write(b"?\n" * 1000)

    writer = threading.Thread(target=flood, daemon=True)
    writer.start()
    writer.join(3)
    assert writer.is_alive()  # held up
    assert psutil.Process(process.pid).memory_info().rss < 2e9
    process.stdout.close()
    assert process.wait(10) == 0
