"""The disk is full at each write in turn: `failed`, kind "disk", nothing corrupt; with space again it goes on."""

import errno
import os
import subprocess

import pytest

from backend.files import write_text
from backend.jobs.drive import drive
from backend.jobs.telemetry import RunClock
from backend.results import deliver
from backend.stages.checkpoint import load
from backend.stages.checkpoint_writer import listed
from backend.worker.desk import run_with_log
from dreamflow_blender.contract import protocol as p
from tests.jobs.test_bad_disk import full_for, small_disk
from tests.tools.events import read_events
from tests.tools.made_meshes import a_glb
from tests.tools.oracle import Oracle
from tests.tools.refine_run import refine_job, shorten
from tests.tools.worker_client import fresh

RESULTS = ("mesh.npz", "albedo.png")
BEFORE = ("log.txt", "lock", "job.json")  # it has not begun: nothing is left
DURING = ("events.jsonl", "preview.png", "snapshot.npz", "state.json")  # and test_for_real
AFTER = ("albedo.png", "mesh.npz", "mesh.glb", "views.png", "curves.png", "turntable.webp")  # and preview.png
OFTEN = ("job.json", "state.json", "mesh.glb")  # the others where there is time


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backend.jobs.priors.open_prior", lambda *_: Oracle())
        patch.setattr(deliver, "TURNTABLE_VIEWS", 2)
        patch.setattr(deliver, "write_curves", lambda path, _: write_text(path, "a second's work" * 9))
        yield


def job_in(folder, **changes):
    """Few iterations, in all stages."""
    few = {f"{stage}.levels": 1 for stage in p.STAGES} | {"nerf.levels": 2}
    return fresh(folder, checkpoint_seconds=0.0, overrides=few, **changes)


def run(request):
    return drive(request, lambda: None, lambda event: None, run=run_with_log)


@pytest.fixture(scope="module")
def right(quick, tmp_path_factory):
    folder = tmp_path_factory.mktemp("right") / "job"
    assert isinstance(run(p.Generate(job_in(folder))), p.Finished)
    return results(folder)


def results(folder):
    return {name: (folder / name).read_bytes() for name in RESULTS}


def no_space_for(name):
    """os.open where the disk is full for files of this name."""
    real = os.open

    def opened(path, *rest, **more):
        if os.path.basename(path) == name:  # noqa: PTH119  a path or a text
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, *rest, **more)

    return opened


@pytest.mark.parametrize(
    "name", [n if n in OFTEN else pytest.param(n, marks=pytest.mark.slow) for n in BEFORE + DURING + AFTER]
)
def test_each_write(tmp_path, right, name):
    folder = tmp_path / "job"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunClock, "PREVIEW_EVERY", 0.0 if name == "preview.png" else 1000.0)
        if name == "log.txt":  # written by the system's own calls
            patch.setattr(os, "open", no_space_for(name))
        else:
            full_for(patch, name, room={"events.jsonl": 1000, "lock": 0}.get(name, 40))
        failed = run(p.Generate(job_in(folder, snapshot_seconds=0.0 if name == "snapshot.npz" else 1000.0)))
    assert isinstance(failed, p.Failed) and failed.kind == "disk", failed
    assert "disk is full" in failed.message and failed.todo
    assert ("checkpoints" if name.startswith("state") else name) in failed.message
    if name in BEFORE:
        assert not folder.exists()
        assert isinstance(run(p.Generate(job_in(folder))), p.Finished)
    else:
        for path in listed(folder):
            load(path)
        assert not list(folder.rglob(".*"))
        assert read_events(folder)  # whole lines
        assert isinstance(run(p.Resume(str(folder))), p.Finished)
    assert results(folder) == right


REFINED = ("albedo.png", "mesh.npz", "mesh.glb")


@pytest.fixture(scope="module")
def refined(quick, tmp_path_factory):
    """The bytes of a GLB, and what refining it delivers."""
    folder = tmp_path_factory.mktemp("refined") / "job"
    source = folder.with_suffix(".glb")
    source.write_bytes(a_glb())
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        assert isinstance(run(p.Refine(refine_job(folder, source))), p.Finished)
    return source.read_bytes(), {name: (folder / name).read_bytes() for name in REFINED}


@pytest.mark.parametrize(
    "name",
    [
        "object.npz",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("object.glb", "job.json", "state.json", "albedo.png", "mesh.glb")
        ),
    ],
)
def test_each_write_of_a_refine_job(tmp_path, refined, monkeypatch, name):
    content, right = refined
    folder, source = tmp_path / "job", tmp_path / "a.glb"
    source.write_bytes(content)
    shorten(monkeypatch)
    request = p.Refine(refine_job(folder, source, checkpoint_seconds=0.0))
    with pytest.MonkeyPatch.context() as patch:
        full_for(patch, name, room=40)
        failed = run(request)
    assert isinstance(failed, p.Failed) and failed.kind == "disk", failed
    if name in ("object.npz", "object.glb", "job.json"):
        assert {path.name for path in folder.iterdir()} <= {"log.txt"}
    else:
        source.unlink()  # the job has kept what it needs
        assert not list(folder.rglob(".*"))
        request = p.Resume(str(folder))
    assert isinstance(run(request), p.Finished)
    assert {name: (folder / name).read_bytes() for name in REFINED} == right


def test_for_real(tmp_path, right):
    """A small disk that two checkpoints fill, and that then grows."""
    disk = tmp_path / "disk"
    with small_disk(disk, "300k"):
        folder = disk / "job"
        failed = run(p.Generate(job_in(folder)))
        assert isinstance(failed, p.Failed) and failed.kind == "disk", failed
        for path in listed(folder):
            load(path)
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        assert isinstance(run(p.Resume(str(folder))), p.Finished)
        assert results(folder) == right
