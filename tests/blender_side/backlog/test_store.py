"""The queue on disk: order, crashes, two Blenders, damage."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dreamflow_blender.backlog import store as backlog_store
from dreamflow_blender.backlog.entries import as_found
from dreamflow_blender.backlog.store import Entry, Store
from dreamflow_blender.contract import protocol as p

ROOT = Path(__file__).parents[3]


def entry(root, number, **changes):
    job = p.Job(number, "generate", f"thing {number}", str(root / "jobs" / number))
    return Entry(job, {"height": 1.5}, **changes)


def begin(one, *events):
    """What the backend writes into the folder of a job that it has begun."""
    one.folder.mkdir(parents=True, exist_ok=True)
    (one.folder / "job.json").write_text(json.dumps({"job": json.loads(p.encode_job(one.job))}))
    (one.folder / "events.jsonl").write_text("".join(p.encode(event) + "\n" for event in events))


def ids(entries):
    return [one.job.id for one in entries]


def test_order_is_kept_and_changed(tmp_path):
    root = tmp_path / "a folder é"
    store = Store(root)
    for number in "abc":
        store.put(entry(root, number))
    store.move("c", -1)
    store.move("a", -5)
    store.move("b", 7)
    store.move("nobody", 1)
    assert ids(store.waiting()) == ["a", "c", "b"]
    store.remove("c")
    store.put(store.find("a"))  # unchanged, so it stays where it is
    assert ids(Store(root).entries()) == ["a", "b"]
    found = Store(root).find("a")
    assert found.place == {"height": 1.5} and found.added > 0 and found.folder == root / "jobs" / "a"
    assert str(tmp_path) not in (root / "queue.json").read_text()  # the whole may be moved


def test_a_job_s_life(tmp_path):
    store = Store(tmp_path)
    one = store.put(entry(tmp_path, "a"))
    one = store.put(Entry(one.job, one.place, "running"))
    assert not store.waiting() and not store.history()
    store.put(entry(tmp_path, "b"))
    failed = p.Failed("memory", "Full.", "Smaller.")
    store.put(entry(tmp_path, "a", state="failed", error=failed, seconds=3.0, note="61 %"))
    again = Store(tmp_path)
    assert ids(again.history()) == ["a"] and again.find("a").error == failed and again.find("a").ended > 0
    again.put(entry(tmp_path, "a"))  # once more: to the queue's end
    assert ids(store.entries()) == ["b", "a"]


def test_jobs_of_a_kind_that_came_to_their_end(tmp_path):
    store = Store(tmp_path)
    ends = {"a": ("finished", ""), "b": ("finished", "61 %"), "c": ("failed", ""), "d": ("finished", "")}
    for added, (number, (state, note)) in enumerate(ends.items(), 1):
        store.put(entry(tmp_path, number, state=state, note=note, added=added, ended=added))
    assert ids(store.finished()) == ids(store.finished(kind="generate", preset="draft")) == ["d", "a"]
    assert store.finished(kind="refine") == store.finished(kind="generate", seed=7) == []


def test_a_job_that_died_is_offered(tmp_path):
    store = Store(tmp_path)
    for number in "abcd":
        store.put(entry(tmp_path, number, state="running"))
    begin(entry(tmp_path, "a"), p.Started("nerf", 10), p.Progress("nerf", 1, 5, 2, 10))
    begin(entry(tmp_path, "b"), p.Finished({}, {"faces": 12.0}))  # the worker lived a little longer
    begin(entry(tmp_path, "c"), p.Failed("disk", "Full.", "Free some."))
    assert ids(Store(tmp_path).entries()) == list("abcd") and not Store(tmp_path).to_offer()  # we live
    store._held.close()  # as the system does with a killed process
    later = Store(tmp_path)
    assert ids(later.to_offer()) == ["a"]
    assert {one.job.id: one.state for one in later.entries()} == {
        "a": "interrupted", "b": "finished", "c": "failed", "d": "waiting",
    }  # fmt: skip
    assert later.find("b").figures == {"faces": 12.0} and later.find("c").error.kind == "disk"
    assert ids(later.waiting()) == ["d"]  # the backend never heard of it


def test_a_torn_record(tmp_path):
    one = entry(tmp_path, "a", state="running")
    begin(one, p.Started("nerf", 10), p.Cancelled({}))
    with (one.folder / "events.jsonl").open("a") as file:
        file.write('{"event": "fini')
    assert as_found(one).state == "interrupted"
    (one.folder / "events.jsonl").write_bytes(b"\xff\xfe\n")
    assert as_found(one).state == "interrupted"


OTHER = """
import sys
import time
from dataclasses import replace
from pathlib import Path
from dreamflow_blender.backlog.store import Entry, Store
from dreamflow_blender.contract import protocol as p
root = Path(sys.argv[1])
store = Store(root)
for number, state in (("theirs", "waiting"), ("at work", "running")):
    store.put(Entry(p.Job(number, "generate", "a mug", str(root / "jobs" / number)), {}, state))
