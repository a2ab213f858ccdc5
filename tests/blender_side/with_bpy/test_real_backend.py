"""The real worker, at tiny settings: from the panel's Generate to the object, and through the command line."""

import json
import os
import time
from pathlib import Path

import bpy
import pytest

import dreamflow_blender
from dreamflow_blender import batch
from dreamflow_blender.backlog import work
from dreamflow_blender.scene import preview
from dreamflow_blender.session import importing, jobs, service
from dreamflow_blender.settings import addon
from tests.tools.tiny import OVERRIDES

ROOT = Path(__file__).resolve().parents[3]
VENV = ROOT.joinpath(".venv", *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")))
pytestmark = pytest.mark.skipif(not VENV.is_file(), reason="no backend here: python build.py setup")


@pytest.fixture
def enabled(tmp_path, monkeypatch):
    monkeypatch.setattr(addon, "user_folder", lambda: tmp_path)
    monkeypatch.setenv(service.PYTHON, str(VENV))
    service.forget_state()
    entry = bpy.context.preferences.addons.new()
    entry.module = addon.NAME
    dreamflow_blender.register()
    yield
    dreamflow_blender.unregister()
    bpy.context.preferences.addons.remove(entry)
    service.forget_state()


def test_generate(enabled):
    from dreamflow_blender.ops import generate as ops_generate

    settings = bpy.context.scene.dreamflow
    settings.prompt, settings.height = "a red mug", 0.1
    settings.extra = " ".join(f"{k}={str(v).lower() if v is None else v}" for k, v in OVERRIDES.items())
    job = ops_generate.make_job(settings)
    jobs.add(job, importing.import_target(bpy.context))
    took, seen, until = [], False, time.monotonic() + 200
    while jobs.running is not None or jobs.get_store().waiting() or importing.due():
        assert time.monotonic() < until, jobs.running
        begun = time.thread_time()
        jobs.tick()
        took.append(1000 * (time.thread_time() - begun))
        seen = seen or preview.shown() is not None
        time.sleep(0.05)
    assert jobs.problem is None, jobs.problem
    (made,) = bpy.context.scene.objects
    assert made.name == "Red mug" and made.dimensions.z == pytest.approx(0.1, abs=1e-3)
    assert len(made.data.polygons) > 50 and made.data.materials[0].node_tree
    assert work.BUILT_IN in made["dreamflow_record"] and str(Path.home()) not in made["dreamflow_record"]
    took.sort()
    print(
        f"\nreal backend: median tick {took[len(took) // 2]:.1f} ms, longest {took[-1]:.1f} ms; mesh seen: {seen}"
    )
    assert took[len(took) // 2] < 10


def test_a_list_of_prompts(enabled, tmp_path, capsys):
    """One that the prior does not know stops nothing; a repeated call skips what is done, and says it again."""
    (tmp_path / "prompts.csv").write_text(
        "prompt,seed,height\na blue zeppelin,,\na red mug,7,0.1\n", encoding="utf-8"
    )
    out = tmp_path / "öut put"
    arguments = ["--prompts", str(tmp_path / "prompts.csv"), "--out", str(out), "--blend", "--prior", "exact"]
    for name, value in OVERRIDES.items():
        arguments += ["--set", f"{name}={json.dumps(value)}"]
    for state in ("done", "skipped"):
        assert batch.main(arguments) == batch.SOME_FAILED
        said = capsys.readouterr().out
        rows = json.loads((out / "report.json").read_text(encoding="utf-8"))["prompts"]
        assert [row["state"] for row in rows] == ["failed", state], said
        assert rows[0]["error"]["kind"] == "input" and "zeppelin" in rows[0]["error"]["message"]
        assert {"mesh.glb", "albedo.png", "object.blend"} <= set(rows[1]["files"])
    bpy.ops.wm.open_mainfile(filepath=rows[1]["files"]["object.blend"])
    (made,) = bpy.context.scene.objects
    assert made["dreamflow_seed"] == 7 and made.dimensions.z == pytest.approx(0.1, abs=1e-3)
    assert made.asset_data
