"""The real worker, at tiny settings: from Refine to the texture on the object, its untouched texels its own."""

import os
import sys
import time
from pathlib import Path

import bpy
import numpy as np
import pytest

import dreamflow_blender
from dreamflow_blender import addon, importing, jobs, refine_job, service, work
from dreamflow_blender.refine_images import pixels_of

sys.path.insert(0, str(Path(__file__).parent))
import hard

ROOT = Path(__file__).resolve().parents[3]
VENV = ROOT.joinpath(".venv", *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")))
TINY = "refine.levels=2 refine.views=2 refine.size=48"
pytestmark = pytest.mark.skipif(not VENV.is_file(), reason="no backend here: python build.py setup")


@pytest.fixture
def enabled(tmp_path, monkeypatch):
    monkeypatch.setattr(addon, "user_folder", lambda: tmp_path / "é x")
    monkeypatch.setattr(work, "BUILT_IN", "exact")  # which needs no weights
    monkeypatch.setenv(service.PYTHON, str(VENV))
    service.forget_state()
    entry = bpy.context.preferences.addons.new()
    entry.module = addon.NAME
    dreamflow_blender.register()
    yield
    dreamflow_blender.unregister()
    bpy.context.preferences.addons.remove(entry)
    service.forget_state()


def test_the_upper_half_of_a_mirrored_posed_object(enabled):
    made = hard.posed()
    made.modifiers.new("Mirror", "MIRROR").use_axis = (False, True, False)
    picture = hard.image("paint", values=hard.pixels(64))
    made.material_slots[0].material = hard.painted("Paint", picture)
    old = made.material_slots[0].material.name
    for polygon in made.data.polygons:
        polygon.select = polygon.center.z > 0.5
    made.data.update_tag()
    bpy.context.view_layer.update()
    settings = bpy.context.scene.dreamflow_refine
    settings.prompt, settings.model, settings.faces, settings.extra = "a red mug", "BUILT_IN", "SELECTED", TINY
    refine_job.begin(bpy.context, made, settings, jobs.add)
    until = time.monotonic() + 240
    while jobs.running is not None or jobs.need_store().waiting() or importing.due():
        assert time.monotonic() < until, jobs.running
        jobs.tick()
        time.sleep(0.05)
    assert jobs.trouble is None, jobs.trouble
    (past,) = jobs.need_store().history()
    share = past.figures["share_changed"]
    print(f"\nreal refine: {past.seconds:.0f} s, {past.figures['fit_psnr']:.1f} dB, {share:.2f} changed")
    new = made.material_slots[0].material
    node = next(n for n in new.node_tree.nodes if n.type == "TEX_IMAGE" and n.name.startswith("DreamFlow"))
    after, before = pixels_of(node.image, False), hard.pixels(64)
    assert after.shape == before.shape and past.figures["new_uvs"] == 0
    changed = (after != before).any(2)
    for polygon in made.data.polygons:
        uv = np.array([made.data.uv_layers[0].uv[i].vector for i in polygon.loop_indices])
        (left, low), (right, high) = np.round(uv.min(0) * 64).astype(int), np.round(uv.max(0) * 64).astype(int)
        own = changed[64 - high : 64 - low, left:right]
        if polygon.select:
            assert own[2:-2, 2:-2].mean() > 0.5
        else:
            assert not changed[max(0, 63 - high) : 65 - low, max(0, left - 1) : right + 1].any()  # what a look-up reads
    bpy.ops.dreamflow.discard_refined()
    assert made.material_slots[0].material.name == old
