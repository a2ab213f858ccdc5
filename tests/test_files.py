"""Files that are whole or not there."""

import errno
import os
from pathlib import Path

import pytest

from backend import files
from backend.errors import DiskError


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "é ü.txt"
    files.write_text(path, "one\n")
    files.write_text(path, "two\n🐟 \udcff")
    assert path.read_bytes() == "two\n🐟 \\udcff".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_says_how_to_free_space(tmp_path):
    path = tmp_path / "mesh.glb"
    with pytest.raises(DiskError, match=r"disk is full: .*mesh\.glb") as caught:
        with files.replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "Free some space" in caught.value.todo and not list(tmp_path.iterdir())


def test_a_full_disk_for_real():
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full on this system")
    with pytest.raises(OSError, match="space") as caught, full.open("wb") as file:
        file.write(b"x")
    assert "full" in str(files.explain(caught.value, Path("out/mesh.glb")))


def test_a_missing_folder_and_a_file_for_a_folder(tmp_path):
    with pytest.raises(DiskError, match="No such file"):
        files.write_bytes(tmp_path / "none" / "a.txt", b"")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskError, match="could not be written"):
        files.write_bytes(tmp_path / "file" / "a.txt", b"")


def test_no_permission_says_so(tmp_path):
    error = PermissionError(errno.EACCES, "Permission denied")
    assert "no permission" in str(files.explain(error, tmp_path / "a"))
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(DiskError, match="no permission"):
        files.write_bytes(tmp_path / "a", b"")
