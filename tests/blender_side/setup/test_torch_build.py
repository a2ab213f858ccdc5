"""Which build of torch fits a machine: by what nvidia-smi says on many of them, and what is told to the user."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dreamflow_blender.setup import torch_build
from dreamflow_blender.setup.torch_build import BUILDS, Card, Choice, Seen
from tests.tools.nvidia_smi import MACHINES

ROOT = Path(__file__).parents[3]
posix = pytest.mark.skipif(os.name == "nt", reason="the stand-in for nvidia-smi is a script")


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("system", ["linux", "windows"])
def test_the_build_for_a_machine(name, system):
    machine = MACHINES[name]
    seen = torch_build.read(machine.ask)
    choice = torch_build.choose(seen, windows=system == "windows")
    assert choice.build == getattr(machine, system), (seen, choice)
    if choice.build == machine.linux:
        assert machine.says in f"{choice.sentence} | {choice.todo}"
    assert choice.card == bool(seen.cards)
    if choice.build != "cpu":  # it runs, and on the newest card that anything runs on
        [build] = [build for build in BUILDS if build.name == choice.build]
        assert torch_build.runs(build, seen, system == "windows")
        assert any(
            card.name in choice.why and torch_build.serves(build, card.capability) for card in seen.cards
        )


def test_both_spellings_of_the_version():
    for new in (False, True):
        [name] = [n for n in MACHINES if n == ("RTX 4070, Windows, 2026" if new else "RTX 4090, driver 580")]
        seen = torch_build.read(
            lambda *options, name=name: (0, MACHINES[name].banner) if not options else (2, "no")
        )
        assert (seen.driver, seen.cuda) == (("610.47", (13, 3)) if new else ("580.105.08", (13, 0)))
        assert seen.cards == (Card("an NVIDIA card", None),) and torch_build.choose(seen).build == "cu130"


def test_what_is_asked_for_wins():
    seen = torch_build.read(MACHINES["RTX 4090, driver 580"].ask)
    assert torch_build.decide("", seen).build == "cu130"
    assert (
        torch_build.decide("cpu", seen).build == "cpu"
        and torch_build.decide("cu126", Seen()).build == "cu126"
    )
    asked = torch_build.decide("https://me:secret@mine/whl/cu126", seen)
    assert (asked.build, asked.card) == ("address", True) and "secret" not in asked.sentence
    assert "secret" not in torch_build.failure(asked, "X")
    with pytest.raises(ValueError, match="no build 'cu128' of torch: name cpu, cu130, cu126, or an address"):
        torch_build.decide("cu128", seen)


def test_where_it_comes_from():
    def where(build, system):
        return [
            (way.address.rpartition("/")[2], way.version, way.only)
            for way in torch_build.ways(Choice(build, ""), system)
        ]

    assert where("cpu", "linux") == [
        ("", "", "cpu"),
        ("cpu", "+cpu", ""),
    ]  # never what is not the processor's
    assert where("cpu", "win32") == where("cpu", "darwin") == [("", "", "")]
    assert where("cu130", "linux") == [("", "", "cuda 13"), ("cu130", "+cu130", "")]
    assert where("cu126", "linux") == [("cu126", "+cu126", "")]
    assert where("cu130", "win32") == [
        ("cu130", "+cu130", "")
    ]  # the registry's wheel for Windows is the processor's
    [way] = torch_build.ways(Choice("address", "", address="https://mine/whl"), "linux")
    assert (way.address, way.version) == ("https://mine/whl", "")
    for build, todo in (("cpu", "X=cu130 takes"), ("cu126", "X=cpu takes")):
        assert todo in torch_build.failure(Choice(build, ""), "X")


def test_what_a_source_would_bring():
    assert torch_build.kind(["nvidia-cudnn-cu13==9.20.0.48", "triton==3.7.1"]) == "cuda 13"
    assert torch_build.kind(["nvidia-cublas-cu12==12.6.4.1"]) == "cuda 12"
    assert torch_build.kind(["sympy==1.14.0"]) == "cpu" and torch_build.kind([]) == "cpu"
    assert torch_build.kind(["nvidia-cuda-runtime==13.0.96", "nvidia-cudnn-cu13==9.20.0.48"]) == "cuda 13"
    assert torch_build.kind(["nvidia-toy==1.0"]) == "cuda"  # which nothing asks for


LISTS = {b.name: [f"sm_{major}{minor}" for major, minor in b.kernels] for b in BUILDS}


@pytest.mark.parametrize(
    ("build", "todo", "said", "told"),
    [
        ("cpu", "", ["2.13.0+cpu", "", False, [], []], ""),
        ("cu130", "", ["2.13.0+cu130", "13.0", True, [["RTX 4090", 8, 9]], LISTS["cu130"]], ""),
        ("cu130", "", ["2.13.0+cu130", "13.0", True, [["GB10", 12, 1]], LISTS["cu130"]], ""),
        (
            "cu130",
            "",
            ["2.13.0+cu130", "13.0", False, [], []],
            "finds no NVIDIA card: see whether nvidia-smi lists it",
        ),
        ("cu130", "", ["2.13.0", "", False, [], []], "cu130 was wanted: the NVIDIA card is not used"),
        (
            "cu126",
            "",
            ["2.13.0+cu130", "13.0", True, [["GTX 1080", 6, 1]], LISTS["cu130"]],
            "cu126 was wanted",
        ),
        (
            "cu130",
            "",
            ["2.13.0+cu130", "13.0", True, [["GTX 1080", 6, 1]], LISTS["cu130"]],
            "GTX 1080: set X to cu126",
        ),
        ("cu130", "", ["2.13.0+cu130", "13.0", True, [["5090", 12, 0], ["1080", 6, 1]], LISTS["cu130"]], ""),
        ("address", "", ["2.13.0", "", False, [], []], "the NVIDIA card is not used"),
        ("address", "", ["2.13.0+cu126", "12.6", True, [["RTX 3060", 8, 6]], ["sm_50", "compute_80"]], ""),
        ("cpu", "Restart.", ["2.13.0+cpu", "", False, [], []], "Restart."),
    ],
)
def test_what_has_become_of_it(build, todo, said, told):
    choice = Choice(build, "", todo, card=True, address="https://mine" if build == "address" else "")
    version, note = torch_build.verdict(choice, json.dumps(said), "X")
    assert version == said[0] and (told in note if told else note == "")


def test_nonsense_is_no_verdict():
    for said in ("", "nonsense", "[1]"):
        with pytest.raises(ValueError):
            torch_build.verdict(Choice("cpu", ""), said, "X")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Puts an nvidia-smi on the path, and gives the folder of a kernel module."""
    folder = tmp_path / "a folder é"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(torch_build, "SMI_SECONDS", 5)

    def put(name):
        """This machine's, or none."""
        if name:
            data = {
                option: MACHINES[name].ask(*option)
                for option in ((), ("--query-gpu=name,driver_version,compute_cap",))
            }
            code = f"import sys; code, said = {data!r}[tuple(sys.argv[1:2])]; print(said, end=''); sys.exit(code)"
            (folder / "smi.py").write_text(code, encoding="utf-8")
            smi = folder / "nvidia-smi"
            smi.write_text(
                f"#!/bin/sh\nexec '{sys.executable}' '{folder / 'smi.py'}' \"$@\"\n", encoding="utf-8"
            )
            smi.chmod(0o755)
        return tmp_path / "proc"

    return put


