"""The extension's zip: what is in it, that its bytes are the same everywhere, and what Blender's own tool says."""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from backend import __version__
from tests.tools.packager import build_package

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("DREAMFLOW_BPY_PYTHON") or (
    sys.executable if importlib.util.find_spec("bpy") is not None else ""
)
WHERE = "import importlib.util, pathlib; print(pathlib.Path(importlib.util.find_spec('bpy').origin).parent)"
needs_bpy = pytest.mark.skipif(
    not PYTHON, reason="no bpy here: pip install bpy==4.5.15 (Python 3.11), or set DREAMFLOW_BPY_PYTHON"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return build_package.package(ROOT, tmp_path_factory.mktemp("a folder é"))


def test_what_is_in_it(made):
    with zipfile.ZipFile(made) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
        init = archive.read("__init__.py").decode()
    assert made.name == f"dreamflow-{__version__}.zip" and made.stat().st_size < 25_000_000
    assert len(init.splitlines()) == 2 and "register" in init and "unregister" in init
    needed = {
        "blender_manifest.toml",
        "LICENSE",
        "requirements.txt",
        "backend/__main__.py",
        "backend/mini/base/CREDITS.txt",  # goes with the weights
        "dreamflow_blender/client/client.py",
    }
    assert needed <= set(names)
    tops = {name.split("/")[0] for name in names}
    assert tops == {
        "__init__.py",
        "blender_manifest.toml",
        "LICENSE",
        "requirements.txt",
        "documentation.txt",
        "backend",
        "dreamflow_blender",
    }
    assert not [name for name in names if re.search(r"test|__pycache__|\.pyc|\.whl|(^|/)\.", name)]


def test_training_stays_in_the_repository(made):
    """Nothing that ships imports it, so that nothing is missed."""
    with zipfile.ZipFile(made) as archive:
        code = {name: archive.read(name) for name in archive.namelist() if name.endswith(".py")}
    assert not [name for name in code if name.startswith("backend/training/")]
    assert len(code) > 100 and not [name for name, raw in code.items() if b"backend.training" in raw]


def test_the_version_is_the_manifest_s_everywhere():
    """What must repeat it: the rest reads it. README names the zip."""
    version = tomllib.loads((ROOT / "blender_manifest.toml").read_text(encoding="utf-8"))["version"]
    assert __version__ == version
    assert (
        tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"] == version
    )
    said = re.findall(r"dreamflow-(\d[\w.]*)\.zip", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert said and set(said) == {version}
    folders = [p for top in ("backend", "dreamflow_blender") for p in (ROOT / top).rglob("*.py")]
    repeated = [p.relative_to(ROOT).as_posix() for p in folders if f'"{version}"' in p.read_text("utf-8")]
    assert repeated == ["backend/__init__.py"]


def test_the_same_bytes_from_any_clone(made, tmp_path):
    """Other dates, other line ends, another order of writing, and what a run leaves behind."""
    clone = tmp_path / "clone"
    made_here = {"__init__.py", "documentation.txt"}
    files = [name for name in build_package.contents(ROOT) if name not in made_here]
    files += [f"docs/{name}" for name in build_package.PAGES]
    for name in reversed(files):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        raw = (ROOT / name).read_bytes()
        (clone / name).write_bytes(
            raw.replace(b"\n", b"\r\n") if name.endswith((".py", ".toml", ".md")) else raw
        )
    (clone / "backend" / "__pycache__").mkdir()
    (clone / "backend" / "__pycache__" / "x.cpython-311.pyc").write_bytes(b"x")
    (clone / "backend" / ".hidden.py").write_bytes(b"x")
    for name in ("build.py", ".ci/package.py"):
        (clone / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    ran = subprocess.run(
        [sys.executable, str(clone / "build.py"), "package"], capture_output=True, cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    assert str(made.name).encode() in ran.stdout
    assert (clone / "dist" / made.name).read_bytes() == made.read_bytes()


def test_the_index_describes_the_zip(made):
    [entry] = json.loads((made.parent / "index.json").read_text(encoding="utf-8"))["data"]
    assert entry["archive_url"] == f"./{made.name}" and entry["archive_size"] == made.stat().st_size
    assert entry["archive_hash"] == "sha256:" + hashlib.sha256(made.read_bytes()).hexdigest()
    assert entry["version"] == __version__ and entry["blender_version_min"] == "4.2.0"


def test_the_manifest_keeps_to_the_rules():
    manifest = tomllib.loads((ROOT / "blender_manifest.toml").read_text(encoding="utf-8"))
    assert "Blender" not in manifest["name"]
    assert set(manifest["permissions"]) <= {"files", "network", "clipboard", "camera", "microphone"}
    assert manifest["website"].startswith("https://")
    for text in (manifest["tagline"], *manifest["permissions"].values()):
        assert len(text) <= 64 and text[-1].isalnum()


def test_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(build_package, "LARGEST", 1000)
    with pytest.raises(SystemExit, match="MB, more than"):
        build_package.package(ROOT, tmp_path)


def test_the_backend_runs_from_the_unpacked_zip(made, tmp_path):
    """As the extension starts it: from a folder that nobody may write to, with the caches elsewhere."""
    folder = tmp_path / "extensions" / "dreamflow"
    shutil.unpack_archive(made, folder)
    code = (
        "import backend, dreamflow_blender.client.client as c; from pathlib import Path; "
        "print(backend.__version__, Path(c.__file__).parents[2])"
    )
    variables = {**os.environ, "PYTHONPATH": str(folder), "PYTHONPYCACHEPREFIX": str(tmp_path / "cache")}
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == f"{__version__} {folder}"
    assert not list(folder.rglob("__pycache__"))


@pytest.fixture(scope="module")
def blenders_tool():
    """Blender's own extension tool, with its list of tags; it needs no bpy, only to be found."""
    ran = subprocess.run([PYTHON, "-c", WHERE], capture_output=True, text=True, check=True, timeout=60)
    [scripts] = Path(ran.stdout.strip()).glob("*.*/scripts")
    tags = scripts / "modules" / "_bpy_internal" / "extensions" / "tags.py"

    def run(command, *arguments):
        tool = scripts / "addons_core" / "bl_pkg" / "cli" / "blender_ext.py"
        more = ["--valid-tags", str(tags)] if command == "validate" and tags.is_file() else []
        ran = subprocess.run(
            [PYTHON, str(tool), command, *more, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    return run


@needs_bpy
def test_blender_validates_the_zip(made, blenders_tool):
    said = blenders_tool("validate", made).lower()
    assert "success" in said and "error" not in said and "warn" not in said


@needs_bpy
def test_blender_writes_the_same_index(made, blenders_tool, tmp_path):
    shutil.copy(made, tmp_path)
    blenders_tool("server-generate", "--repo-dir", tmp_path)
    ours, theirs = (
        json.loads((folder / "index.json").read_text("utf-8")) for folder in (made.parent, tmp_path)
    )
    assert ours == theirs


@needs_bpy
def test_blender_installs_from_the_static_repository(made, blenders_tool, tmp_path):
    """As a user who has dragged the link of a self-hosted repository into Blender."""
    local = tmp_path / "local é"
    local.mkdir()
    options = ["--local-dir", local, "--remote-url", (made.parent / "index.json").as_uri()]
    blenders_tool("sync", *options)
    blenders_tool(
        "install",
        *options,
        "--local-cache",
        "1",
        "--blender-version",
        "4.2.0",
        "--python-version",
        "3.11",
        "dreamflow",
    )
    assert (local / "dreamflow" / "blender_manifest.toml").is_file()
