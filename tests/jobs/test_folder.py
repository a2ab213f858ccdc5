"""A job's folder: names that every system takes, and nobody else's files touched."""

import ast
import os
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from backend.errors import DiskError, InputError
from backend.jobs import folder as jobs_folder
from backend.jobs.drive import drive
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
    refined = jobs_folder.default_folder("a red mug", 42, tmp_path, "refine")
    assert refined == tmp_path / "a-red-mug-42-refined"


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


def test_all_that_a_job_leaves_is_cleared_but_what_the_new_one_has_replaced(tmp_path):
    """An older refine job's object, UVs, pictures and further textures once stayed beside a new job's files."""
    files = jobfolder.JobFolder(tmp_path)
    everything = [path for path in vars(files).values() if path not in (tmp_path, files.checkpoints)]
    everything += [
        jobfolder.indexed_filename(p, n) for p in (files.albedo, files.snapshot_png) for n in (2, 11)
    ]
    for path in (*everything, tmp_path / "albedo_mine.png"):
        path.write_text("old")
    (files.checkpoints / "000001-nerf-1").mkdir(parents=True)
    jobs_folder.clear_folder(tmp_path)
    new = ["job.json", "lock", "object.glb", "object.mtl", "object.npz", "object.obj"]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["albedo_mine.png", *new]


def test_a_mesh_that_the_job_would_replace_is_refused_by_whatever_path(tmp_path, monkeypatch):
    """`refine out/x-42/mesh.glb "x" --overwrite` deleted its own input."""
    job, other = tmp_path / "job", tmp_path / "other"
    (job / "checkpoints").mkdir(parents=True)
    for name in ("job.json", "mesh.glb", "albedo_2.png", "object.glb", "checkpoints/a.glb", "mine.glb"):
        (job / name).write_text(name)
    other.symlink_to(job)
    (tmp_path / "link.glb").symlink_to(job / "mesh.glb")
    monkeypatch.chdir(tmp_path)
    for mesh in (
        "job/mesh.glb",
        "job/../job/mesh.glb",
        "other/mesh.glb",
        "link.glb",
        "job/checkpoints/a.glb",
    ):
        for folder in (job, other, Path("job")):
            with pytest.raises(InputError, match=r"would replace it.*--out"):
                jobs_folder.claim_folder(folder, True, mesh)
    for mesh in ("job/object.glb", "job/mine.glb"):  # kept, and no file of a job
        jobs_folder.claim_folder(job, True, mesh)


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
    assert folder.last_event() is None and folder.last_progress() is None
    step = p.Progress("nerf", 1, 4, 1, 4)
    events = [p.Started("nerf", 2), step, p.Preview("é.png"), p.Cancelled({})]
    with closing(jobs_folder.EventLog(tmp_path)) as record:
        for event in events:
            record.write(event)
            assert folder.last_event() == event  # at once
    log = tmp_path / "events.jsonl"
    log.write_bytes(log.read_bytes()[:-5])
    assert folder.last_event() == events[2] and folder.last_progress() == step
    log.write_bytes(log.read_bytes() + b"garbage\n")
    assert folder.last_event() is None


def test_of_a_long_record_only_the_end_is_read(tmp_path, monkeypatch):
    """2,000 jobs took 33 s to list: every event of the last 128 KiB of each was checked."""
    folder, decoded = jobfolder.JobFolder(tmp_path), []
    monkeypatch.setattr(jobfolder, "decode", lambda line: decoded.append(line) or p.decode(line))
    line = p.encode(p.Progress("nerf", 1, 400, 5, 2000)).encode() + b"\n"
    (tmp_path / "events.jsonl").write_bytes(20_000 * line + p.encode(p.Paused()).encode() + b"\n")
    assert folder.last_event() == p.Paused() and folder.last_progress() == p.Progress("nerf", 1, 400, 5, 2000)
    assert len(decoded) == 2


def test_a_record_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(DiskError):
        jobs_folder.EventLog(tmp_path / "none")


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


def test_a_failure_fits_on_its_line(tmp_path):
    """The path of a request's whole line was said twice, in six bytes a letter: the worker ended without a word."""
    end = drive(p.Resume("é" * 500_000), lambda: None, lambda event: None)
    assert isinstance(end, p.Failed) and len(p.encode(end)) < p.MAX_LINE


@pytest.mark.parametrize(
    "name", ["x" * 300, "a/" * 1900, "a/" * 3000, "x" * 300 + "/y", "\udc80", "~nobody/x"]
)
def test_no_name_of_a_folder_is_a_bug(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    job = p.Job("1", "generate", "a red mug", name)
    for request in (
        p.Resume(name),
        p.Generate(job),
        p.Refine(replace(job, kind="refine", mesh=f"{name}.glb", stages=("refine",))),
    ):
        end = drive(request, lambda: None, lambda event: None, run=no_run)
        assert isinstance(end, p.Failed) and end.kind in ("input", "disk")


def test_two_processes_may_claim_a_folder_at_once(tmp_path, monkeypatch):
    """The slower one failed with "File exists", and took the folder away from the faster one."""
    real = os.unlink

    def unlink(path, **options):  # the other's probe comes right after
        with suppress(FileNotFoundError):
            real(path, **options)
        monkeypatch.setattr(os, "unlink", real)
        Path(path).touch()

    monkeypatch.setattr(os, "unlink", unlink)
    assert jobs_folder.claim_folder(tmp_path / "job") == [tmp_path / "job"]


def test_a_job_that_began_and_ended_since_the_folder_was_claimed_is_kept(tmp_path, monkeypatch):
    """Two workers, one new folder, at once: the slower one took the folder when the faster one had ended."""
    folder = tmp_path / "job"
    claim = jobs_folder.claim_folder

    def other_is_faster(*arguments):
        made = claim(*arguments)
        monkeypatch.setattr("backend.jobs.drive.claim_folder", claim)
        ends.append(
            drive(p.Generate(p.Job("1", "generate", "a red mug", str(folder))), *ignored, run=ends_at_once)
        )
        return made

    def ends_at_once(request, control):
        jobs_folder.JobFolder(folder).job.write_text(request.job.id)
        jobs_folder.JobFolder(folder).log.touch()
        yield p.Cancelled({})

    ignored = (lambda: None, lambda event: None)
    ends = []
    monkeypatch.setattr("backend.jobs.drive.claim_folder", other_is_faster)
    ends.append(
        drive(p.Generate(p.Job("2", "generate", "a red mug", str(folder))), *ignored, run=ends_at_once)
    )
    assert [type(end) for end in ends] == [p.Cancelled, p.Failed] and "already holds a job" in ends[1].message
    assert (
        jobs_folder.JobFolder(folder).job.read_text() == "1" and jobs_folder.JobFolder(folder).log.is_file()
    )


def no_run(request, control):
    raise InputError("It is not to begin.")
    yield
