"""The parts that need no bpy: words, folders, tasks, the backend's own commands."""

import json
import os
import stat
import sys
import time
from pathlib import Path

import pytest

from dreamflow_blender.backlog import work
from dreamflow_blender.backlog.entries import Entry
from dreamflow_blender.backlog.running import LOSSES, SHARES, Running
from dreamflow_blender.client import command
from dreamflow_blender.client.background import Stop, Stopped
from dreamflow_blender.client.process import proxy_variables
from dreamflow_blender.client.steps import Progress
from dreamflow_blender.contract import protocol as p
from dreamflow_blender.contract import words
from dreamflow_blender.session import tasks


def job(folder, **fields):
    return work.new_job(folder, fields.pop("prompt", "a red mug"), **fields)


def test_durations():
    assert [words.duration(s) for s in (0.2, 59, 61, 3600, 5000)] == [
        "1 s",
        "59 s",
        "1 min",
        "1 h",
        "1 h 23 min",
    ]
    assert [words.clock(s) for s in (-1, 5, 750, 3723)] == ["0:00", "0:05", "12:30", "1:02:03"]


@pytest.mark.parametrize(
    "text", ["", "one", "a few words that wrap", "C:/a/very/long/path/" + "x" * 90, "two\nlines"]
)
def test_wrapping_loses_nothing(text):
    lines = words.wrap(text, 12)
    assert "".join(lines).replace(" ", "") == "".join(text.split())
    assert all(0 < len(line) <= 12 for line in lines)


def test_wrapping_by_measure():
    """Wide letters, and a language without spaces."""
    assert words.wrap("iii WWW iii", 6, lambda line: sum(2 if c == "W" else 0.5 for c in line)) == [
        "iii",
        "WWW",
        "iii",
    ]
    assert words.wrap("赤いマグカップ", 3) == ["赤いマ", "グカッ", "プ"]


def test_a_window_asks_for_no_command_line():
    todo = "Fetch it (2.6 GB): python -m backend models fetch sd. Or choose the built-in model. Use --prior. Try again."
    assert words.without_commands(todo) == "Or choose the built-in model. Try again."


def test_what_is_said_of_a_model_is_what_the_backend_fetches():
    from backend.weights.catalogue import DEFAULTS

    stated = {m.name: (m.title, round(m.approximate_size / 1e9, 1), m.licence) for m in DEFAULTS}
    assert {name: stated[name] for name in work.STATED} == work.STATED


def test_shortening():
    assert words.shorten("a red mug", 9) == "a red mug" and words.shorten("a red mug", 6) == "a red…"
    assert words.shorten_start("/a/b/c", 6) == "/a/b/c" and words.shorten_start("/home/me/df", 6) == "…me/df"


def test_sparkline():
    assert words.sparkline([1.0], 8) == ""
    assert words.sparkline([0.0, 1.0], 8) == "▁█"
    assert len(words.sparkline([float(i) for i in range(600)], 24)) == 24
    assert words.sparkline([2.0] * 50, 8) == "▁" * 8


def test_in_folder(tmp_path):
    mug, said = work.in_folder(job(tmp_path), tmp_path / "mug")
    assert said == "new" and mug.folder == str(tmp_path / "mug")
    (tmp_path / "mug").mkdir()
    record = {"job": json.loads(p.encode_job(mug)), "settings": {"nerf": {"size": 64}}}
    (tmp_path / "mug" / "job.json").write_text(json.dumps(record))
    again, said = work.in_folder(job(tmp_path), tmp_path / "mug")
    assert said == "resume" and again.id == mug.id
    assert work.read_settings(tmp_path / "mug")["nerf"]["size"] == 64
    for name in ("mesh.npz", "albedo.png"):
        (tmp_path / "mug" / name).write_bytes(b"x")
    assert work.in_folder(job(tmp_path, threads=3), tmp_path / "mug")[1] == "done"  # the same object
    other, said = work.in_folder(job(tmp_path, seed=7), tmp_path / "mug")
    assert said == "new" and other.folder == str(tmp_path / "mug-2")
    (tmp_path / "mug" / "job.json").write_text("{")
    assert work.read_job(tmp_path / "mug") is None and work.read_settings(tmp_path / "mug") == {}


def test_discard_deletes_jobs_alone(tmp_path):
    root = tmp_path / "jobs"
    for name in ("a-job", "photos"):
        (root / name).mkdir(parents=True)
    (root / "a-job" / "job.json").write_text("{}")
    (root / "photos" / "cat.png").write_bytes(b"x")
    (tmp_path / "job.json").write_text("{}")
    for folder in (root / "a-job", root / "photos", tmp_path, root, root / "nowhere"):
        work.discard(folder, root)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cat.png", "job.json", "jobs", "photos"]


