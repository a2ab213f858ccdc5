"""Disks that are full, folders that cannot be written: said clearly, and every file whole or not there."""

import builtins
import errno
import io
import json
import os
import re
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import trimesh

from backend.config import resolve
from backend.errors import ModelError
from backend.results import deliver as delivery
from backend.scene.mesh import Mesh
from backend.scene.scene import Scene, new_scene
from backend.texture.unwrap import PADDING, Unwrapped, single_triangles
from dreamflow_blender.contract.protocol import Failed, Finished, Ready, Started
from tests.tools.command import OVERRIDES, ask, old_job, tiny, tree
from tests.tools.events import read_events
from tests.tools.oracle import Oracle


class Full(io.FileIO):
    """A file on a disk that has room for so many more bytes."""

    def __init__(self, path, mode: str, room: int) -> None:
        super().__init__(path, mode)
        self.room = room

    def write(self, data) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = super().write(memoryview(data).cast("B")[: self.room])
        self.room -= written
        return written


def full_for(monkeypatch: pytest.MonkeyPatch, name: str, room: int) -> None:
    """From now on the disk is full for this file, and for the temporary one that becomes it."""
    path, real = Path(name), io.open
    wanted = re.compile(
        rf"{re.escape(name)}|\.{re.escape(path.stem)}-[0-9a-f]+\.part{re.escape(path.suffix)}"
    )

    def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, **more):
        named = isinstance(file, str | os.PathLike) and wanted.fullmatch(Path(file).name)
        if not named or not set(mode) & set("wxa+"):
            return real(file, mode, buffering, encoding, errors, newline, **more)
        raw = Full(file, mode.replace("b", "").replace("t", ""), room)
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    monkeypatch.setattr(io, "open", opened)
    monkeypatch.setattr(builtins, "open", opened)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("backend.jobs.priors.open_prior", lambda *_: Oracle())
    return tmp_path


@pytest.fixture(scope="module")
def scene() -> Scene:
    made = new_scene(resolve("draft", {"job": OVERRIDES}).preset.nerf, torch.device("cpu"), 0)
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.4)
    made.mesh = Mesh(torch.tensor(ball.vertices, dtype=torch.float32), torch.tensor(ball.faces))
    return made


@pytest.fixture
def delivering(scene, monkeypatch):
    """A run that is at its end: what is left to do is to deliver."""
    monkeypatch.setattr(delivery, "TURNTABLE_VIEWS", 2)

    def quick(v, t, size, cancelled, weight):
        return Unwrapped(*single_triangles(len(t), size, PADDING), "per-triangle", "")

    monkeypatch.setattr(delivery, "unwrap", quick)
    curves = {"nerf": {name: torch.ones(3) for name in ("loss", "gap", "gradient")}}
    settings = resolve("draft", {"job": OVERRIDES}).preset.delivery

    def run(job):
        yield Ready({}, ("cpu",), {}, 1)
        yield Started("deliver", 1)
        steps = delivery.deliver_generated(
            scene, settings, Path(job.folder), job, curves, {}, lambda: False, -10.0
        )
        while True:
            try:
                next(steps)
            except StopIteration as end:
                yield Finished(end.value.paths, {})
                return

    return run


@pytest.fixture(scope="module")
def right() -> dict[str, bytes]:
    """What has been delivered before, by file: the first test to succeed sets it."""
    return {}


DELIVERED = ("albedo.png", "mesh.npz", "mesh.glb", "views.png", "curves.png", "turntable.webp", "preview.png")


@pytest.mark.parametrize("name", ["nothing", *DELIVERED])
def test_a_full_disk_at_delivery(here, capfd, monkeypatch, delivering, right, name):
    """Each file in its turn: those before it stay, whole; of it and of those after it there is nothing."""
    full_for(monkeypatch, name, room=40)
    answer = ask(capfd, "a ball", "--out", "o", run=delivering)
    left = tree(here / "o")
    if name == "nothing":
        right.update((file, left[file]) for file in DELIVERED)
    else:
        assert (answer.code, answer.kind) == (1, "disk")
        assert answer.message == f"The disk is full: {Path('o') / name} could not be written."
        assert "Free some space" in answer.todo and "--out" in answer.todo
        events = read_events(here / "o")
        assert events[-1] == Failed("disk", answer.message, answer.todo)
    before = DELIVERED if name == "nothing" else DELIVERED[: DELIVERED.index(name)]
    assert sorted(left) == sorted(["events.jsonl", *before])
    assert all(left[file] == right.get(file, left[file]) for file in before)


