"""build.py with toy packages: it sets up, goes on after an interruption, mends what is broken, avoids CUDA."""

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import build

ROOT = Path(__file__).parents[1]

TORCH = (
    "class version: cuda = {!r}\nclass cuda: is_available = staticmethod(lambda: False)\n"  # without a card
)


def wheel(index, name, version="1.0", needs=(), code="", module=""):
    """A package with next to nothing in it, in a folder that serves as a package index."""
    folder = index / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    module = (module or name.replace("-", "_")) + ".py"
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


UV = shutil.which("uv") or shutil.which("uv", path=ROOT / ".build" / "tools" / "uv" / "bin")


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
    for name in ("__init__.py", "client", "contract", "setup"):
        source, target = ROOT / "dreamflow_blender" / name, root / "dreamflow_blender" / name
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    shutil.copy(ROOT / "build.py", root)
    rule = root / "dreamflow_blender" / "setup" / "torch_build.py"
    text = rule.read_text(encoding="utf-8").replace(build.torch_build.TORCH_INDEX, tmp_path.as_uri())
    rule.write_text(text, encoding="utf-8")
    (root / "requirements.txt").write_text("# toys\ntorch==2.0\ntoy==1.0\n")
    (root / "requirements-dev.txt").write_text("-r requirements.txt\n")
    tools = root / ".build" / "tools" / "uv" / "bin"
    tools.mkdir(parents=True)
    if UV:
        (tools / ("uv.exe" if os.name == "nt" else "uv")).symlink_to(UV)
    nothing = tmp_path / "bin"
    nothing.mkdir()
    if os.name != "nt":
        (nothing / "python3").symlink_to(sys._base_executable)  # or uv would fetch one
    variables = {
        "PATH": str(nothing),  # no nvidia-smi
        "HOME": str(tmp_path),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": plain.as_uri(),
    }
    if os.name == "nt":
        variables["SYSTEMROOT"] = os.environ["SYSTEMROOT"]
    return root, variables


def run(clone, *arguments, **more):
    root, variables = clone
    return subprocess.run(
        [sys.executable, str(root / "build.py"), *arguments],
        env=variables | more, cwd=root.parent, capture_output=True, text=True, encoding="utf-8", timeout=300,
    )  # fmt: skip


def packages(root):
    python = root / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    code = (
        "from importlib.metadata import *; print(*[d.metadata['Name'] + d.version for d in distributions()])"
    )
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.slow  # it makes two environments; .ci/run asks for it
@pytest.mark.skipif(UV is None, reason="no uv here")
@pytest.mark.skipif(sys.platform != "linux", reason="the toy index stands for Linux's")
def test_set_up_once_mended_when_broken(clone):
    root, _ = clone
    ran = run(clone, "setup")
    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert "Setting up" in ran.stdout and "Ready in" in ran.stdout
    assert "torch2.0+cpu" in packages(root) and "toy1.0" in packages(root) and "nvidia" not in packages(root)
    assert "torch: the build for the processor: no NVIDIA card was found" in ran.stdout
    assert "torch 2.0+cpu starts" in ran.stdout and "NOTE" not in ran.stdout

    ran = run(clone, "setup")
    assert ran.returncode == 0 and "Setting up" not in ran.stdout

    (root / ".venv" / "dreamflow.json").write_text('{"build": "cpu"}')  # as after an interruption
    shutil.rmtree(next((root / ".venv").glob("lib/*/site-packages/toy-1.0.dist-info")))
    ran = run(clone, "setup")
    assert ran.returncode == 0 and "making the environment" not in ran.stdout and "toy1.0" in packages(root)

    (root / "requirements.txt").write_text("torch==2.0\ntoy==3.0\n")  # a package that there is not
    ran = run(clone, "setup")
    assert ran.returncode == 1 and "could not be fetched" in ran.stderr and "(PIP_INDEX_URL)" in ran.stderr
    assert "Traceback" not in ran.stderr and "toy==3.0" in (root / ".build" / "setup.log").read_text()

    (root / "requirements.txt").write_text("torch==2.0\n")
    (root / ".venv" / "bin" / "python").unlink()  # as after its Python was removed
    ran = run(clone, "setup")
    assert ran.returncode == 0 and "making the environment" in ran.stdout and "torch2.0" in packages(root)

    # another build: begun again, with its libraries
    ran = run(clone, "setup", DREAMFLOW_TORCH_INDEX="cu130")
    assert ran.returncode == 0 and "the build for CUDA 13.0" in ran.stdout and "asked for" in ran.stdout
    assert {"torch2.0", "nvidia-toy-cu131.0"} <= set(packages(root).split())
    assert "NOTE: torch 2.0 is built for CUDA 13.0 and finds no NVIDIA card" in ran.stdout


@pytest.mark.slow
@pytest.mark.skipif(UV is None, reason="no uv here")
@pytest.mark.parametrize("setting", ["target = {here}/elsewhere", "user = true", "require-hashes = true"])
def test_pip_conf_of_the_user_s_is_not_in_the_way(clone, tmp_path, setting):
    """ "DreamFlow is set up" was said with the packages elsewhere, for ever."""
    root, variables = clone
    (tmp_path / "pip.conf").write_text(f"[install]\n{setting.format(here=tmp_path)}\n")
    variables["PIP_CONFIG_FILE"] = str(tmp_path / "pip.conf")
    ran = run(clone, "setup")
    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert "toy1.0" in packages(root) and not (tmp_path / "elsewhere").exists()


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
    monkeypatch.setattr(build, "python_in", lambda _: Path(sys._base_executable))  # without bpy
    monkeypatch.setattr(build, "install", lambda *_: "bpy could not be installed (code 1: no solution)")
    monkeypatch.setattr(build, "BLENDERS_PYTHON", f"3.{sys.version_info[1]}")
    assert "could not be installed (code 1" in build.bring_blender()
    monkeypatch.setattr(build, "install", lambda *_: "")
    assert build.bring_blender() == ""
    monkeypatch.setattr(build, "BLENDERS_PYTHON", "3.1")
    assert "needs Python 3.1, this is 3." in build.bring_blender()


def test_an_old_python_says_which_one_is_needed(tmp_path):
    """Old Pythons can read the file; then they say what to do, in one sentence."""
    ast.parse((ROOT / "build.py").read_text(encoding="utf-8"), feature_version=(3, 8))
    code = (
        "import sys; sys.version_info = (3, 9, 1); sys.version = '3.9.1 (old)'; sys.argv = ['build.py', 'setup']; "
        f"exec(compile(open({str(ROOT / 'build.py')!r}, encoding='utf-8').read(), 'build.py', 'exec'))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PATH": str(tmp_path)}
    )
    assert ran.returncode == 1 and ran.stdout == "" and ran.stderr.count("\n") == 1
    assert "needs Python 3.11, 3.12 or 3.13 to set itself up, and this is 3.9.1" in ran.stderr


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
