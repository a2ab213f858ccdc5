"""build.py with toy packages: it sets up, goes on after an interruption, mends what is broken, avoids CUDA."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("build", ROOT / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)


TORCH = (
    "class version: cuda = {!r}\nclass cuda: is_available = staticmethod(lambda: False)\n"  # without a card
)


def wheel(index, name, version="1.0", needs=(), code=""):
    """A package with next to nothing in it, in a folder that serves as a package index."""
    folder = index / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    module = name.replace("-", "_") + ".py"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(module, f"__version__ = {version!r}\n{code}")
        archive.writestr(f"{info}/METADATA", metadata + "".join(f"Requires-Dist: {n}\n" for n in needs))
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(
            f"{info}/RECORD", f"{module},,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
    (folder / "index.html").write_text(
        "".join(f'<a href="{p.name}">{p.name}</a>' for p in folder.glob("*.whl"))
    )


@pytest.fixture
def clone(tmp_path):
    """A repository with build.py, toy requirements and two package indexes, and the environment to run it in."""
    root = tmp_path / "a clone é"
    root.mkdir()
    plain, cpu = tmp_path / "plain", tmp_path / "cpu"
    needs = ['nvidia-toy-cu13==1.0 ; platform_system == "Linux"']
    wheel(plain, "torch", "2.0", needs, TORCH.format("13.0"))
    wheel(plain, "nvidia-toy-cu13")
    wheel(plain, "toy")
    wheel(cpu, "torch", "2.0+cpu", code=TORCH.format(None))
    (root / build.TORCH_RULE.relative_to(ROOT)).parent.mkdir(parents=True)
    shutil.copy(ROOT / "build.py", root)
    rule = build.TORCH_RULE.read_text(encoding="utf-8")
    rule = rule.replace(build.torch_build.TORCH_INDEX, tmp_path.as_uri())
    (root / build.TORCH_RULE.relative_to(ROOT)).write_text(rule, encoding="utf-8")
    (root / "requirements.txt").write_text("# toys\ntorch==2.0\ntoy==1.0\n")
    (root / "requirements-dev.txt").write_text("-r requirements.txt\n")
    nothing = tmp_path / "bin"
    nothing.mkdir()
    variables = {
        "PATH": str(nothing),  # no nvidia-smi
        "HOME": str(tmp_path),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": plain.as_uri(),
        "PIP_CACHE_DIR": str(tmp_path / "cache"),
    }
    if os.name == "nt":
        variables["SYSTEMROOT"] = os.environ["SYSTEMROOT"]
    return root, variables


def run(clone, *arguments, **more):
    root, variables = clone
    began = time.monotonic()
    ran = subprocess.run(
        [sys.executable, str(root / "build.py"), *arguments],
        env=variables | more, cwd=root.parent, capture_output=True, text=True, encoding="utf-8", timeout=300,
    )  # fmt: skip
    return ran, time.monotonic() - began


def packages(root):
    python = root / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    code = (
        "from importlib.metadata import *; print(*[d.metadata['Name'] + d.version for d in distributions()])"
    )
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.slow  # it makes two environments; .ci/run asks for it
@pytest.mark.skipif(sys.platform != "linux", reason="the toy index stands for Linux's")
def test_set_up_once_mended_when_broken(clone):
    root, _ = clone
    ran, _ = run(clone, "setup")
    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert "torch 2.0  " in ran.stdout and "Ready in" in ran.stdout
    assert "torch2.0+cpu" in packages(root) and "toy1.0" in packages(root) and "nvidia" not in packages(root)
    assert "torch: the build for the processor: no NVIDIA card was found" in ran.stdout
    assert "torch 2.0+cpu starts" in ran.stdout and "NOTE" not in ran.stdout

    ran, seconds = run(clone, "setup")
    assert ran.returncode == 0 and "Setting up" not in ran.stdout and seconds < 5

    (root / ".venv" / "installed-requirements").unlink()  # as after an interruption
    shutil.rmtree(next((root / ".venv").glob("lib/*/site-packages/toy-1.0.dist-info")))
    ran, _ = run(clone, "setup")
    assert ran.returncode == 0 and "torch 2.0  " not in ran.stdout and "toy1.0" in packages(root)

    (root / "requirements.txt").write_text("torch==2.0\ntoy==3.0\n")  # a package that there is not
    ran, _ = run(clone, "setup")
    assert ran.returncode == 1 and "packages failed" in ran.stderr and "toy==3.0" in ran.stderr
    assert "Traceback" not in ran.stderr and (root / ".build" / "setup.log").stat().st_size

    (root / "requirements.txt").write_text("torch==2.0\n")
    (root / ".venv" / "bin" / "python").unlink()  # as after its Python was removed
    ran, _ = run(clone, "setup")
    assert ran.returncode == 0 and "Python from" in ran.stdout and "torch2.0" in packages(root)

    ran, _ = run(
        clone, "setup", DREAMFLOW_TORCH_INDEX="cu130"
    )  # another build: begun again, with its libraries
    assert ran.returncode == 0 and "the build for CUDA 13.0" in ran.stdout and "asked for" in ran.stdout
    assert {"torch2.0", "nvidia-toy-cu131.0"} <= set(packages(root).split())
    assert "NOTE: torch 2.0 is built for CUDA 13.0 and finds no NVIDIA card" in ran.stdout


def environment_for(clone, monkeypatch):
    for name, value in clone[1].items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(build.TORCH_INDEX_VARIABLE, raising=False)
    return [sys.executable, "-m", "pip", "--disable-pip-version-check"]


@pytest.mark.skipif(sys.platform != "linux", reason="the toy index stands for Linux's")
def test_which_torch(clone, monkeypatch, tmp_path, capsys):
    pip = environment_for(clone, monkeypatch)
    cpu = (tmp_path / "cpu").as_uri()
    rule, pin = build.torch_build, "torch==2.0"
    monkeypatch.setattr(rule, "TORCH_INDEX", tmp_path.as_uri())
    for_cpu, for_card = rule.Choice("cpu", ""), rule.Choice("cu130", "", card=True)
    assert build.would_bring(pip, [pin]) == "cuda 13" and build.would_bring(pip, ["torch==9"]) is None
    assert build.torch_source(pip, pin, for_cpu) == ["--no-deps", "--index-url", cpu, "torch==2.0+cpu"]
    assert build.torch_source(pip, pin, for_card) == ["--no-deps", pin]

    monkeypatch.setattr(rule, "TORCH_INDEX", (tmp_path / "nowhere").as_uri())
    with pytest.raises(SystemExit):  # never the large build unasked
        build.torch_source(pip, pin, for_cpu)
    said = capsys.readouterr().err
    assert (
        "nowhere/cpu does not answer" in said
        and "DREAMFLOW_TORCH_INDEX=cu130 takes the build for CUDA" in said
    )

    monkeypatch.setenv(
        "PIP_INDEX_URL", cpu
    )  # a source that has a build without CUDA: no need to ask elsewhere
    assert build.torch_source(pip, pin, for_cpu) == ["--no-deps", pin]
    with pytest.raises(SystemExit):  # nor the processor's in place of the card's
        build.torch_source(pip, pin, for_card)
    assert "DREAMFLOW_TORCH_INDEX=cpu takes the build for the processor" in capsys.readouterr().err

    asked = rule.decide(cpu, rule.Seen())
    assert build.torch_source(pip, pin, asked) == ["--no-deps", "--index-url", cpu, pin]


def test_windows_with_a_card_does_not_take_the_registry_s_torch(monkeypatch):
    """It is the processor's there; PyTorch's index has the card's."""
    rule = build.torch_build
    seen = rule.Seen((rule.Card("NVIDIA GeForce RTX 4070", (8, 9)),), "610.47", (13, 3))
    choice = rule.decide("", seen, windows=True)
    ways = rule.ways(choice, "win32")
    monkeypatch.setattr(rule, "ways", lambda _: ways)
    monkeypatch.setattr(build, "would_bring", lambda *_: "cpu")  # a wheel of Windows names no CUDA libraries
    source = build.torch_source(["pip"], "torch==2.13.0", choice)
    assert source == ["--no-deps", "--index-url", f"{rule.TORCH_INDEX}/cu130", "torch==2.13.0+cu130"]


