"""`build.py accelerators` with a toy torch, toolkit, compiler and sources, and the real pip."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the toys are scripts")
ROOT = Path(__file__).resolve().parents[1]
TORCH = """
import os, types
__version__ = "2.13.0"
version = types.SimpleNamespace(cuda=os.environ.get("TOY_CUDA", "13.0") or None)
card = os.environ.get("TOY_CARD", "8.6")
cuda = types.SimpleNamespace(
    is_available=lambda: bool(card), get_device_capability=lambda: tuple(map(int, card.split(".")))
)
"""
SETUP = """
import json, os
from setuptools import setup
if os.environ.get("TOY_TROUBLE") == "does not compile":
    raise SystemExit("nvcc fatal: a toy's")
names = ("CUDA_HOME", "CPATH", "LIBRARY_PATH", "TORCH_CUDA_ARCH_LIST", "TCNN_CUDA_ARCHITECTURES", "MAX_JOBS")
said = {{name: os.environ.get(name) for name in names}}
said["nvrtc"] = os.path.realpath(os.environ["LIBRARY_PATH"].split(os.pathsep)[-1] + "/libnvrtc.so")
with open(os.environ["TOY_SAID"], "w") as file:
    json.dump(said, file)
setup(name="{0}", version="1.0", packages={1})
"""


def write(path, text, mode=0o644):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An environment with a toy torch, and pip, which finds setuptools where the tests run; and toy sources."""
    folder = tmp_path_factory.mktemp("a place é")
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    [site] = (folder / "env").glob("lib/python*/site-packages")
    for old in site.glob("setuptools*"):  # Python 3.11's venv brings one, too old
        shutil.rmtree(old)
    write(site / "torch.py", TORCH)
    write(site / "real.pth", sysconfig.get_path("purelib") + "\n")
    write(site / "ninja-1.0.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: ninja\nVersion: 1.0\n")
    write(site / "nvidia/cu13/include/cusparse.h", "")
    write(site / "nvidia/cu13/lib/libnvrtc.so.13", "")
    for title, name, packages in (
        ("nvdiffrast", "nvdiffrast", ["nvdiffrast", "nvdiffrast.torch"]),
        ("tiny-cuda-nn/bindings/torch", "tinycudann", ["tinycudann"]),
    ):
        source = folder / "sources" / title
        write(source / "setup.py", SETUP.format(name, packages))
        for package in packages:
            write(source / package.replace(".", "/") / "__init__.py", "")
    return folder


@pytest.fixture
def build(place, tmp_path):
    """build(nvcc=..., ...) runs the command; build.site is where it installs, build.said what a build was told."""

    def run(
        *,
        nvcc="13.0",
        whole=False,
        compiler=True,
        libraries="cudart nvrtc cuda",
        sources="sources",
        **variables,
    ):
        tools, cuda = tmp_path / "bin", tmp_path / "cuda"
        if nvcc:
            write(
                cuda / "bin" / "nvcc",
                f"#!/bin/sh\necho 'Cuda compilation tools, release {nvcc}, V{nvcc}.88'\n",
                0o755,
            )
        if whole:
            write(cuda / "include" / "cusparse.h", "")
        if compiler:
            finds = "|".join(f"-l{name}" for name in libraries.split())
            write(
                tools / "c++",
                f"#!/bin/sh\nfor last; do :; done\ncase $last in {finds}) exit 0;; esac\nexit 1\n",
                0o755,
            )
        tools.mkdir(exist_ok=True)
        environment = {
            "PATH": str(tools),
            "CUDA_HOME": str(cuda),
            "PIP_NO_INDEX": "1",
            "HOME": str(tmp_path),
            "TOY_SAID": str(tmp_path / "said.json"),
            **variables,
        }
        command = [place / "env/bin/python", ROOT / ".ci" / "accelerators.py", "--from", place / sources]
        ran = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert "Traceback" not in ran.stderr
        return ran

    [run.site] = (place / "env").glob("lib/python*/site-packages")
    run.file = tmp_path / "said.json"
    run.said = lambda: json.loads(run.file.read_text())
    run.installed = lambda: sorted(
        path.name for path in run.site.glob("*-1.0.dist-info") if "ninja" not in path.name
    )
    return run


