"""The growing mesh: one object, not selectable, not rendered, not saved, never brought back by undo."""

import time
from types import SimpleNamespace

import bpy
import numpy as np
import pytest

from dreamflow_blender.contract.meshfile import SnapshotArrays
from dreamflow_blender.scene import objects, preview, windows
from tests.blender_side.with_bpy import made


def snapshot(rings: int = 16, segments: int = 32) -> SnapshotArrays:
    ball = made.ball(rings, segments)
    return SnapshotArrays(ball.v_pos, ball.t_pos_idx, np.abs(ball.normal))


@pytest.fixture(autouse=True)
def handlers():
    preview.register()
    yield
    preview.unregister()
    assert preview.find() is None


def test_one_object_replaced_in_place():
    preview.show(snapshot(), 0.5, (1, 0, 0), bpy.context.scene)
    preview.show(snapshot(20, 40), 0.5, (1, 0, 0), bpy.context.scene)
    (obj,) = bpy.data.objects
    assert obj.hide_select and obj.hide_render and not obj.users_collection[0].library
    assert len(bpy.data.meshes) == len(bpy.data.materials) == 1
    assert len(obj.data.polygons) == len(snapshot(20, 40).t_pos_idx)
    colour = np.empty(4 * len(obj.data.vertices), np.float32)
    obj.data.color_attributes[objects.COLOUR].data.foreach_get("color_srgb", colour)
    expected = np.abs(made.ball(20, 40).normal)
    assert np.abs(colour.reshape(-1, 4)[:, :3] - expected).max() < 0.01
    bpy.context.view_layer.update()
    assert obj.dimensions.z == pytest.approx(0.5)
    bpy.ops.object.select_all(action="SELECT")
    assert not bpy.context.selected_objects
    preview.clear()
    assert not bpy.data.objects and not bpy.data.meshes and not bpy.data.materials


def test_not_in_the_saved_file(tmp_path):
    bpy.context.scene.collection.objects.link(bpy.data.objects.new("mine", None))
    preview.show(snapshot(), 1, (0, 0, 0), bpy.context.scene)
    path = str(tmp_path / "Dätei.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path, copy=True)
    assert preview.find() is not None  # saving does not disturb it
    with bpy.data.libraries.load(path) as (there, _):
        assert list(there.objects) == ["mine"] and not there.meshes and not there.materials
    bpy.ops.wm.open_mainfile(filepath=path)
    assert [o.name for o in bpy.data.objects] == ["mine"]
    assert [o.name for o in bpy.context.scene.collection.objects] == ["mine"]


def test_undo_never_brings_it_back():
    bpy.ops.ed.undo_push(message="start")
    preview.show(snapshot(), 1, (0, 0, 0), bpy.context.scene)
    bpy.ops.mesh.primitive_cube_add()
    bpy.ops.ed.undo_push(message="cube")  # this memory holds the preview
    preview.clear()
    bpy.ops.mesh.primitive_cube_add()
    bpy.ops.ed.undo_push(message="second cube")
    bpy.ops.ed.undo()
    assert preview.find() is None and [o.name for o in bpy.data.objects] == ["Cube"]
    assert [m.name for m in bpy.data.meshes] == ["Cube"]
    bpy.ops.ed.redo()
    assert preview.find() is None and len(bpy.data.objects) == 2


def test_undo_during_a_job_leaves_it_where_it_is():
    bpy.ops.ed.undo_push(message="start")
    bpy.ops.mesh.primitive_cube_add()
    bpy.ops.ed.undo_push(message="cube")
    preview.show(snapshot(), 1, (0, 0, 2), bpy.context.scene)
    bpy.ops.ed.undo()
    assert preview.find() is not None and preview.find().location.z == 2
    assert sorted(o.name for o in bpy.data.objects) == [preview.NAME]
    bpy.ops.ed.redo()
    assert sorted(o.name for o in bpy.data.objects) == ["Cube", preview.NAME]


def test_another_file_is_left_alone(tmp_path):
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a.blend"))
    preview.show(snapshot(), 1, (0, 0, 0), bpy.context.scene)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "a.blend"))
    assert preview.find() is None


def test_taken_away_by_the_user_or_left_in_another_scene():
    preview.show(snapshot(), 1, (0, 0, 0), bpy.context.scene)
    bpy.data.objects.remove(preview.find())
    preview.show(snapshot(), 1, (0, 0, 0), bpy.context.scene)
    assert len(bpy.data.objects) == 1
    bpy.context.window.scene = bpy.data.scenes.new("other")
    preview.show(snapshot(), 1, (0, 0, 0), bpy.context.scene)
    assert [o.name for o in bpy.data.scenes["other"].collection.objects] == [bpy.data.objects[0].name]


def test_a_torn_file_is_nothing(tmp_path):
    (tmp_path / "snapshot.npz").write_bytes(b"PK")
    assert preview.read(tmp_path / "snapshot.npz") is None
    assert preview.read(tmp_path / "nothing.npz") is None


def test_replacing_is_quick(tmp_path):
    arrays = snapshot(50, 51)  # 4,998 faces
    preview.show(arrays, 1, (0, 0, 0), bpy.context.scene)
    times = []
    for _ in range(9):
        began = time.thread_time()
        preview.show(arrays, 1, (0, 0, 0), bpy.context.scene)
        times.append(1000 * (time.thread_time() - began))
    print(f"\nlive mesh: {np.median(times):.1f} ms for {len(arrays.t_pos_idx):,} faces (promised: 30 ms)")
    assert np.median(times) < 3 * 30


@pytest.mark.parametrize(
    "idname, expected",
    [
        ("WM_OT_obj_export", True),
        ("EXPORT_SCENE_OT_gltf", True),
        ("WM_OT_open_mainfile", False),
        (None, False),
    ],
)
def test_it_is_gone_while_an_export_is_chosen(monkeypatch, idname, expected):
    operator = SimpleNamespace(bl_idname=idname) if idname else None
    spaces = SimpleNamespace(active=SimpleNamespace(active_operator=operator))
    area = SimpleNamespace(type="FILE_BROWSER", spaces=spaces)
    window = SimpleNamespace(screen=SimpleNamespace(areas=[SimpleNamespace(type="VIEW_3D"), area]))
    context = SimpleNamespace(window_manager=SimpleNamespace(windows=[window]))
    monkeypatch.setattr(windows, "bpy", SimpleNamespace(context=context))
    assert windows.exporting() is expected
