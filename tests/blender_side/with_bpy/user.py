"""A user who has installed the add-on and presses its buttons, for the tests of set-up, models and jobs."""

import json
import os
import subprocess
import sys
import time

import bpy
import pytest

import dreamflow_blender
from dreamflow_blender.ops import generate as ops_generate
from dreamflow_blender.session import findings, importing, jobs, service, tasks
from dreamflow_blender.settings import addon
from dreamflow_blender.setup.folder import fingerprint
from dreamflow_blender.ui import sidebar
from dreamflow_blender.ui.setup import draw_check, draw_preferences
from tests.blender_side.with_bpy import layout
from tests.blender_side.with_bpy.test_real_backend import ROOT, VENV

real = pytest.mark.skipif(not VENV.is_file(), reason="no backend here: python build.py setup")
posix = pytest.mark.skipif(os.name == "nt", reason="the fake Python is a script")
MISLEADING = "HF_HOME HF_ENDPOINT HF_TOKEN HF_HUB_OFFLINE HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY"
SMALL = """
import json, threading
import fake_backend as f
class Small(f.Fake):
    def job(self, folder, request):
        resumed = isinstance(request, f.p.Resume)
        size = 256 if resumed else request.job.overrides.get("geometry.size", 512)
        if size <= 256:
            return super().job(folder, request)
        folder.mkdir(parents=True)
        record = {{"job": json.loads(f.p.encode_job(request.job)), "settings": {{"geometry": {{"size": size}}}}}}
        (folder / "job.json").write_text(json.dumps(record))
        self.say(f.p.Started("geometry", 9))
        return f.p.Failed("memory", "The card is out of memory.", "Use a smaller preset.")
small = Small({behaviour!r}, 0.4)
threading.Thread(target=small.read, daemon=True).start()
small.work()
"""


@pytest.fixture
def user(tmp_path, monkeypatch):
    """The folder of a user with the add-on registered, allowed online, with nothing set up."""
    for name in (*MISLEADING.split(), service.PYTHON):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    (tmp_path / "models.toml").write_text("")
    monkeypatch.setenv("DREAMFLOW_MODELS_TOML", str(tmp_path / "models.toml"))
    folder = tmp_path / "ä user"
    monkeypatch.setattr(addon, "user_folder", lambda: folder)
    monkeypatch.setattr(service, "_stated_python", lambda: None)  # not the clone's own
    bpy.context.preferences.system.use_online_access = True
    entry = bpy.context.preferences.addons.new()
    entry.module = addon.NAME
    service.forget_state()
    dreamflow_blender.register()
    yield folder
    dreamflow_blender.unregister()
    bpy.context.preferences.addons.remove(entry)
    service.forget_state()
    tasks.dismiss()
    findings.checks.clear()
    findings.models.clear()
    findings.in_folder.clear()


def set_up(user, behaviour=""):
    """An environment where Set up makes it: of the clone's own packages, or of a worker that pretends."""
    folder = user / "environment"
    target = folder / "env-1"
    if behaviour:  # on a card with room for 256 pixels
        for name in ("env-1/bin", "env-0", "tools/uv", "cache"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "setup.log").write_text("said\n")
        (user / "worker.py").write_text(SMALL.format(behaviour=behaviour))
        python, tools = target / "bin" / "python", ROOT / "tests" / "tools"
        python.write_text(
            f"#!/bin/sh\nPYTHONPATH='{tools}':\"$PYTHONPATH\" exec '{sys.executable}' '{user / 'worker.py'}'\n"
        )
        python.chmod(0o755)
    else:
        subprocess.run([VENV, "-m", "venv", "--without-pip", target], check=True, timeout=120)
        site = "Lib/site-packages" if os.name == "nt" else "lib/python3*/site-packages"
        (theirs,), (ours,) = VENV.parents[1].glob(site), target.glob(site)
        (ours / "theirs.pth").write_text(f"{theirs}\n", encoding="utf-8")
        (ours / "rich-0.1.dist-info").mkdir()  # another version than tested
        (ours / "rich-0.1.dist-info" / "METADATA").write_text("Name: rich\nVersion: 0.1\n")
    says = {"folder": "env-1", "requirements": fingerprint(addon.REQUIREMENTS)}
    (folder / "environment.json").write_text(json.dumps(says))
    service.forget_state()


def tick_until(done, seconds=150.0):
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, (tasks.current, jobs.running, jobs.problem)
        jobs.tick()
        time.sleep(0.02)


def press(button, **options):
    """Press it, and wait for the end of what it begins."""
    assert getattr(bpy.ops.dreamflow, button)(**options) == {"FINISHED"} and tasks.current is not None
    assert not bpy.ops.dreamflow.list_models.poll()  # one at a time
    assert "Cancel" in layout.draw(sidebar.DREAMFLOW_PT_main).buttons()
    tick_until(lambda: tasks.current is None)


def refused(button):
    with pytest.raises(RuntimeError) as error:
        getattr(bpy.ops.dreamflow, button)()
    return str(error.value)


def generate(prompt, extra="geometry.size=64"):
    bpy.context.scene.dreamflow.prompt, bpy.context.scene.dreamflow.extra = prompt, extra
    jobs.add(ops_generate.make_job(bpy.context.scene.dreamflow), importing.import_target(bpy.context))


def idle():
    return jobs.running is None and not jobs.get_store().waiting() and not importing.due()


def preferences():
    drawn = layout.Fake()
    draw_preferences(drawn, addon.preferences())
    return drawn


def said(drawn, *texts):
    """Whether all were drawn, on however many lines."""
    return all("".join(text.split()) in "".join(drawn.said().split()) for text in texts)


def mends(check):
    """What is drawn for one finding, and its buttons: [(operator, what it is told)]."""
    drawn = layout.Fake()
    draw_check(drawn, bpy.context, check)
    told = [{k: v for k, v in vars(chosen).items() if k != "_known"} for _, _, chosen in drawn.operators]
    return drawn, list(zip((name for name, _, _ in drawn.operators), told, strict=True))


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