def test_a_full_disk_at_the_start(here, capfd, monkeypatch):
    before = tree(old_job(here / "old"))
    full_for(monkeypatch, "job.json", room=40)
    for arguments in (["--out", "old", "--overwrite"], ["--out", "a/b"]):
        answer = ask(capfd, "a ball", *arguments, run=tiny())
        assert (answer.code, answer.kind) == (1, "disk") and "job.json could not be written" in answer.message
    full_for(monkeypatch, ".probe", room=0)
    answer = ask(capfd, "a ball", "--out", "a/b", run=tiny())
    assert (answer.code, answer.kind) == (1, "disk") and "The disk is full" in answer.message
    assert tree(here / "old") == before and sorted(p.name for p in here.iterdir()) == ["old"]


@pytest.mark.parametrize("room", [0, 30, 500])
def test_a_full_disk_for_the_record(here, capfd, monkeypatch, delivering, room):
    """No line is half-written; what happened is told all the same."""
    full_for(monkeypatch, "events.jsonl", room)
    answer = ask(capfd, "a ball", "--out", "o", run=delivering)
    if answer.kind == "disk":
        assert answer.code == 1 and "events.jsonl could not be written" in answer.message
    else:
        assert room == 500
    record = (here / "o" / "events.jsonl").read_bytes()
    assert record == b"" or record.endswith(b"\n")
    assert all(json.loads(line) for line in record.splitlines())


def test_a_full_disk_for_temporary_files(here, capfd, monkeypatch, delivering):
    def unwrap(*_args, **_more):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(delivery, "unwrap", unwrap)
    answer = ask(capfd, "a ball", "--out", "o", run=delivering)
    assert (answer.code, answer.kind) == (1, "disk") and "temporary files is full" in answer.message
    assert list(tree(here / "o")) == ["events.jsonl"]


@contextmanager
def small_disk(folder: Path, size: str):
    """A real one in memory, where this process may mount it."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip("mounting is not permitted")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("size", ["4k", "24k", "64k"])
def test_a_full_disk_for_real(here, capfd, delivering, right, size):
    with small_disk(here / "disk", size):
        answer = ask(capfd, "a ball", "--out", "disk/o", run=delivering)
        left = tree(here / "disk")
    assert (answer.code, answer.kind) == (1, "disk") and "The disk is full" in answer.message
    record = left.pop("o/events.jsonl", b"") or b""
    assert record == b"" or record.endswith(b"\n")
    for name, content in left.items():
        file = name.removeprefix("o/")
        assert name == "o" or file in DELIVERED
        assert name == "o" or content == right.get(file, content)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_folder_without_permission(here, capfd, monkeypatch, number):
    def refused(self, *_args, **_more):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", refused)
    answer = ask(capfd, "a ball", "--out", "o", run=never)
    assert (answer.code, answer.kind) == (1, "disk")
    assert answer.message == "There is no permission to write o." and "--out" in answer.todo
    monkeypatch.undo()
    assert not (here / "o").exists()


def never(job):
    raise ModelError("This job must not begin.", "Never.")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has other permissions")
def test_a_folder_without_permission_for_real(here, capfd):
    here.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)  # nobody, for whom permissions count
    try:
        answer = ask(capfd, "a ball", "--out", "o", run=never)
    finally:
        if root:
            os.seteuid(0)
        here.chmod(0o755)
    assert (answer.code, answer.kind) == (1, "disk") and "no permission" in answer.message
    assert not list(here.iterdir())


def test_a_folder_below_a_file(here, capfd):
    (here / "file").write_text("mine")
    answer = ask(capfd, "a ball", "--out", "file/o", run=never)
    assert (answer.code, answer.kind) == (1, "disk") and "could not be written" in answer.message
    assert tree(here) == {"file": b"mine"}
    answer = ask(capfd, "a ball", "--out", "x" * 1000, run=never)
    assert (answer.code, answer.kind) == (1, "disk") and "--out" in answer.todo
