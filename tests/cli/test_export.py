"""`generate --deliver` and `resume --deliver`: the job, and then what `export` does, or a refusal before the job."""

from __future__ import annotations

import importlib.util
import json
import stat
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import trimesh

from backend import __main__ as cli
from backend.cli.arguments import parser, to_job
from backend.meshes.write import write_result
from backend.results import export_fbx
from backend.scene.mesh import Mesh
from dreamflow_blender.contract import protocol as p
from tests.cli.test_display import here as here

FACES = [(0, 2, 1), (0, 1, 3), (1, 2, 3), (0, 3, 2)]


def makes_a_mesh(job: p.Job) -> Iterator[p.Event]:
    folder = Path(job.folder)
    (folder / "job.json").write_text(json.dumps({"job": asdict(job)}))
    mesh = Mesh(
        torch.tensor([(0.0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 2)]), torch.tensor(FACES),
        torch.tensor([(0.1, 0.1), (0.9, 0.1), (0.1, 0.9)]), torch.tensor([[0, 1, 2]] * 4),
    )  # fmt: skip
    write_result(folder, mesh, torch.full((8, 8, 3), 0.5), {})
    yield p.Finished({"mesh.glb": str(folder / "mesh.glb")}, {})


def never(job: p.Job) -> Iterator[p.Event]:
    raise AssertionError("the job was begun")


def test_the_job_is_made_and_then_delivered(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "a red mug", "--deliver", "print", "--height", "0.08"]
    assert cli.main(words, makes_a_mesh) == 0
    out = here / "out" / "a-red-mug-42" / "export"
    assert {path.name for path in out.iterdir()} == {"a-red-mug.stl", "a-red-mug.3mf"}
    assert trimesh.load(out / "a-red-mug.stl").extents[2] == pytest.approx(80)  # millimetres
    assert "80.0 mm" in capfd.readouterr().out
    # the same line again finds it done, and delivers what is asked for now
    (here / "out" / "a-red-mug-42" / "events.jsonl").write_text(p.encode(p.Finished({}, {})) + "\n")
    assert cli.main(["generate", "a red mug", "--continue", "--format", "obj,ply"], never) == 0
    assert (out / "a-red-mug.obj").is_file() and (out / "a-red-mug.ply").is_file()


def test_sizes_are_the_profiles_where_it_makes_a_mesh_of_its_own() -> None:
    words = ["generate", "a red mug", "--faces", "800", "--texture-size", "512"]
    assert to_job(parser().parse_args([*words, "--deliver", "game"])).overrides == {}
    for more in ([], ["--deliver", "print"], ["--format", "obj"]):
        assert to_job(parser().parse_args([*words, *more])).overrides["delivery.max_faces"] == 800


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--deliver", "game", "--faces", "3"], "100 to 200,000"),
        (["--deliver", "game", "--up", "z"], "always y up"),
        (["--deliver", "print", "--up", "y"], "A print is z up"),
        (["--format", "stll"], "Choose of glb"),
        (["--format", "obj", "--height", "-1"], "--height in metres"),
        (["--height", "1"], "Add --deliver or --format"),
        (["--deliver", "quads"], "pyinstantmeshes, which is not installed"),
        (["--format", "usdz"], "pip install usd-core"),
        (["--format", "fbx-through-blender"], "Name Blender's program with --blender"),
        (["--candidates", "4", "--deliver", "game"], "to its resume"),
    ],
)
def test_what_cannot_be_delivered_is_refused_before_the_job(
    words: list[str],
    said: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(here))
    monkeypatch.setitem(sys.modules, "pxr", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["generate", "a red mug", *words], never) == 2
    assert said in capfd.readouterr().err and not (here / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="its programs are not scripts")
def test_a_blender_that_writes_nothing_is_named_with_its_last_words(tmp_path: Path) -> None:
    from backend.errors import InputError

    program = tmp_path / "blender"
    program.write_text("#!/bin/sh\necho 'Cannot open display' >&2\nexit 1\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(InputError, match="left no FBX, and said: Cannot open display") as refused:
        export_fbx.fbx_files(b"glTF", "mug", str(program))
    assert "--blender" in refused.value.todo