def test_a_torch_that_does_not_start_is_told(monkeypatch, capsys):
    monkeypatch.setattr(build, "venv_python", lambda: Path(sys.executable))
    monkeypatch.setattr(build.torch_build, "PROBE", "raise OSError('[WinError 126] c10.dll')")
    with pytest.raises(SystemExit):
        build.check_torch(build.torch_build.Choice("cpu", ""))
    assert "cannot be used (OSError: [WinError 126] c10.dll)" in capsys.readouterr().err


def test_a_build_that_there_is_not():
    ran = subprocess.run(
        [sys.executable, ROOT / "build.py", "setup"], capture_output=True, text=True,
        env=os.environ | {build.TORCH_INDEX_VARIABLE: "cu128"},
    )  # fmt: skip
    assert (
        ran.returncode == 1
        and "no build 'cu128' of torch: name cpu, cu130, cu126, or an address" in ran.stderr
    )


def test_blender_is_not_a_must(monkeypatch):
    """Where it cannot be had, a sentence says why, and the tests run without it."""
    monkeypatch.setattr(build, "venv_python", lambda: Path(sys._base_executable))  # without bpy
    monkeypatch.setattr(build, "try_step", lambda *_: ["ERROR: No matching distribution found for bpy"])
    monkeypatch.setattr(build, "BLENDERS_PYTHON", sys.version_info[:2])
    assert "could not be installed (ERROR: No matching" in build.bring_blender()
    monkeypatch.setattr(build, "try_step", lambda *_: None)
    assert build.bring_blender() == ""
    monkeypatch.setattr(build, "BLENDERS_PYTHON", (3, 1))
    assert "needs Python 3.1, this is 3." in build.bring_blender()


