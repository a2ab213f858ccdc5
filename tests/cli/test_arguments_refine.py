"""`python -m backend refine MESH PROMPT`, as a person types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from backend import __main__ as cli
from backend.meshes.glb import parse
from backend.meshes.glb_scene import read_glb
from tests.tools.made_meshes import a_glb
from tests.tools.refine_run import OVERRIDES, shorten

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [part for name, value in OVERRIDES.items() for part in ("--set", f"{name}={value}")]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)


def last_of(text: str) -> dict:
    return json.loads([line for line in text.splitlines() if line.startswith('{"event"')][-1])


def test_a_glb_goes_in_and_comes_out(short, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my ball é.glb").write_bytes(a_glb())
    out = tmp_path / "öut"
    said = ["refine", str(tmp_path / "my ball é.glb"), "a ball", "--out", str(out)]
    assert cli.main([*said, "--strength", "0.4", "--front", "90", *SETTINGS, "--threads", "1", "--json"]) == 0
    finished = last_of(capfd.readouterr().out)
    assert finished["event"] == "finished" and {"mesh.glb", "mesh.npz", "albedo.png"} <= set(
        finished["paths"]
    )
    record = json.loads((out / "job.json").read_text(encoding="utf-8"))
    assert (
        record["job"]["strength"] == 0.4
        and record["job"]["front"] == 90
        and record["job"]["kind"] == "refine"
    )
    before, after = (read_glb(p.read_bytes(), []) for p in (tmp_path / "my ball é.glb", out / "mesh.glb"))
    assert np.array_equal(before.uv, after.uv) and (before.images[0] != after.images[0]).any()
    assert cli.main([*said, "--json"]) == 2  # it is there already
    assert "overwrite" in last_of(capfd.readouterr().err)["todo"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no such.glb", "a ball"], "no file no such.glb"),
        (["{mesh}", "a ball", "--strength", "0.7"], "expected 0.1 to 0.5, got 0.7"),
        (["{mesh}", "a ball", "--texture-size", "12"], "0 or 64 to 8,192 pixels"),
        (["{mesh}", "a ball", "--material", "Gone"], "no material 'Gone'"),
        (["{mesh}", "  "], "prompt"),
        (["{text}", "a ball"], "expected the path of a .glb, .gltf, .obj, .ply, .npz file"),
    ],
)
def test_what_cannot_be_done_is_said(
    short, arguments: list[str], words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.glb").write_bytes(a_glb())
    (tmp_path / "a.txt").write_text("no mesh")
    places = {"mesh": tmp_path / "a.glb", "text": tmp_path / "a.txt"}
    said = [part.format(**places) for part in arguments]
    assert cli.main(["refine", *said, "--out", str(tmp_path / "out"), "--json"]) == 2
    out, err = capfd.readouterr()
    failed = last_of(out + err)
    assert words in failed["message"] and failed["todo"] and "Traceback" not in out + err
    assert ".glb" not in failed["todo"] or ".gltf" in failed["todo"]
    assert not (tmp_path / "out" / "job.json").exists()


@pytest.mark.slow
def test_as_a_process_of_its_own(tmp_path: Path) -> None:
    """Nothing made small but the settings that a user may set: the prior that knows a red mug."""
    (tmp_path / "a.glb").write_bytes(a_glb())
    command = [
        sys.executable,
        "-m",
        "backend",
        "refine",
        str(tmp_path / "a.glb"),
        "a red mug",
        "--out",
        "made",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [*command, *SETTINGS, "--threads", "1"], cwd=tmp_path, env=environment, capture_output=True, timeout=900,
        text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    old, new = parse(a_glb()), parse((tmp_path / "made" / "mesh.glb").read_bytes())
    assert (
        b"".join(new.blobs).startswith(b"".join(old.blobs)) and new.document["nodes"] == old.document["nodes"]
    )
    assert (tmp_path / "made" / "turntable.webp").stat().st_size > 1000
    assert "mesh.glb" in ran.stdout
