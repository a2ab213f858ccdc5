"""The profile `quads`, as a person types it: all of it quads, closed, and near to the surface that it was."""

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from scipy.spatial import cKDTree

from backend.__main__ import main
from backend.game import quads
from backend.game.game import unwrapped
from backend.meshes.write import write_result
from backend.scene.mesh import Mesh
from dreamflow_blender.contract.job import Job
from dreamflow_blender.contract.protocol import encode_job
from tests.meshes.test_write import VALIDATE, VALIDATOR
from tests.tools.made_meshes import grid_ball

needs_wheel = pytest.mark.skipif(
    importlib.util.find_spec("pyinstantmeshes") is None, reason="pyinstantmeshes has no wheel here"
)


@pytest.fixture(scope="module")
def ball(tmp_path_factory) -> Path:
    """A red ball of 2,000 faces, delivered."""
    v, t, _, _ = grid_ball(32, 32, radius=0.5)
    place, of = np.unique(np.round(v, 6), axis=0, return_inverse=True)
    mesh = unwrapped(
        Mesh(torch.from_numpy(place.astype(np.float32)), torch.from_numpy(of.reshape(-1)[t])), 128
    )
    folder = tmp_path_factory.mktemp("jöb 1")
    write_result(folder, mesh, torch.tensor([1.0, 0, 0]).expand(64, 64, 3), {})
    job = Job("1", "generate", "a red ball", str(folder))
    (folder / "job.json").write_text(json.dumps({"job": json.loads(encode_job(job))}))
    return folder


@pytest.fixture(scope="module")
def made(ball) -> Path:
    sizes = ["--faces", "800", "--texture-size", "128"]
    assert main(["export", str(ball), "--profile", "quads", *sizes]) == 0
    return ball / "export"


def polygons(path: Path) -> tuple[np.ndarray, list[list[list[int]]]]:
    """v [V,3], and of each face its corners' v, vt and vn."""
    rows = [line.split() for line in path.read_text().splitlines()]
    faces = [[[int(n) - 1 for n in word.split("/")] for word in row[1:]] for row in rows if row[0] == "f"]
    return np.array([row[1:] for row in rows if row[0] == "v"], float), faces


@needs_wheel
def test_all_are_quads_and_the_surface_is_the_same(made) -> None:
    v, faces = polygons(made / "a-red-ball.obj")
    sides = [len(face) for face in faces]
    assert sides.count(4) >= 0.95 * len(sides) and 600 <= len(sides) <= 1100
    assert np.abs(np.linalg.norm(v, axis=1) - 0.5).max() < 0.01 * 3**0.5  # of the diagonal
    detailed, _, _, _ = grid_ball(32, 32, radius=0.5)
    assert cKDTree(v).query(detailed)[0].max() < 0.1  # nothing of it is left out
    corners = np.array([[corner[0] for corner in face] for face in faces if len(face) == 4])
    assert quads.open_sides(corners) == 0, "not closed"
    triangles = corners[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    assert trimesh.Trimesh(v, triangles, process=False).volume == pytest.approx(np.pi / 6, rel=0.03)


@needs_wheel
def test_the_glb_is_the_same_mesh_with_the_maps_of_a_game(made) -> None:
    glb = trimesh.load(made / "a-red-ball.glb", force="mesh", process=False)
    _, faces = polygons(made / "a-red-ball.obj")
    assert len(glb.faces) == sum(len(face) - 2 for face in faces)
    for kind, colour in {"albedo": (255, 0, 0), "normal": (128, 128, 255), "orm": (255, 204, 0)}.items():
        image = np.asarray(Image.open(made / f"a-red-ball_{kind}.png").convert("RGB")).astype(int)
        assert image.shape == (128, 128, 3) and np.abs(np.median(image, axis=(0, 1)) - colour).max() <= 4
    said = (made / "a-red-ball.mtl").read_text()
    assert "map_Kd a-red-ball_albedo.png" in said and "norm a-red-ball_normal.png" in said


@needs_wheel
def test_khronos_finds_nothing_to_say(made) -> None:
    node = shutil.which("node")
    if node is None or not VALIDATOR.is_dir():
        pytest.skip("needs node and `npm install --prefix .build/npm gltf-validator`, as .ci/run does")
    command = [node, "-e", VALIDATE, str(VALIDATOR), str(made / "a-red-ball.glb")]
    issues = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    )
    assert issues["messages"] == []


def test_where_there_is_no_wheel_it_says_what_to_do(ball, tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["export", str(ball), "--profile", "quads", "--out", str(tmp_path / "out")]) == 2
    assert "Remesh the object in Blender" in capfd.readouterr().err and not (tmp_path / "out").exists()


@needs_wheel
def test_what_is_left_open_is_tried_at_another_size_and_then_refused(monkeypatch) -> None:
    v, t, _, _ = grid_ball(8, 8, radius=0.5)
    place, of = np.unique(np.round(v, 6), axis=0, return_inverse=True)
    faces, closed = of.reshape(-1)[t], np.array([[0, 1, 2, 3], [3, 2, 1, 0]])
    asked = []

    def leaves_holes(v_pos, faces, count):
        asked.append(count)
        return v_pos, closed if count == closes_at else closed[:1]

    monkeypatch.setattr(quads, "_run", leaves_holes)
    closes_at = 900
    assert quads.remeshed(place, faces, 1000)[1] is closed and asked == [1000, 1100, 900]
    closes_at = 0
    with pytest.raises(quads.InputError, match="leaves holes"):
        quads.remeshed(place, faces, 1000)
    assert len(quads.remeshed(place, faces[1:], 1000)[1]) == 1  # an open mesh stays one


def test_a_quad_that_a_seam_crosses_stays_two_triangles() -> None:
    """Of two quads side by side the second is cut along its diagonal."""
    v = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [2, 0, 0], [2, 1, 0]], np.float32)
    t = np.array([[0, 1, 2], [0, 2, 3], [1, 4, 5], [1, 5, 2]], np.int32)
    tex = np.array([[0, 1, 2], [0, 2, 3], [1, 4, 5], [6, 7, 2]], np.int32)
    mesh = quads.MeshArrays(v, t, np.zeros((8, 2), np.float32), tex, np.zeros_like(v))
    text, whole = quads.quads_obj(mesh, "x", "two")
    assert whole == 1
    assert [line for line in text.decode().splitlines() if line[0] == "f"] == [
        "f 1/1/1 2/2/2 3/3/3 4/4/4", "f 2/2/2 5/5/5 6/6/6", "f 2/7/2 6/8/6 3/3/3",
    ]  # fmt: skip
