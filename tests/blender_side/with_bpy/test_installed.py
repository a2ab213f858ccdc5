"""The built zip, installed as a user does it, into a folder with a space and an accent in its path."""

import importlib
import importlib.abc
import os
import subprocess
import sys
import time
from pathlib import Path

import bpy
import pytest

from tests.blender_side.with_bpy import fake
from tests.tools.packager import build_package

ROOT = Path(__file__).resolve().parents[3]
MODULE = "bl_ext.user_default.dreamflow"


@pytest.fixture(autouse=True)
def empty_file():
    """Not the factory's settings, as elsewhere: they would disable the extension."""
    bpy.ops.wm.read_homefile(use_empty=True)


class NotOnThePath(importlib.abc.MetaPathFinder):
    """In the user's Blender the project is no folder on sys.path: only the extension's own package can be imported."""

    def find_spec(self, fullname, path, target=None):
        if fullname.partition(".")[0] in ("backend", "dreamflow_blender"):
            raise ModuleNotFoundError(
                f"No module named {fullname!r}: the extension has another name in Blender"
            )
        return


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of the extension, enabled, where nothing but the extension itself can be imported."""
    zip_file = build_package.package(ROOT, tmp_path_factory.mktemp("zip"))
    for name in [name for name in sys.modules if name.partition(".")[0] in ("backend", "dreamflow_blender")]:
        del sys.modules[name]
    sys.meta_path.insert(0, NotOnThePath())
    bpy.ops.extensions.package_install_files(
        filepath=str(zip_file), repo="user_default", enable_on_install=True
    )
    module = importlib.import_module(MODULE)
    yield Path(module.__file__).parent
    if MODULE in bpy.context.preferences.addons:
        bpy.ops.preferences.addon_disable(module=MODULE)


def listing(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if "__pycache__" not in p.parts}


def inside(name: str):
    return importlib.import_module(f"{MODULE}.dreamflow_blender.{name}")


@pytest.fixture
def backend(installed, tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMFLOW_PYTHON", str(fake.python(tmp_path)))
    inside("session.service").forget_state()
    yield
    inside("session.service").forget_state()


def test_enabled_with_preferences(installed):
    assert "é" in str(installed) and " " in str(installed)
    addon = inside("settings.addon")
    assert addon.NAME == MODULE
    assert addon.preferences().idle_minutes == 5.0
    assert str(addon.user_folder()).startswith(bpy.utils.extension_path_user(MODULE))
    assert installed not in addon.user_folder().parents


def test_generate_and_nothing_is_written_there(installed, backend, tmp_path):
    before = listing(installed)
    made = importlib.import_module(f"{MODULE}.dreamflow_blender").generate("a red mug", height=0.1)
    assert made.name == "Red mug" and made.data.materials[0].node_tree.nodes
    assert Path(inside("settings.addon").jobs_folder()).is_dir()
    assert listing(installed) == before
    assert not list((installed / "backend").rglob("__pycache__"))


def test_set_up_is_offered_where_nothing_is_set_up(installed, monkeypatch):
    monkeypatch.delenv("DREAMFLOW_PYTHON", raising=False)
    inside("session.service").forget_state()
    state = inside("session.service").state()
    assert state.state == "absent" and state.python is None
    assert not bpy.ops.dreamflow.generate.poll()
    inside("session.service").forget_state()


@pytest.mark.parametrize("state", ["enabled", "disabled", "absent"])
def test_batch_from_the_installed_folder(installed, tmp_path, state):
    """As a bare script, whatever the user's preferences say of the extension."""
    environment = {**os.environ, "DREAMFLOW_PYTHON": str(fake.python(tmp_path))}
    if state == "absent":
        environment["BLENDER_USER_RESOURCES"] = str(tmp_path / "nobody")
    if state == "disabled":
        bpy.ops.preferences.addon_disable(module=MODULE)
    bpy.ops.wm.save_userpref()
    if state == "disabled":
        bpy.ops.preferences.addon_enable(module=MODULE)
    code = (
        "import bpy, runpy, sys; sys.argv = ['blender', '--', *sys.argv[1:]];"
        f"runpy.run_path({str(installed / 'dreamflow_blender' / 'batch.py')!r}, run_name='__main__')"
    )
    out = tmp_path / "öut"
    command = [sys.executable, "-c", code, "--prompt", "a mug", "--out", str(out), "--blend"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (out / "a-mug-42" / "object.blend").is_file()


def test_disable_and_enable_again(installed):
    for _ in range(2):
        bpy.ops.preferences.addon_disable(module=MODULE)
        assert not hasattr(bpy.types, "DREAMFLOW_PT_main") and not hasattr(bpy.types.Scene, "dreamflow")
        bpy.ops.preferences.addon_enable(module=MODULE)
        assert hasattr(bpy.types, "DREAMFLOW_PT_main")


def test_uninstalled_during_a_job(installed, tmp_path, monkeypatch):
    """The worker ends before the extension's files go; its user folder goes with them, as Blender has it."""
    monkeypatch.setenv("DREAMFLOW_PYTHON", str(fake.python(tmp_path, "slow", 2.0)))
    inside("session.service").forget_state()
    jobs, ops_run, importing = inside("session.jobs"), inside("ops.generate"), inside("session.importing")
    bpy.context.scene.dreamflow.prompt = "a red mug"
    jobs.add(ops_run.make_job(bpy.context.scene.dreamflow), importing.import_target(bpy.context))
    until = time.monotonic() + 60
    while not (jobs.running and jobs.running.stage):
        assert time.monotonic() < until, jobs.problem
        jobs.tick()
        time.sleep(0.02)
    pid = inside("session.service").client.pid
    number = next(
        n for n, r in enumerate(bpy.context.preferences.extensions.repos) if r.module == "user_default"
    )
    bpy.ops.extensions.package_uninstall(repo_index=number, pkg_id="dreamflow")
    assert not installed.exists() and not hasattr(bpy.types, "DREAMFLOW_PT_main")
    if os.name == "posix":
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