@pytest.mark.parametrize(
    "there, told",
    [
        ({"TOY_CUDA": ""}, "is not built for CUDA"),
        ({"nvcc": "12.8"}, "is of version 12; torch is built for 13.0"),
        ({"TOY_CUDA": "12.8", "nvcc": "12.8", "libraries": "cudart nvrtc"}, "finds no libcuda: install"),
        ({"compiler": False}, "no C++ compiler: install g++"),
        ({"TOY_CARD": ""}, "no card here: TORCH_CUDA_ARCH_LIST says"),
        ({"sources": "nowhere"}, "holds no sources of nvdiffrast"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_compiled(build, there, told):
    ran = build(**there)
    assert ran.returncode == 1 and told in ran.stderr and "Everything works without" in ran.stderr
    assert not build.file.exists() and build.installed() == []


@pytest.mark.slow
def test_a_toolkit_that_is_only_a_compiler(build):
    headers, library = (
        build.site / "nvidia/cu13/include/cusparse.h",
        build.site / "nvidia/cu13/lib/libnvrtc.so.13",
    )
    ran = build()
    assert ran.returncode == 0 and "Both are built" in ran.stdout and "not commercially" in ran.stdout
    said = build.said()
    assert said["CPATH"] == str(headers.parent) and said["MAX_JOBS"] == "2"
    assert (said["TORCH_CUDA_ARCH_LIST"], said["TCNN_CUDA_ARCHITECTURES"]) == ("8.6", "86")
    assert said["nvrtc"] == str(library.resolve())
    assert build.installed() == ["nvdiffrast-1.0.dist-info", "tinycudann-1.0.dist-info"]

    headers.rename(headers.with_suffix(".away"))
    ran = build()
    headers.with_suffix(".away").rename(headers)
    assert ran.returncode == 1 and "only its compiler (no cusparse.h): install the whole" in ran.stderr


@pytest.mark.slow
def test_for_several_cards_with_a_whole_toolkit(build):
    ran = build(whole=True, TORCH_CUDA_ARCH_LIST="8.6;8.9+PTX 12.0", MAX_JOBS="1")
    said = build.said()
    assert ran.returncode == 0 and said["CPATH"] is None and said["MAX_JOBS"] == "1"
    assert said["TCNN_CUDA_ARCHITECTURES"] == "86,89,120"


@pytest.mark.slow
@pytest.mark.parametrize(
    "trouble, told", [("does not compile", "could not be compiled"), ("does not load", "undefined symbol")]
)
def test_what_fails_is_not_left_behind(build, place, trouble, told):
    for name in ("nvdiffrast/nvdiffrast/torch", "tiny-cuda-nn/bindings/torch/tinycudann"):
        text = "raise OSError('undefined symbol')" if trouble == "does not load" else ""
        write(place / "sources" / name / "__init__.py", text)
    before = (
        build.installed() if trouble == "does not compile" else []
    )  # what compiled before goes on working
    ran = build(TOY_TROUBLE=trouble)
    assert ran.returncode == 1 and ran.stderr.count(told) >= 2 and "Not built: nvdiffrast" in ran.stderr
    assert build.installed() == before


@pytest.mark.slow
def test_without_a_card_tiny_cuda_nn_is_not_tried(build, place):
    """Its import raises there whatever it is."""
    write(place / "sources/nvdiffrast/nvdiffrast/torch/__init__.py", "")
    write(place / "sources/tiny-cuda-nn/bindings/torch/tinycudann/__init__.py", "raise OSError('no card')")
    ran = build(TOY_CARD="", TORCH_CUDA_ARCH_LIST="9.0")
    assert ran.returncode == 0 and "cannot be imported without a card" in ran.stdout
    assert build.installed() == ["nvdiffrast-1.0.dist-info", "tinycudann-1.0.dist-info"]


def test_the_documented_lines_are_those_of_the_command():
    spec = importlib.util.spec_from_file_location("accelerators", ROOT / ".ci" / "accelerators.py")
    module = sys.modules.setdefault(spec.name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    documented = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    for accelerator in (module.NVDIFFRAST, module.TINY_CUDA_NN):
        assert documented.count(f'-m pip {" ".join(module.INSTALL)} "{accelerator.source}"') == 2
    assert documented.count(f"requirements.txt {' '.join(module.TOOLS)}") == 2
    assert f"pip uninstall {module.NVDIFFRAST.distribution} {module.TINY_CUDA_NN.distribution}" in documented