@posix
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no NVIDIA driver")
def test_a_real_program_is_asked(machine):
    children = []
    proc = machine("RTX 5090 beside GTX 1080, driver 580")
    seen = torch_build.look(children.append, proc)
    assert seen == Seen(
        (Card("NVIDIA GeForce GTX 1080", (6, 1)), Card("NVIDIA GeForce RTX 5090", (12, 0))),
        "580.95.05",
        (13, 0),
    )
    assert children[1::2] == [None, None] and all(child.poll() == 0 for child in children[::2])
    proc = machine("updated without a restart")
    assert "mismatch" in torch_build.look(proc=proc).trouble


VERSION = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (root@host)\nGCC version:  gcc 14\n",
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Fri Mar  7 03:00:01 UTC 2026\nGCC version:  gcc version 12\n",
)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's kernel module")
@pytest.mark.parametrize("text", VERSION)
def test_a_driver_without_nvidia_smi(machine, text):
    proc = machine("")
    assert list(torch_build.programs()) == [] and torch_build.look(proc=proc) == Seen()
    card = proc / "gpus" / "0000:01:00.0"
    card.mkdir(parents=True)
    (card / "information").write_text("Model: \t\t NVIDIA GeForce RTX 3090\nIRQ:   \t\t 131\n")
    (proc / "version").write_text(text.format("550.163.01"))
    seen = torch_build.look(proc=proc)
    assert seen == Seen((Card("NVIDIA GeForce RTX 3090", None),), "550.163.01")
    assert torch_build.choose(seen).build == "cu126"


def test_windows_folders_are_looked_in(monkeypatch, tmp_path):
    """Without a path to it, as in a Blender that was started from its icon."""
    there = tmp_path / "NVIDIA Corporation\\NVSMI" / "nvidia-smi.exe"
    there.parent.mkdir()
    there.write_bytes(b"")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(torch_build.shutil, "which", lambda _: None)
    monkeypatch.setenv("SYSTEMROOT", str(tmp_path / "nowhere"))
    monkeypatch.setenv("PROGRAMW6432", str(tmp_path))
    monkeypatch.setenv("PROGRAMFILES", str(tmp_path / "x86"))
    assert list(torch_build.programs()) == [str(there)]


def test_macs_have_none(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(torch_build, "programs", lambda: pytest.fail("asked"))
    assert torch_build.look() == Seen()


def test_build_py_and_set_up_share_the_rule():
    code = "import runpy; print(runpy.run_path('build.py')['torch_build'].BUILDS)"
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert said.strip() == repr(BUILDS)


def test_the_size_that_is_told_is_this_machines(monkeypatch, tmp_path):
    size = torch_build.expected_gb.__wrapped__
    monkeypatch.setattr(torch_build, "programs", lambda: iter(()))
    monkeypatch.setattr(torch_build.sys, "platform", "linux")
    assert (size(tmp_path / "none"), size(tmp_path)) == (2, 6)
    monkeypatch.setattr(torch_build, "programs", lambda: iter(["nvidia-smi"]))
    assert size(tmp_path / "none") == 6
    monkeypatch.setattr(torch_build.sys, "platform", "darwin")
    assert size(tmp_path) == 2