def test_running_hears():
    now = Running(Entry(job(Path("x"))), (*p.STAGES, "deliver"))
    assert now.share() == "0 %"
    now.hear(p.Started("texture", 100))
    for number in range(LOSSES + 9):
        now.hear(p.Progress("texture", 1, 10, 50, 100, 3.0, float(number)))
    done = sum(SHARES[stage] for stage in ("nerf", "geometry")) + SHARES["texture"] / 2
    assert now.whole() == pytest.approx(done / sum(SHARES[stage] for stage in now.stages))
    assert (
        now.share() == f"{100 * now.whole():.0f} %" and len(now.losses) == LOSSES and now.seconds_left == 3.0
    )
    now.asked = "pause"
    now.hear(p.Paused())
    assert now.paused and not now.asked
    for number in range(30):
        now.hear(p.Warning(str(number)))
    assert now.warnings[-1] == "29" and len(now.warnings) == 10
    now.hear(p.Warning("Other programs are busy, so this job uses one thread. --threads decides otherwise."))
    assert now.warnings[-1] == "Other programs are busy, so this job uses one thread."
    now.hear(p.Warning("Give --threads 2."))
    assert now.warnings[-1] == "Give --threads 2."  # better than silence
    now.hear(p.Started("refine", 10))
    assert not now.losses and now.seconds_left is None


def test_progress_counts_each_stage_as_long_as_it_was_measured_to_take():
    now = Running(
        Entry(job(Path("x"))),
        ("nerf", "texture", "deliver"),
        measured={"nerf": 60, "texture": 30, "deliver": 10},
    )
    now.hear(p.Progress("texture", 1, 3, 1, 2, 15.0, 0.1))
    assert now.whole() == pytest.approx(0.75) and now.whole_seconds_left() == pytest.approx(25)
    now.measured = {}
    left = 15 * (1 + SHARES["deliver"] / (SHARES["texture"] / 2))
    assert now.whole_seconds_left() == pytest.approx(left)
    now.hear(p.Started("deliver", 0))
    assert now.whole_seconds_left() is None


@pytest.fixture
def idle_tasks():
    yield
    tasks.stop()
    tasks.dismiss()


def run_tasks():
    until = time.monotonic() + 20
    while tasks.current is not None:
        assert time.monotonic() < until
        tasks.tick()
        time.sleep(0.01)


def test_tasks(idle_tasks):
    def work_of(stop):
        yield Progress(0.5, "half", "look")
        yield {"event": "progress", "name": "sd", "done": 1e9, "total": 4e9}

    heard = []
    tasks.begin("setup", "Setting up", work_of, heard.extend)
    with pytest.raises(RuntimeError, match="Setting up is still running"):
        tasks.begin("check", "Checking", work_of)
    run_tasks()
    assert len(heard) == 2 and tasks.problem is None

    lines = []

    def slow(stop):
        for note in ("", "no answer; trying again in 8 s"):
            yield {"event": "progress", "name": "sd", "done": 1e9, "total": 4e9, "note": note}

    tasks.begin("fetch", "Fetching", slow, lambda said: lines.append(task.line))
    task = tasks.current
    run_tasks()
    assert lines == ["sd  no answer; trying again in 8 s"] and task.fraction == 0.25

    def broken(stop):
        raise command.CommandError("No.", "Do this.", "log")
        yield

    tasks.begin("check", "Checking", broken)
    run_tasks()
    assert (tasks.problem.message, tasks.problem.todo, tasks.problem.log) == ("No.", "Do this.", "log")


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_commands(tmp_path):
    def python(text):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def said(text, stop=None):
        return list(
            command.run_backend(python(text), tmp_path, tmp_path / "root", ["doctor"], stop or Stop())
        )

    assert said("""echo 'a print'; echo '{"event": "check"}'; exit 1""") == [{"event": "check"}]
    with pytest.raises(command.CommandError, match="No space") as caught:
        said("""echo '{"event": "failed", "message": "No space.", "todo": "Free some."}'; exit 1""")
    assert caught.value.todo == "Free some."
    with pytest.raises(command.CommandError) as caught:
        said("echo dreadful >&2; exit 9")
    assert caught.value.log == "dreadful" and "code 9" in caught.value.message
    with pytest.raises(command.CommandError, match="cannot be started"):
        list(command.run_backend(tmp_path / "nowhere", tmp_path, tmp_path, ["doctor"], Stop()))
    stop = Stop()
    stop.ask()
    with pytest.raises(Stopped):
        said("sleep 100", stop)


def test_the_package_imports_without_bpy():
    import dreamflow_blender

    assert callable(dreamflow_blender.register) and callable(dreamflow_blender.generate)
    assert "bpy" not in sys.modules or sys.modules["bpy"].__file__


def test_a_proxy_of_the_preferences_goes_before_the_systems(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert proxy_variables("") == {}
    monkeypatch.setenv("https_proxy", "http://system.test:1")
    assert proxy_variables("") == dict.fromkeys(("https_proxy", "HTTPS_PROXY"), "http://system.test:1")
    everything = proxy_variables("http://mine.test:2")
    assert len(everything) == 6 and set(everything.values()) == {"http://mine.test:2"}
