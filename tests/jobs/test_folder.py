"""A job's folder: names that every system takes, and nobody else's files touched."""

import os
from contextlib import closing
from pathlib import Path

import pytest

from backend.errors import DiskError, InputError
from backend.jobs import folder as jobs_folder
from dreamflow_blender.contract import jobfolder
from dreamflow_blender.contract import protocol as p


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("a red mug", "a-red-mug"),
        ("A Red MUG!!", "a-red-mug"),
        ("Ein großer Käse", "ein-groer-kase"),
        ("../../etc/passwd", "etc-passwd"),
        ("C:\\Windows\\*?", "c-windows"),
        ("con", "con-object"),
        ("Com1.", "com1-object"),
        ("🐟", "object"),
        ("...", "object"),
        ("a red mug...", "a-red-mug"),
        ("x" * 100, "x" * 48),
        ("y" * 47 + " z", "y" * 47),
    ],
)
def test_slugs_are_names_on_every_system(prompt, name):
    assert jobfolder.slug(prompt) == name


def test_the_default_folder_has_the_seed(tmp_path):
    assert jobs_folder.default_folder("a red mug", 42, tmp_path) == tmp_path / "a-red-mug-42"


def test_prompts():
    assert jobs_folder.clean_prompt(" a\nred\tmug \x07") == "a red mug"
    assert jobs_folder.clean_prompt("a fish 🐟") == "a fish 🐟"
    for empty in ("", "  \n\t"):
        with pytest.raises(InputError, match="empty"):
            jobs_folder.clean_prompt(empty)
    with pytest.raises(InputError, match="at most 1,000 characters, got 10,000"):
        jobs_folder.clean_prompt("x" * 10_000)


def test_a_folder_is_made_with_its_parents(tmp_path):
    folder = tmp_path / "out é" / "a b"
    jobs_folder.claim_folder(folder)
    assert folder.is_dir() and not list(folder.iterdir())
    jobs_folder.claim_folder(folder)  # an empty one is as good as a new one


def test_another_jobs_output_is_kept_unless_asked(tmp_path):
    for name in ("job.json", "mesh.glb", "notes.txt"):
        (tmp_path / name).write_text("old")
    with pytest.raises(InputError, match=r"already holds a job.*--overwrite"):
        jobs_folder.claim_folder(tmp_path)
    jobs_folder.claim_folder(tmp_path, overwrite=True)
    assert len(list(tmp_path.iterdir())) == 3
    jobs_folder.clear_folder(tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["job.json", "notes.txt"]


def test_a_foreign_folder_is_never_touched(tmp_path):
    (tmp_path / "mesh.glb").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"holds no job: mesh\.glb"):
            jobs_folder.claim_folder(tmp_path, overwrite)
    with pytest.raises(InputError, match="is a file"):
        jobs_folder.claim_folder(tmp_path / "mesh.glb")
    with pytest.raises(DiskError):
        jobs_folder.claim_folder(tmp_path / "mesh.glb" / "under")
    assert (tmp_path / "mesh.glb").read_text() == "mine"


def test_unwritable_output(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    for folder in (tmp_path, tmp_path / "new"):
        with pytest.raises(DiskError, match="permission"):
            jobs_folder.claim_folder(folder)


def test_names_that_some_system_cannot_have():
    for name in ("AUX.old", "nul", "COM1", "con .txt", "a:b", "a\nb", "what?", "a\\b", "mug.", "mug "):
        assert jobs_folder.unfit_name(name), name
    for name in ("console", "auxiliary", "..", ".hidden", "a b", "Käse 🐟", "com", "a.b"):
        assert jobs_folder.unfit_name(name) is None, name


def test_what_was_made_for_nothing_is_removed(tmp_path):
    made = jobs_folder.claim_folder(tmp_path / "a" / "b")
    assert made == [tmp_path / "a" / "b", tmp_path / "a"]
    (tmp_path / "a" / "mine.txt").write_text("")
    jobs_folder.release(made)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["mine.txt"]


def test_a_folder_whose_job_never_began_is_free(tmp_path):
    for name in ("lock", "log.txt", "object.npz"):
        (tmp_path / name).write_text("")
    with pytest.raises(InputError, match=r"not empty and holds no job: lock, log.txt, object.npz"):
        jobs_folder.claim_folder(tmp_path)
    assert jobs_folder.claim_folder(tmp_path, mesh=str(tmp_path / "object.npz")) == []
    (tmp_path / "object.npz").unlink()
    assert jobs_folder.claim_folder(tmp_path) == []


def test_the_record_survives_a_torn_last_line(tmp_path):
    events = [p.Started("nerf", 2), p.Preview("é.png"), p.Cancelled({})]
    with closing(jobs_folder.EventLog(tmp_path)) as record:
        for event in events:
            record.write(event)
            assert jobs_folder.read_events(tmp_path)[-1] == event  # at once
    assert jobs_folder.read_events(tmp_path) == events
    log = tmp_path / "events.jsonl"
    log.write_bytes(log.read_bytes()[:-5])
    assert jobs_folder.read_events(tmp_path) == events[:2]
    log.write_bytes(b"garbage\n")
    with pytest.raises(DiskError, match="damaged"):
        jobs_folder.read_events(tmp_path)


def test_a_record_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(DiskError):
        jobs_folder.EventLog(tmp_path / "none")
    if Path("/dev/full").exists():
        (tmp_path / "events.jsonl").symlink_to("/dev/full")
        with pytest.raises(DiskError, match="full"), closing(jobs_folder.EventLog(tmp_path)) as record:
            record.write(p.Paused())


def test_results_are_what_there_is(tmp_path):
    (tmp_path / "mesh.glb").write_text("x")
    (tmp_path / "job.json").write_text("x")
    assert jobfolder.results(tmp_path) == {"mesh.glb": str(tmp_path / "mesh.glb")}