print("ready", flush=True)
sys.stdin.read()
"""


def test_two_blenders(tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert other.stdout.readline() == b"ready\n"
        store = Store(tmp_path)
        store.put(entry(tmp_path, "mine"))
        assert ids(store.entries()) == ["theirs", "at work", "mine"]
        assert ids(store.waiting()) == ["mine"]
        store.move("theirs", 1)
        with pytest.raises(ValueError, match="Another Blender"):
            store.remove("at work")
        with pytest.raises(ValueError, match="Another Blender"):
            store.put(entry(tmp_path, "at work"))
        begin(entry(tmp_path, "at work"))
    finally:
        other.kill()
        other.wait()
        other.stdin.close()
        other.stdout.close()
    assert ids(store.waiting()) == ["theirs", "mine"]
    assert ids(Store(tmp_path).to_offer()) == ["at work"]


def test_many_writers_lose_nothing(tmp_path):
    code = OTHER.replace(
        '(("theirs", "waiting"), ("at work", "running"))',
        "((f'{sys.argv[2]}-{n}', 'finished') for n in range(20))",
    )
    others = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name], stdin=subprocess.DEVNULL, cwd=ROOT,
                         stdout=subprocess.DEVNULL)
        for name in "xyz"
    ]  # fmt: skip
    assert [other.wait(60) for other in others] == [0, 0, 0]
    assert len(Store(tmp_path).entries()) == 60


@pytest.mark.parametrize("damage", ["", "{", '{"jobs": 3}', '{"jobs": [{"job": {}}]}', "[" * 99999])
def test_a_damaged_queue_is_found_again(tmp_path, damage):
    done = entry(tmp_path, "a")
    begin(done, p.Finished({}, {}))
    (tmp_path / "jobs" / "no job").mkdir()
    (tmp_path / "queue.json").write_text(damage)
    store = Store(tmp_path)
    assert ids(store.history()) == ["a"]
    assert (tmp_path / "queue.damaged.json").read_text() == damage
    store.put(entry(tmp_path, "b"))
    assert ids(Store(tmp_path).entries()) == ["a", "b"]


def test_a_full_disk_changes_nothing(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.put(entry(tmp_path, "a"))
    before = (tmp_path / "queue.json").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backlog_store, "write_atomic", full)
    with pytest.raises(OSError, match="No space"):
        store.put(entry(tmp_path, "b"))
    assert ids(store.entries()) == ["a"] and (tmp_path / "queue.json").read_bytes() == before


def test_a_long_history_is_quick(tmp_path):
    """A change among two hundred jobs is written by the window itself."""
    store = Store(tmp_path)
    many = [entry(tmp_path, str(number), state="finished") for number in range(200)]
    with store._changing():
        store._entries = many
    took = []
    for number in range(10):
        began = time.thread_time()
        store.put(replace(many[7], note=str(number)))
        took.append(time.thread_time() - began)
    assert sorted(took)[5] < 0.01
    again = Store(tmp_path)
    began = time.thread_time()
    assert len(again.history()) == 200
    print(f"\n200 jobs read for the first time: {1000 * (time.thread_time() - began):.0f} ms")
    assert time.thread_time() - began < 0.2  # 25 ms on an idle machine
    assert again.find("7").note == "9" and again.entries()[8] == store.entries()[8]
    store.put(replace(many[7], note="by another"))
    before = again.find("6")
    assert again._refresh() is None and again.find("6") is not None and again.find("7").note == "by another"
    assert again.find("6") is before  # read once


def test_a_change_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    """Blender's main thread writes it: an fsync takes tens of milliseconds."""
    monkeypatch.setattr(os, "fsync", lambda *_: pytest.fail("waited for the disk"))
    store = Store(tmp_path)
    store.put(entry(tmp_path, "a"))
    store.remove("a")


def test_what_is_no_json_is_refused(tmp_path):
    with pytest.raises(ValueError, match="place"):
        Store(tmp_path).put(Entry(entry(tmp_path, "a").job, {"height": float("nan")}))


def test_a_session_that_was_made_a_moment_ago_is_not_removed(tmp_path, monkeypatch):
    """Another Blender looked at it just before it was locked, and removed it just after."""
    mine, other = Store(tmp_path), Store(tmp_path)
    path = tmp_path / "sessions" / mine._own_session()
    monkeypatch.setattr(backlog_store, "is_held", lambda path: False)  # as it was when the other looked
    (tmp_path / "sessions" / "of-a-killed-one").touch()
    other._own_session()
    monkeypatch.undo()
    assert backlog_store.is_held(path) and not (tmp_path / "sessions" / "of-a-killed-one").exists()
    mine.close()
    other.close()
