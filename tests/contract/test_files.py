"""What lies in a job's folder is opened by one function, and never anything else by its name."""

import ast
import os
from pathlib import Path

import pytest

from backend.errors import DiskError, DreamFlowError
from backend.jobs import folder as jobs_folder
from backend.jobs.record import read_record
from backend.stages import checkpoint
from backend.stages.checkpoint_writer import listed
from backend.worker.streams import Output
from dreamflow_blender.contract import files, meshfile
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.locks import hold, is_held
from dreamflow_blender.contract.meshfile import BadMeshFile

KINDS = ("link", "pipe", "device", "folder")


def put(kind, path, victim):
    """Something under this name that is no file of ours."""
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        os.mknod(path, 0o020600, os.makedev(1, 5))  # /dev/zero
    else:
        path.mkdir()


@pytest.fixture(params=KINDS)
def kind(request):
    if os.name == "nt" and request.param != "folder":
        pytest.skip("needs a right that an ordinary user has not")
    if request.param == "device" and os.geteuid():
        pytest.skip("only root makes devices")
    return request.param


@pytest.mark.parametrize("mode", ["r", "r+", "a", "w"])
def test_only_a_plain_file_is_opened(tmp_path, kind, mode):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    put(kind, tmp_path / "a", victim)
    with pytest.raises(OSError, match=r"link|plain|No such device|directory|Permission"):
        files.open_plain(tmp_path / "a", mode)
    assert victim.read_text() == "mine"
    with files.open_plain(tmp_path / "new", "a") as file:
        file.write(b"x")
    assert files.read_plain(tmp_path / "new") == b"x"
    with pytest.raises(OSError, match="larger than 0 bytes"):
        files.read_plain(tmp_path / "new", 0)


def lock(folder):
    assert not is_held(folder.lock)
    with jobs_folder.locked(folder.path):
        pass


def log(folder):
    with Output(folder.log):
        os.write(2, b"words")


USES = {
    "lock": lock,
    "events.jsonl": lambda folder: jobs_folder.EventLog(folder.path).write(None),
    "log.txt": log,
    "job.json": lambda folder: jobs_folder.read_job(folder.path),
    "mesh.npz": lambda folder: meshfile.read(folder.mesh_npz),
    "snapshot.npz": lambda folder: meshfile.read_snapshot(folder.snapshot),
    "object.npz": lambda folder: meshfile.read_rows(folder.object_npz, "polygon"),
}


@pytest.mark.parametrize("name", USES)
def test_no_file_of_a_job_is_followed(tmp_path, kind, name):
    """A folder from somebody else, whose files lead to the user's own, once had `resume` write into those."""
    victim = tmp_path / "victim"
    victim.write_text("the last line has no end")
    job = tmp_path / "job"
    job.mkdir()
    put(kind, job / name, victim)
    with pytest.raises((DreamFlowError, BadMeshFile, OSError)):
        USES[name](JobFolder(job))
    assert victim.read_text() == "the last line has no end"


def test_the_probe_of_a_folder_is_its_own(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / ".probe").symlink_to(tmp_path / "victim")
    jobs_folder.claim_folder(tmp_path / "job")
    assert (tmp_path / "victim").read_text() == "mine" and not list((tmp_path / "job").iterdir())


def test_checkpoints_that_are_links_are_none(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "job" / "checkpoints").mkdir(parents=True)
    for name in ("000009-nerf-1", ".000002-nerf-1.part"):
        (tmp_path / "job" / "checkpoints" / name).symlink_to(elsewhere)
    assert listed(tmp_path / "job") == []
    saved = checkpoint.RunState("nerf", 1, 0, False, 0.5, None, {}, {})
    checkpoint.write(tmp_path / "job" / "checkpoints" / "000002-nerf-1", saved)
    assert not list(elsewhere.iterdir())


def test_a_file_without_an_end_is_not_read(tmp_path):
    for content in (b"[" * 100_000, b"{}x", b"[1]"):
        (tmp_path / "job.json").write_bytes(content)
        with pytest.raises(DreamFlowError):
            read_record(tmp_path)
    assert files.read_json(tmp_path / "job.json") is None


def test_the_names_of_a_job_are_opened_by_these_functions_alone():
    """Neither program opens a path of JobFolder in another way."""
    root = Path(__file__).resolve().parents[2]
    ways = {"open", "read_bytes", "read_text", "write_bytes", "write_text"}
    names = {name for name in vars(JobFolder("")) if name != "path"}
    found = []
    for package in ("backend", "dreamflow_blender"):
        for path in (root / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                    continue
                of = node.func.value
                if node.func.attr in ways and isinstance(of, ast.Attribute) and of.attr in names:
                    found.append(f"{path.relative_to(root)}:{node.lineno} {of.attr}.{node.func.attr}")
    assert not found, found


def test_a_lock_that_is_a_link_is_not_held(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="link"):
        hold(tmp_path / "lock")
    with pytest.raises(DiskError, match="link"), jobs_folder.locked(tmp_path):
        pass
    assert (tmp_path / "victim").read_text() == "mine"
