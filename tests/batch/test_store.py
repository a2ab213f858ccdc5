"""Folders in a store: whole or as before, newest on every node, and what is finished here stays."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import pytest

from backend.batch.store import Store
from backend.errors import DiskError, InputError
from backend.jobs.folder import EventLog
from dreamflow_blender.contract.protocol import Finished


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place that is empty."""
    return f"memory://{uuid.uuid4().hex}" if request.param == "memory" else f"file://{tmp_path}/the store"


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def fill(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_folder_goes_from_node_to_node(url: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one" / "a mug é", tmp_path / "two" / "a mug é"
    first, second = Store(url), Store(url)
    second.pull(two)
    assert not two.exists()  # it is not there: nothing is made
    fill(one, job_json="{}", checkpoints__1__a_bin="1", lock="mine", x_part_json="half")
    first.push(one)
    second.pull(two)
    assert set(content(two)) == {"job.json", "checkpoints/1/a.bin"}
    fill(two, checkpoints__2__a_bin="22")
    (two / "checkpoints" / "1" / "a.bin").unlink()
    second.push(two)
    first.pull(one)  # it is behind: the store has the newest
    assert set(content(one)) == {"job.json", "checkpoints/2/a.bin"}
    EventLog(one).write(Finished({}, {}))
    finished = content(one)
    first.pull(one)
    assert content(one) == finished


@pytest.mark.skipif(sys.platform == "win32", reason="the limit of a file's size is POSIX's")
def test_a_store_that_is_full_is_as_it_was_before(tmp_path: Path) -> None:
    import resource

    url = f"file://{tmp_path}/store"
    folder, store = fill(tmp_path / "job", a_txt="old", b_txt="old"), Store(url)
    store.push(folder)
    fill(folder, a_txt="newer", b_txt="newer" * 20_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(DiskError, match="too large"):
            store.push(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert content(tmp_path / "store" / "job") == {"a.txt": b"old", "b.txt": b"old"}
    store.push(folder)
    assert content(tmp_path / "store" / "job") == content(folder)


def test_an_unknown_place_is_refused_with_what_to_install() -> None:
    with pytest.raises(InputError, match="cannot be used") as refused:
        Store("nowhere9://bucket")
    assert "pip install" in refused.value.todo
