"""Building accelerators, with a toy torch, nvcc, compiler and uv: why not, and what failing leaves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dreamflow_blender import accelerators
from dreamflow_blender.background import Stop
from dreamflow_blender.environment import SetupError, python_of
from dreamflow_blender.packages import Installer
from tests.blender_side.test_environment import Place, torch

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the toys are scripts")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An environment whose torch says that it is built for CUDA 13."""
    with pytest.MonkeyPatch.context() as patch:
        made = Place(tmp_path_factory.mktemp("place"), patch)
        made.toy_uv()
        torch(made, "2.0", "13.0", True)
        made.install()
        yield made


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """tools(nvcc="13.0", ...): what lies on the path, and nothing else."""

    def make(nvcc="13.0", compiler=True, git=True):
        folder = tmp_path / "cuda" / "bin"
        folder.mkdir(parents=True)
        stubs = {
            "nvcc": f"echo 'Cuda compilation tools, release {nvcc}, V{nvcc}.88'" if nvcc else "",
            "sh": "-",
        }
        stubs |= {"g++": "true" if compiler else "", "git": "true" if git else ""}
        for name, script in stubs.items():
            if script == "-":
                (folder / name).symlink_to("/bin/sh")
            elif script:
                (folder / name).write_text(f"#!/bin/sh\n{script}\n")
                (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        for name in ("CUDA_HOME", "CUDA_PATH"):
            monkeypatch.setenv(name, str(tmp_path / "nowhere"))
        monkeypatch.setattr(accelerators, "find_nvcc", lambda: folder / "nvcc" if nvcc else None)

    return make


@pytest.mark.parametrize(
    "there, told",
    [
        ({"nvcc": ""}, "no CUDA toolkit"),
        ({"nvcc": "12.8"}, "not of version 13"),
        ({"compiler": False}, "no C++ compiler"),
        ({"git": False}, "no git"),
    ],
)
def test_why_not(place, tools, there, told):
    tools(**there)
    python = python_of(place.folder)
    assert told in accelerators.obstacle(python, Stop())
    calls = place.calls()
    with pytest.raises(SetupError, match="Everything works without"):
        list(accelerators.build(place.folder, python, Stop()))
    assert place.calls() == calls  # nothing was tried


def test_no_torch(tools):
    tools()
    assert "not built for CUDA" in accelerators.obstacle(Path("/nowhere/python"), Stop())


def test_both_are_built(place, tools, monkeypatch):
    tools()
    real, proxies = accelerators.run, []

    def run(command, stop, log, variables):
        proxies.append((variables["https_proxy"], variables["HTTP_PROXY"]))
        return real(command, stop, log, variables)

    monkeypatch.setattr(accelerators, "run", run)
    proxy = "http://proxy.test:3128"
    steps = list(accelerators.build(place.folder, python_of(place.folder), Stop(), proxy))
    assert len(proxies) == 4 and set(proxies) == {(proxy, proxy)}
    assert [s.fraction for s in steps] == sorted(s.fraction for s in steps) and steps[-1].fraction == 1.0
    sources = [word for call in place.calls() for word in call.split() if word.startswith("git+")]
    assert len(sources) == 2 and all("@" in source for source in sources)  # of a fixed version


@pytest.mark.parametrize(
    "trouble, told", [("does not compile", "nvcc"), ("does not load", "cannot be imported")]
)
def test_what_fails_leaves_everything_as_it_was(place, tools, monkeypatch, trouble, told):
    tools()
    monkeypatch.setenv("TOY_UV", trouble)
    with pytest.raises(SetupError) as failed:
        list(accelerators.build(place.folder, python_of(place.folder), Stop()))
    assert (
        told in failed.value.message
        and "nvdiffrast" in failed.value.message
        and "tiny-cuda-nn" in failed.value.message
    )
    assert "Everything works as before" in failed.value.todo and failed.value.log
    if trouble == "does not load":
        assert sum(" uninstall " in call for call in place.calls()) == 2
    assert place.toy_version() == "1.0"


def test_the_licence_is_told():
    assert "non-commercial" in accelerators.LICENCE and "nvdiffrast" in accelerators.LICENCE
    assert Installer("python", None, Path(), {}).install("x")[1:4] == ["-m", "pip", "install"]
