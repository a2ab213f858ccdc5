"""Accelerators: what stands in the way is said, and a failure leaves the environment as it was."""

import os
import stat
from pathlib import Path

import pytest

from dreamflow_blender import accelerators
from dreamflow_blender.background import Stop
from dreamflow_blender.steps import SetupError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-ins are shell scripts")


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A card's machine: torch for CUDA 12, its toolkit, a compiler and git."""
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    script(tmp_path / "cuda" / "bin" / "nvcc", "echo 'Cuda compilation tools, release 12.6, V12.6.85'")
    for name in ("c++", "git"):
        script(tmp_path / "bin" / name, "true")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return script(tmp_path / "python", 'case "$*" in *cuda*) echo \'"12.6"\';; *pip*) exit 3;; esac')


def test_nothing_stands_in_the_way(machine):
    assert accelerators.obstacle(machine, Stop()) == ""


def test_a_processors_torch(machine, tmp_path):
    python = script(tmp_path / "cpu", "echo null")
    assert "not built for CUDA" in accelerators.obstacle(python, Stop())
    with pytest.raises(SetupError, match="not built for CUDA"):
        list(accelerators.build(tmp_path, python, Stop()))


def test_no_toolkit_and_another_toolkit(machine, tmp_path, monkeypatch):
    script(tmp_path / "cuda" / "bin" / "nvcc", "echo 'release 11.8, V11.8.89'")
    assert "not of version 12" in accelerators.obstacle(machine, Stop())
    (tmp_path / "cuda" / "bin" / "nvcc").unlink()
    monkeypatch.setattr(accelerators, "find_nvcc", lambda: None)
    assert "toolkit 12.6" in accelerators.obstacle(machine, Stop())


def test_a_failing_build_is_told_with_its_log(machine, tmp_path):
    with pytest.raises(SetupError, match="works as before") as caught:
        list(accelerators.build(tmp_path / "env", machine, Stop()))
    assert "nvdiffrast" in caught.value.message and "tiny-cuda-nn" in caught.value.message
    assert "pip install" in caught.value.log