def test_a_python_has_to_run_to_count(tmp_path):
    assert build.works([sys.executable], sys.version_info[:2]) and not build.works([sys.executable], (3, 99))
    assert not build.works([str(tmp_path / "none")])
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    assert not build.works([str(broken)])


def test_no_python_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(build, "works", lambda *_: False)
    with pytest.raises(SystemExit) as end:
        build.find_python()
    said = capsys.readouterr().err
    assert end.value.code == 1 and "needs Python 3.11, 3.12 or 3.13" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Collecting scipy==1.17.1 (from -r requirements.txt (line 12))", "scipy"),
        ("  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (590.0 MB)", "torch (590.0 MB)"),
        ("Processing /wheels/torch-2.13.0+cpu-cp311.whl", "torch"),
        ("Installing collected packages: xatlas, scipy", "writing files"),
        ("Requirement already satisfied: numpy", ""),
        ("", ""),
    ],
)
def test_progress_names_the_package(line, words):
    assert build.package_of(line) == words


def test_usage():
    ran = subprocess.run(
        [sys.executable, ROOT / "build.py", "demo", "a", "b"], capture_output=True, text=True
    )
    assert ran.returncode == 2 and "unrecognized arguments: b" in ran.stderr
    ran = subprocess.run([sys.executable, ROOT / "build.py", "--help"], capture_output=True, text=True)
    assert ran.returncode == 0 and "demo" in ran.stdout and "test" in ran.stdout


def test_every_requirement_is_fixed():
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            assert not line or line.startswith(("#", "-r ")) or line.count("==") >= 1, line
