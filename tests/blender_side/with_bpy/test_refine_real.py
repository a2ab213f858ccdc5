"""The real worker, at tiny settings: from Refine to the texture on the object, its untouched texels its own."""

import os
import time
from pathlib import Path

import bpy
import numpy as np
import pytest

import dreamflow_blender
from dreamflow_blender.backlog import work
from dreamflow_blender.gather.images import pixels_of
from dreamflow_blender.session import importing, jobs, service
from dreamflow_blender.session import refine as refine_session
from dreamflow_blender.settings import addon
from tests.blender_side.with_bpy import hard
from tests.blender_side.with_bpy.walk import differences, walk

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


def tick_until_idle():
    until = time.monotonic() + 240
    while jobs.running is not None or jobs.get_store().waiting() or importing.due():
        assert time.monotonic() < until, jobs.running
        jobs.tick()
        time.sleep(0.05)
    assert jobs.problem is None, jobs.problem


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
    settings.prompt, settings.model, settings.faces, settings.extra = (
        "a red mug",
        "BUILT_IN",
        "SELECTED",
        TINY,
    )
    refine_session.begin(bpy.context, made, settings)
    tick_until_idle()
    (past,) = jobs.get_store().history()
    share = past.figures["share_changed"]
    print(f"\nreal refine: {past.seconds:.0f} s, {past.figures['fit_psnr']:.1f} dB, {share:.2f} changed")
    new = made.material_slots[0].material
    node = next(n for n in new.node_tree.nodes if n.type == "TEX_IMAGE" and n.name.startswith("DreamFlow"))
    after, before = pixels_of(node.image, False), hard.pixels(64)
    assert after.shape == before.shape and past.figures["new_uvs"] == 0
    changed = (after != before).any(2)
    for polygon in made.data.polygons:
        uv = np.array([made.data.uv_layers[0].uv[i].vector for i in polygon.loop_indices])
        (left, low), (right, high) = (
            np.round(uv.min(0) * 64).astype(int),
            np.round(uv.max(0) * 64).astype(int),
        )
        own = changed[64 - high : 64 - low, left:right]
        if polygon.select:
            assert own[2:-2, 2:-2].mean() > 0.5
        else:
            assert not changed[
                max(0, 63 - high) : 65 - low, max(0, left - 1) : right + 1
            ].any()  # what a look-up reads
    bpy.ops.dreamflow.discard_refined()
    assert made.material_slots[0].material.name == old


def many_materials():
    made = hard.cube("Five")
    pictures = [hard.image(name, values=hard.pixels(32)) for name in ("one", "two")]
    painted = [hard.painted(picture.name, picture) for picture in pictures]
    for material in (*painted, hard.plain("Red", hard.RED), hard.plain("Blue", hard.BLUE), None):
        made.data.materials.append(material)
    for number, polygon in enumerate(made.data.polygons):
        polygon.material_index = min(number, 4)
    return made


def vertex_colours_without_uvs():
    made = hard.cube("Füße 🦆", uv=False)
    layer = made.data.color_attributes.new("Col", "BYTE_COLOR", "CORNER")
    for number, value in enumerate(layer.data):
        value.color_srgb = (number / 24, 0.5, 0.25, 1)
    made.data.materials.append(hard.by_attribute())
    made.scale = (-1.0, 2.0, 0.01)
    return made


def baked_under_a_modifier():
    made = hard.cube("Checks")
    made.data.materials.append(hard.procedural())
    made.modifiers.new("Array", "ARRAY").count = 2
    return made


@pytest.mark.parametrize("make", [many_materials, vertex_colours_without_uvs, baked_under_a_modifier])
def test_a_difficult_object_is_refined_and_discarded_without_a_trace(enabled, make):
    made = make()
    bpy.context.view_layer.objects.active = made
    made.select_set(True)
    bpy.context.view_layer.update()
    settings = bpy.context.scene.dreamflow_refine
    settings.prompt, settings.model, settings.extra = "a red mug", "BUILT_IN", TINY
    before = walk()
    bpy.ops.dreamflow.refine()  # without a window it blocks
    assert jobs.problem is None, jobs.problem
    shown = bpy.context.view_layer.objects.active
    assert "dreamflow_refined" in shown
    (past,) = jobs.get_store().history()
    assert past.figures["share_changed"] > 0.1
    bpy.ops.dreamflow.discard_refined()
    bpy.context.view_layer.update()
    assert differences(before, walk()) == set()
