"""Tangents: known planes by hand, and every corner of a curved mesh as Blender's own MikkTSpace has it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from backend.game.tangents import tangents

BPY = os.environ.get("DREAMFLOW_BPY_PYTHON") or (sys.executable if importlib.util.find_spec("bpy") else "")
SQUARE = np.array([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)], np.float32)
UP = np.tile(np.float32([0, 0, 1]), (4, 1))
FACES = np.array([(0, 1, 2), (0, 2, 3)])
IN_BLENDER = """
import bpy, sys, numpy as np
given = np.load(sys.argv[-2])
mesh = bpy.data.meshes.new("m")
mesh.from_pydata(given["v"].tolist(), [], given["t"].tolist())
layer = mesh.uv_layers.new(name="uv")
layer.data.foreach_set("uv", given["uv"][given["t"]].reshape(-1))
mesh.polygons.foreach_set("use_smooth", [True] * len(mesh.polygons))
mesh.calc_tangents(uvmap="uv")
tangent, sign, normal = np.empty(len(mesh.loops) * 3), np.empty(len(mesh.loops)), np.empty(len(mesh.loops) * 3)
mesh.loops.foreach_get("tangent", tangent)
mesh.loops.foreach_get("bitangent_sign", sign)
mesh.loops.foreach_get("normal", normal)
np.savez(sys.argv[-1], tangent=tangent.reshape(-1, 3), sign=sign, normal=normal.reshape(-1, 3))
"""


@pytest.mark.parametrize(
    ("uv", "along", "sign"),
    [
        ([(0, 0), (1, 0), (1, 1), (0, 1)], (1, 0, 0), 1),
        ([(0, 0), (0, 1), (-1, 1), (-1, 0)], (0, -1, 0), 1),  # turned by a quarter
        ([(1, 0), (0, 0), (0, 1), (1, 1)], (-1, 0, 0), -1),  # mirrored
        ([(0, 0), (0, 0), (0, 0), (0, 0)], (1, 0, 0), 1),  # without an area: any direction in the plane
    ],
)
def test_u_is_where_it_lies(uv, along, sign):
    found = tangents(SQUARE, np.array(uv, np.float32), UP, FACES)
    np.testing.assert_allclose(found, np.tile(np.float32([*along, sign]), (4, 1)), atol=1e-6)


@pytest.mark.skipif(not BPY, reason="no bpy here: pip install bpy==4.5.15, or set DREAMFLOW_BPY_PYTHON")
def test_as_blender_has_them(tmp_path: Path):
    """A bent sheet with a crooked UV map: 200 corners, as Blender has them."""
    x, y = np.meshgrid(np.linspace(-1, 1, 11), np.linspace(-1, 1, 11))
    v = np.stack((x, y, 0.4 * np.sin(2 * x) + 0.3 * y * y), -1).reshape(-1, 3).astype(np.float32)
    uv = (
        np.stack((0.4 * x + 0.1 * x * y + 0.5, 0.4 * y + 0.1 * x + 0.5), -1).reshape(-1, 2).astype(np.float32)
    )
    start = (np.arange(10)[:, None] * 11 + np.arange(10)).reshape(-1)
    t = np.concatenate(
        [np.stack((start, start + 1, start + 12), 1), np.stack((start, start + 12, start + 11), 1)]
    )
    np.savez(tmp_path / "in.npz", v=v, uv=uv, t=t)
    (tmp_path / "ask.py").write_text(IN_BLENDER)
    command = [BPY, str(tmp_path / "ask.py"), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    blender = np.load(tmp_path / "out.npz")
    n = np.empty_like(v)
    n[t.reshape(-1)] = blender["normal"]  # of a smooth mesh, the same at all corners of a vertex
    ours = tangents(v, uv, n, t)[t.reshape(-1)]
    np.testing.assert_allclose(ours[:, :3], blender["tangent"], atol=1e-4)
    assert (ours[:, 3] == blender["sign"]).all()
