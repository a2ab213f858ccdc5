"""The growing mesh: drawn in the viewports, and no part of the scene, of undo, of a saved or an exported file."""

import time
from types import SimpleNamespace

import bpy
import gpu
import numpy as np
import pytest
from mathutils import Matrix

from dreamflow_blender.contract.meshfile import SnapshotArrays
from dreamflow_blender.scene import preview
from tests.blender_side.with_bpy import made
from tests.blender_side.with_bpy.walk import differences, walk


def snapshot(rings: int = 16, segments: int = 32) -> SnapshotArrays:
    ball = made.ball(rings, segments)
    return SnapshotArrays(ball.v_pos, ball.t_pos_idx, np.abs(ball.normal))


@pytest.fixture(autouse=True)
def handlers():
    preview.register()
    yield
    preview.unregister()
    assert preview.shown() is None and preview._handler is None


def test_it_stands_where_the_result_will_and_is_no_data_block():
    before = walk()
    preview.show(snapshot(), 0.5, (1, 2, 3), bpy.context.scene, "j1")
    assert differences(before, walk()) == set()
    now = preview.shown()
    (part,) = now.parts
    assert now.job_id == "j1" and now.scene == bpy.context.scene.session_uid
    assert part.v_pos.min(0) == pytest.approx((0.75, 1.75, 3), abs=2e-3)
    assert part.v_pos.max(0) == pytest.approx((1.25, 2.25, 3.5), abs=2e-3)
    preview.clear()
    assert preview.shown() is None


@pytest.mark.parametrize("name", ["wm.obj_export", "wm.usd_export", "wm.ply_export", "wm.stl_export"])
def test_no_exporter_meets_it(tmp_path, name):
    """The same bytes with it as without it, but for what names the moment."""
    bpy.ops.mesh.primitive_cube_add()
    module, operator = name.split(".")
    export = getattr(getattr(bpy.ops, module), operator)
    found = []
    for number, job in enumerate(("", "j1")):
        if job:
            preview.show(snapshot(), 1, (0, 0, 0), bpy.context.scene, job)
        file = tmp_path / f"{number}" / "it.usda" if "usd" in name else tmp_path / f"{number}" / "it.obj"
        file.parent.mkdir()
        export(filepath=str(file))
        found.append(file.read_bytes())
    assert found[0] == found[1] and len(found[0]) > 100


