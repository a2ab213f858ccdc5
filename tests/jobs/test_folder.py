"""A job's folder: names that every system takes, and nobody else's files touched."""

import ast
import os
from contextlib import closing
from pathlib import Path

import pytest

from backend.errors import DiskError, InputError
from backend.jobs import folder as jobs_folder
from dreamflow_blender.backlog import work
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
    assert jobs_folder.default_folder(prompt, 1, Path()).name == f"{name}-1"
    assert (
        work.new_folder(Path(), prompt, 1).name[:-6] == f"{name}-1"
    )  # the panel's and the command line's are one


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


def test_all_that_a_job_leaves_is_cleared_but_the_mesh_that_the_new_one_begins_with(tmp_path):
    """An older refine job's object, UVs, pictures and further textures once stayed beside a new job's files."""
    files = jobfolder.JobFolder(tmp_path)
    everything = [
        path for path in vars(files).values() if path not in (tmp_path, files.checkpoints, files.lock)
    ]
    everything += [
        jobfolder.indexed_filename(p, n) for p in (files.albedo, files.snapshot_png) for n in (2, 11)
    ]
    for path in (*everything, tmp_path / "albedo_mine.png"):
        path.write_text("old")
    (files.checkpoints / "000001-nerf-1").mkdir(parents=True)
    jobs_folder.clear_folder(tmp_path, str(files.object_glb))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["albedo_mine.png", "job.json", "object.glb"]


def test_the_names_of_a_job_s_files_stand_in_one_place():
    root = Path(__file__).resolve().parents[2]
    files = jobfolder.JobFolder("")
    names = {path.name for path in vars(files).values()} - {
        "",
        files.lock.name,
        files.log.name,
    }  # others have these
    found = []
    for package in ("backend", "dreamflow_blender"):
        for path in (root / package).rglob("*.py"):
            if path.name == "jobfolder.py":
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"))
            literals = (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and n.value in names)
            found += [f"{path.relative_to(root)}:{node.lineno} {node.value}" for node in literals]
    assert not found, found


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
    folder = jobfolder.JobFolder(tmp_path)
    assert folder.recent_events() == []
    events = [p.Started("nerf", 2), p.Preview("é.png"), p.Cancelled({})]
    with closing(jobs_folder.EventLog(tmp_path)) as record:
        for event in events:
            record.write(event)
            assert folder.last_event() == event  # at once
    assert folder.recent_events() == events
    log = tmp_path / "events.jsonl"
    log.write_bytes(log.read_bytes()[:-5])
    assert folder.recent_events() == events[:2]
    log.write_bytes(b"garbage\n" + log.read_bytes())
    assert folder.recent_events() == events[:2]
    log.write_bytes(log.read_bytes() + b"garbage\n")
    assert folder.recent_events() == [] and folder.last_event() is None
    line = p.encode(p.Warning("a long one " * 1000)).encode() + b"\n"
    log.write_bytes(20 * line + p.encode(p.Paused()).encode() + b"\n")  # more than is read
    assert (
        folder.last_event() == p.Paused() and len(folder.recent_events()) == jobfolder.TAIL // len(line) + 1
    )


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
    folder = jobfolder.JobFolder(tmp_path)
    assert folder.result_files() == folder.recoverable_files() == {"mesh.glb": str(tmp_path / "mesh.glb")}
    for name in ("000002-nerf-1", "000010-nerf-2", ".000011-nerf-3.part"):
        (folder.checkpoints / name).mkdir(parents=True)
    folder.snapshot.write_text("x")
    assert set(folder.recoverable_files()) == {"mesh.glb", "snapshot.npz", "checkpoint"}
    assert folder.recoverable_files()["checkpoint"] == str(folder.checkpoints / "000010-nerf-2")
