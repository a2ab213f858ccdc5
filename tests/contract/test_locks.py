"""Locks between real processes: one holder at a time, free when it dies, and never two files of one name."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from backend.errors import InputError
from backend.jobs.folder import locked as job_locked
from dreamflow_blender.contract import locks
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.locks import hold, is_held, locked, remove

if sys.platform == "linux":
    import fcntl

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from backend.jobs.folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


def test_a_killed_holder_lets_go_and_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    lock = JobFolder(tmp_path).lock
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == b"held\n"
        assert is_held(lock) and hold(lock) is None
        with (
            pytest.raises(InputError, match=rf"number {child.pid}\) is running the job"),
            job_locked(tmp_path),
        ):
            pass
        child.kill()
    assert not is_held(lock) and lock.is_file()
    with job_locked(tmp_path):
        assert is_held(lock)
    assert not lock.exists() and not is_held(lock)


def test_a_look_at_a_lock_does_not_keep_its_owner_out(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    looker = hold(path)
    assert looker is not None
    threading.Timer(0.1, looker.close).start()
    file = hold(path, seconds=30.0)
    assert file is not None and is_held(path)
    file.close()


def test_a_file_that_its_holder_removed_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removed between the opening and the locking: a lock on a file without a name would keep nobody out."""
    path = tmp_path / "lock"
    real, calls = os.open, []

    def opened(name: str, *arguments: int) -> int:
        handle = real(name, *arguments)
        calls.append(name)
        if len(calls) == 1:
            path.unlink()
        return handle

    monkeypatch.setattr(os, "open", opened)
    file = hold(path)
    assert file is not None and len(calls) == 2
    assert is_held(path)
    remove(file)
    assert not path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be asked")
def test_a_look_at_a_lock_does_not_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner that came at that moment was refused."""
    path = tmp_path / "lock"
    path.touch()
    real, kinds = fcntl.fcntl, []

    def asked(handle: int, what: int, lock: bytes) -> bytes:
        answer = real(handle, what, lock)
        file = hold(path) if what == fcntl.F_OFD_GETLK else None  # while the looker has it open
        kinds.append((what, file is not None))
        if file is not None:
            file.close()
        return answer

    monkeypatch.setattr(fcntl, "fcntl", asked)
    assert not is_held(path)
    assert (fcntl.F_OFD_GETLK, True) in kinds


def test_macos_is_asked_in_its_own_layout() -> None:
    """Of its sys/fcntl.h: l_start, l_len, l_pid, l_type, l_whence; F_WRLCK is 3 there."""

    class Flock(ctypes.Structure):
        _fields_ = [
            ("start", ctypes.c_int64), ("len", ctypes.c_int64), ("pid", ctypes.c_int32),
            ("type", ctypes.c_int16), ("whence", ctypes.c_int16),
        ]  # fmt: skip

    asked = locks._flock(3, "darwin")
    assert asked == bytes(Flock(type=3, whence=os.SEEK_SET)) and len(asked) == 24


def test_waiting_has_an_end(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path) as first, locked(path, seconds=0.05) as second:
        assert first and not second
    with locked(path, seconds=0.0) as third:
        assert third  # it is free