def test_undo_and_saving_do_not_meet_it(tmp_path):
    bpy.ops.ed.undo_push(message="start")
    preview.show(snapshot(), 1, (0, 0, 0), bpy.context.scene)
    bpy.ops.mesh.primitive_cube_add()
    bpy.ops.ed.undo_push(message="cube")
    bpy.ops.ed.undo()
    assert not bpy.data.objects and preview.shown() is not None  # undo does not take it away either
    bpy.ops.ed.redo()
    path = str(tmp_path / "Dätei.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path, copy=True)
    with bpy.data.libraries.load(path) as (there, _):
        assert list(there.objects) == ["Cube"] and len(there.meshes) == 1
    assert preview.shown() is not None
    bpy.ops.wm.open_mainfile(filepath=path)  # another file is left alone
    assert preview.shown() is None


def test_a_mesh_without_faces_and_a_torn_file_are_nothing(tmp_path):
    empty = SnapshotArrays(
        np.zeros((3, 3), np.float32), np.zeros((0, 3), np.int32), np.zeros((3, 3), np.float32)
    )
    preview.show(empty, 1, (0, 0, 0), bpy.context.scene)
    assert preview.shown() is None
    (tmp_path / "snapshot.npz").write_bytes(b"PK")
    assert preview.read(tmp_path / "snapshot.npz") is None
    assert preview.read(tmp_path / "nothing.npz") is None


def test_a_picture_is_read_as_light_and_leaves_no_image(tmp_path):
    (tmp_path / "a.png").write_bytes(made.png(np.full((2, 3, 3), 188, np.uint8)))
    picture = preview.read_picture(tmp_path / "a.png")
    assert picture.shape == (2, 3, 4) and picture[..., :3] == pytest.approx(0.503, abs=1e-3)
    assert not bpy.data.images


def test_the_light_is_soft_and_dark_nowhere():
    normal = np.float32([preview.LAMP, -preview.LAMP]) / np.linalg.norm(preview.LAMP)
    assert preview.light(normal).ravel() == pytest.approx((1.0, preview.AMBIENT), abs=5e-3)
    ball = made.ball()
    assert np.abs(preview._normals(ball.v_pos, ball.t_pos_idx) - ball.normal).max() < 0.05


def test_replacing_is_quick():
    arrays = snapshot(50, 51)  # 4,998 faces
    times = []
    for _ in range(9):
        began = time.thread_time()
        preview.show(arrays, 1, (0, 0, 0), bpy.context.scene)
        times.append(1000 * (time.thread_time() - began))
    print(f"\nlive mesh: {np.median(times):.1f} ms for {len(arrays.t_pos_idx):,} faces (promised: 30 ms)")
    assert np.median(times) < 3 * 30


def drawn(part: preview.Part, scene_uid: int, monkeypatch) -> np.ndarray:
    """[8,8,4] in [0,1]: what _draw leaves in a frame as a viewport's, seen from above."""
    scene = SimpleNamespace(session_uid=bpy.context.scene.session_uid)
    own = SimpleNamespace(context=SimpleNamespace(scene=scene), app=bpy.app)
    monkeypatch.setattr(preview, "bpy", own)
    monkeypatch.setattr(preview, "_shown", preview.Shown((part,), scene_uid, "j1"))
    monkeypatch.setattr(preview, "_batches", None)
    colour = gpu.types.GPUTexture((8, 8), format="SRGB8_A8")
    depth = gpu.types.GPUTexture((8, 8), format="DEPTH_COMPONENT32F")
    frame = gpu.types.GPUFrameBuffer(depth_slot=depth, color_slots=(colour,))
    with frame.bind(), gpu.matrix.push_pop():
        frame.clear(color=(0, 0, 0, 0), depth=1.0)
        gpu.matrix.load_matrix(Matrix.Identity(4))
        gpu.matrix.load_projection_matrix(Matrix.Diagonal((1, 1, -1, 1)))
        preview._draw()
        pixels = np.array(frame.read_color(0, 0, 8, 8, 4, 0, "UBYTE").to_list(), np.uint8)
    monkeypatch.undo()
    return pixels.reshape(8, 8, 4) / 255


@pytest.fixture
def card():
    """Blender can draw without a window from 5.1; before that .ci/window shows it."""
    if not hasattr(gpu, "init"):
        pytest.skip("this Blender draws nothing without a window")
    try:
        gpu.init()
    except SystemError as error:
        pytest.skip(f"nothing can be drawn here: {error}")


def test_what_is_drawn(card, monkeypatch):
    """Two overlapping squares: the nearer is seen whatever their order; a picture keeps its colours."""
    square = np.float32([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    faces = np.int32([[0, 1, 2], [0, 2, 3]])
    red, blue = np.float32([0.8, 0.2, 0.1]), np.float32([0.1, 0.2, 0.8])
    uid = bpy.context.scene.session_uid
    for order in ((0.5, 0.0), (0.0, 0.5)):
        v_pos = np.concatenate([square + np.float32([0, 0, z]) for z in order])
        colour = np.concatenate([np.tile(red if z else blue, (4, 1)) for z in order])
        both = preview.Part(v_pos, np.concatenate([faces, faces + 4]), colour)
        seen = drawn(both, uid, monkeypatch)
        assert np.abs(seen[..., :3] - red).max() < 0.01 and seen[..., 3].min() == 1
    assert drawn(both, uid + 1, monkeypatch).max() == 0  # of another scene
    picture = np.ones((2, 2, 4), np.float32)
    picture[..., :3] = (0.604, 0.033, 0.010)  # `red` as light
    uv = np.float32([[0, 0], [1, 0], [1, 1], [0, 1]])
    bright = preview.Part(square, faces, np.ones((4, 3), np.float32), uv, None, picture)
    assert np.abs(drawn(bright, uid, monkeypatch)[..., :3] - red).max() < 0.02
    half = preview.Part(square, faces, np.full((4, 3), 0.735, np.float32), uv, None, picture)
    assert np.abs(drawn(half, uid, monkeypatch)[..., 0] - 0.588).max() < 0.02  # half the light
