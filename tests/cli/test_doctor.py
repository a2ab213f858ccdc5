"""doctor on machines where something is broken: each in a process of its own, as the user would run it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backend.cli import doctor, probes
from backend.config import PRESETS
from dreamflow_blender.setup import torch_build
from tests.tools.tiny_models import build

ROOT = Path(__file__).parents[2]
FIXES = ("", "setup", "repair", "space", "folder", "driver", "models")  # what buttons can do
posix = pytest.mark.skipif(os.name == "nt", reason="a stub that is a shell script")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """On the path, instead of seconds of importing torch; other things are broken in these tests."""
    return package(tmp_path_factory.mktemp("quick"), "torch", "raise ImportError('no torch in this test')")


def ask(*arguments, cwd=ROOT, python=sys.executable, path="", **variables):
    """(exit code, {name: checks of that name}, everything that was written)."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [path, str(ROOT)])), **variables}
    ran = subprocess.run(
        [python, "-m", "backend", "doctor", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in ran.stderr + ran.stdout
    checks = {}
    for line in ran.stdout.splitlines() if "--json" in arguments else ():
        said = json.loads(line)
        assert said["event"] in ("check", "report")
        if said["event"] == "check":
            checks.setdefault(said["name"], []).append(said)
            assert said["message"] and said["fix"] in FIXES
            assert (said["state"] == "problem") <= (said["todo"] != "")
    return ran.returncode, checks, ran.stdout + ran.stderr


def package(folder, name, code):
    """A stand-in for an installed package."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)
    return str(folder)


def test_a_machine_where_all_is_well(tmp_path):
    code, checks, _ = ask("--json", cwd=tmp_path)
    problems = [check for named in checks.values() for check in named if check["state"] == "problem"]
    assert code == bool(problems)
    assert {"Python", "packages", "torch", "memory", "jobs", "home", "hash grid", "rasteriser"} <= set(checks)
    assert str(tmp_path) in checks["jobs"][0]["message"]


@pytest.mark.slow
def test_what_fits_into_memory_is_told_where_stable_diffusion_is(tmp_path):
    build(tmp_path / "sd é", "sd21-base")
    (tmp_path / "models.toml").write_text(f"[sd]\nsources = ['{(tmp_path / 'sd é').as_posix()}']\n", "utf-8")
    variables = {"DREAMFLOW_MODELS_TOML": str(tmp_path / "models.toml"), "HF_HOME": str(tmp_path)}
    _, checks, _ = ask("--json", **variables)
    fits = [check["message"] for check in checks["memory"] if "Stable Diffusion, preset" in check["message"]]
    assert [preset for preset in PRESETS if any(f"preset {preset}:" in words for words in fits)] == [*PRESETS]
    assert len(fits) == len(PRESETS)


def test_told_to_a_person():
    good, bad = doctor.Check("torch", "good", "2.13"), doctor.Check("jobs", "problem", "Full.", "rm x")
    assert list(doctor.as_text([good])) == ["  torch  2.13", "", "Nothing is wrong."]
    assert list(doctor.as_text([good, bad]))[1:] == [
        "! jobs   Full.",
        "",
        "1 problem:",
        "  Full.",
        "      rm x",
    ]


def test_torch_is_missing(tmp_path):
    """A Python with nothing in it: doctor itself needs nothing."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    python = tmp_path / "bare" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    code, checks, _ = ask("--json", python=python)
    assert code == 1
    assert "accelerate" in checks["packages"][0]["message"] and checks["packages"][0]["fix"] == "repair"
    assert "No module named 'torch'" in checks["torch"][0]["message"]
    assert (
        "hash grid" not in checks and "kernels" not in checks and "models" not in checks
    )  # one fault, told once


@pytest.mark.parametrize(
    "broken, told",
    [
        ("raise OSError('libcudart.so.13: cannot open shared object file')", "libcudart"),
        ("import os; os.abort()", "ended with code"),
        ("import ctypes; ctypes.string_at(0)", "ended with code"),
        ("import os; os.write(1, b'{' * 100_000); os._exit(0)", "ended with code 0"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("__version__ = 3", "AttributeError"),
    ],
    ids=["a library is missing", "aborts", "crashes", "babbles", "interrupts", "is something else"],
)
def test_torch_is_broken(tmp_path, broken, told):
    code, checks, _ = ask("--json", path=package(tmp_path, "torch", broken))
    assert code == 1 and told in checks["torch"][0]["message"]
    assert "build.py setup" in checks["torch"][0]["todo"]


def test_torch_never_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", package(tmp_path, "torch", "import time; time.sleep(1000)"))
    began = time.monotonic()
    assert "did not answer within 1 s" in probes.probe("torch", "kernels", seconds=1.0)["kernels"]["error"]
    assert time.monotonic() - began < 10


@posix
@pytest.mark.parametrize(
    "stub, told",
    [
        (
            "echo 'NVIDIA-SMI has failed because it could not communicate with the driver.'; exit 9",
            "communicate",
        ),
        ("exit 12", "ended with 12"),
        ("kill -SEGV $$", "ended with -11"),
        ("printf '\\377\\376 garbage'; exit 1", "garbage"),
    ],
    ids=["no driver", "silent", "crashes", "garbage"],
)
def test_the_driver_is_broken(tmp_path, monkeypatch, stub, told):
    driver(tmp_path, monkeypatch, stub)
    found = probes.look_at_driver()
    assert told in found["error"]
    [check] = doctor._driver({"driver": found}, {})
    assert check.state == "problem" and check.fix == "driver" and "nvidia-smi lists the card" in check.todo


@posix
@pytest.mark.timeout(100)
def test_the_driver_never_answers(tmp_path, monkeypatch):
    """Nor does what it has started, which holds its output open."""
    driver(tmp_path, monkeypatch, "sleep 1000 & wait")
    monkeypatch.setattr(torch_build, "SMI_SECONDS", 1)
    assert "did not answer" in probes.look_at_driver()["error"]


@posix
def test_a_card_beside_a_torch_for_the_processor(tmp_path, monkeypatch):
    """The commonest fault of an installation, with the button that mends it."""
    driver(tmp_path, monkeypatch, "echo 'NVIDIA GeForce RTX 4070, 580.95.05, 8.9'")
    found = probes.look_at_driver()
    assert found == {"version": "580.95.05", "cards": ["NVIDIA GeForce RTX 4070"]}
    torch = {"version": "2.13.0+cpu", "cuda": "", "threads": 4, "mps": False, "gpus": []}
    *_, last = doctor._torch({"driver": found, "torch": torch}, {})
    assert (last.state, last.fix) == (
        "problem",
        "repair",
    ) and "does not use the NVIDIA GeForce" in last.message
    *_, last = doctor._torch({"driver": found, "torch": {**torch, "cuda": "13.0"}}, {})
    assert (last.state, last.fix) == ("problem", "driver") and "too old for CUDA 13.0" in last.message


@posix
def test_a_driver_that_is_too_old_is_told_with_the_one_that_is_needed(tmp_path, monkeypatch):
    """Also where nvidia-smi is not on PATH but in one of the other places that setting up knows."""
    driver(tmp_path, monkeypatch, "echo 'NVIDIA GeForce RTX 4070, 470.57, 8.9'")
    monkeypatch.setenv("PATH", os.environ["PATH"].partition(os.pathsep)[2])
    monkeypatch.setattr(torch_build, "programs", lambda: iter([str(tmp_path / "nvidia-smi")]))
    found = probes.look_at_driver()
    [check] = doctor._driver({"driver": found}, {})
    assert (check.state, check.fix) == ("problem", "driver")
    assert "driver 470.57 is too old for NVIDIA GeForce RTX 4070" in check.message
    assert check.todo.startswith("Update NVIDIA's driver to 580 or newer")
    torch = {"version": "2.13.0+cpu", "cuda": "", "threads": 4, "mps": False, "gpus": []}
    assert all(one.state != "problem" for one in doctor._torch({"driver": found, "torch": torch}, {}))


def test_a_card_that_cannot_be_used_and_one_that_warp_finds_no_driver_for():
    note = "Running on the CPU. This torch has no kernels for the GTX 1080."
    torch = {"version": "2.13.0", "cuda": "13.0", "threads": 4, "mps": False, "gpus": [], "unusable": note}
    checks = list(doctor._torch({"driver": {}, "torch": torch}, {}))
    assert [(check.message, check.fix) for check in checks if check.state == "problem"] == [(note, "driver")]
    slow = "In plain torch, many times slower: marching. warp needs a newer driver."
    kernels = {
        "names": {"marching": "torch"},
        "why": {"marching": "warp needs a newer driver."},
        "slow": slow,
    }
    *_, last = doctor._kernels({"kernels": kernels, "torch": torch}, {})
    assert (last.state, last.message, last.fix) == ("problem", slow, "driver")
    broken = (
        "nvdiffrast is installed and does not run on the GTX 1080 (no kernel image): other kernels are used."
    )
    *_, last = doctor._kernels({"kernels": {**kernels, "broken": [broken]}, "torch": torch}, {})
    assert (last.state, last.message) == ("note", broken)


def driver(folder, monkeypatch, script):
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@posix
def test_a_home_that_cannot_be_written(tmp_path, quick):
    """A file where the folder should be, and (also for an administrator) a file system that takes nothing."""
    (tmp_path / "home").write_text("")
    for home in (str(tmp_path / "home"), "/proc"):
        if Path(home).exists():
            code, checks, _ = ask("--json", path=quick, HOME=home)
            assert code == 1 and checks["home"][0]["state"] == "problem"
            assert checks["home"][0]["fix"] == "folder" and home in checks["home"][0]["message"]


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", str(tmp_path))

    monkeypatch.setattr(doctor, "write_a_byte", full)
    checks = list(doctor._folders({"models": {"error": "gone"}}, {}))
    assert len(checks) == 3 and all("No space left" in check.message for check in checks)


@posix
def test_a_disk_that_is_really_full(tmp_path, quick):
    """A file system of 64 kB, full to the last byte, where everything that doctor may write would lie."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        f"mount -t tmpfs -o size=64k tmpfs '{disk}' && (cat /dev/zero > '{disk}/rest' 2>/dev/null; "
        f"cd '{disk}' && exec '{sys.executable}' -m backend doctor --json)"
    )
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "-m", "true"], capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here")
    places = {"TMPDIR": str(disk), "HOME": str(disk), "HF_HOME": str(disk)}
    ran = subprocess.run(
        [unshare, "-m", "sh", "-c", script], capture_output=True, text=True, timeout=120,
        env={**os.environ, **places, "PYTHONPATH": os.pathsep.join([quick, str(ROOT)])},
    )  # fmt: skip
    assert "Traceback" not in ran.stderr
    said = {(one := json.loads(line)).get("name"): one for line in ran.stdout.splitlines()}
    assert ran.returncode == 1
    assert "No space left" in said["jobs"]["message"] and "No space left" in said["home"]["message"]
    assert "no torch in this test" in said["torch"]["message"]


@posix
def test_nobody_can_read_the_answer(quick):
    with Path("/dev/full").open("w") as out:
        ran = subprocess.run(
            [sys.executable, "-m", "backend", "doctor"],
            cwd=ROOT,
            stdout=out,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([quick, str(ROOT)])},
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert ran.returncode == 1 and "Traceback" not in ran.stderr


def test_a_folder_that_has_gone(tmp_path, quick):
    code = "import os, sys; os.rmdir(os.getcwd()); from backend.__main__ import main; "
    code += "sys.exit(main(['doctor', '--json']))"
    gone = tmp_path / "gone"
    gone.mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=gone,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([quick, str(ROOT)])},
        capture_output=True,
        text=True,
    )
    if os.name != "nt":  # which removes no folder that is in use
        assert ran.returncode == 1 and "folder for jobs" in ran.stdout and "Traceback" not in ran.stderr


def test_a_look_that_fails_costs_nobody_else_theirs(monkeypatch, quick):
    def faint(*_):
        raise ZeroDivisionError("ouch")

    faint.__name__ = "_torch"
    monkeypatch.setattr(doctor, "_torch", faint)
    monkeypatch.setenv("PYTHONPATH", quick)
    checks, _ = doctor.examine()
    assert any(check.name == "torch" and "ouch" in check.message for check in checks)
    assert any(check.name == "jobs" for check in checks)


def test_what_is_required(tmp_path):
    listed = tmp_path / "requirements.txt"
    listed.write_text(
        '# a\na==1.0\nb==2 ; python_version < "3.0"\nc==3 ; sys_platform == "nowhere"\n-r x\nd==4 # why\n'
    )
    assert probes.required(listed) == {"a": "1.0", "d": "4"}
    assert probes.installed("pytest") and probes.installed("no-such-package") is None
    assert len(probes.required(ROOT / "requirements.txt")) > 50
    monkey = dict.fromkeys(probes.required(tmp_path / "nowhere"))
    assert "torch" in monkey  # asked for even where the list is lost
