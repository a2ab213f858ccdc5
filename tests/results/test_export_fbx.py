"""FBX, written by a Blender and read by another: the same mesh, upright, with its texture."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backend.meshes.write import write_result
from backend.results.export import FBX, Placing, export
from backend.scene.mesh import Mesh
from dreamflow_blender.contract.job import Job

BPY = os.environ.get("DREAMFLOW_BPY_PYTHON") or (sys.executable if importlib.util.find_spec("bpy") else "")
READ = """
import bpy, json, sys
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.import_scene.fbx(filepath=sys.argv[1])
(made,) = (one for one in bpy.context.scene.objects if one.type == "MESH")
(image,) = (one for one in bpy.data.images if one.size[0])
corners = [made.matrix_world @ v.co for v in made.data.vertices]
print("FOUND", json.dumps({
    "low": [min(c[i] for c in corners) for i in range(3)], "high": [max(c[i] for c in corners) for i in range(3)],
    "faces": len(made.data.polygons), "uv": len(made.data.uv_layers), "pixels": list(image.size),
    "colour": list(image.pixels[:3]),
}))
"""


@pytest.mark.blender
@pytest.mark.skipif(not BPY, reason="no bpy here: pip install bpy==4.5.15, or set DREAMFLOW_BPY_PYTHON")
def test_another_blender_reads_what_one_has_written(tmp_path: Path) -> None:
    program = tmp_path / "blender"  # Blender's words on bpy: what stands in refuses all others
    program.write_text(
        f"#!{BPY}\nimport sys\n"
        'assert sys.argv[1:5] == ["-b", "--factory-startup", "--python-exit-code", "1"], sys.argv\n'
        'assert sys.argv[5] == "--python-expr" and sys.argv[7] == "--", sys.argv\n'
        "exec(sys.argv[6])\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    faces = [(0, 2, 1), (0, 1, 3), (1, 2, 3), (0, 3, 2)]
    mesh = Mesh(
        torch.tensor([(0.0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 2)]), torch.tensor(faces),
        torch.tensor([(0.1, 0.1), (0.9, 0.1), (0.1, 0.9)]), torch.tensor([[0, 1, 2]] * 4),
    )  # fmt: skip
    write_result(tmp_path, mesh, torch.tensor([1.0, 0, 0]).expand(8, 8, 3), {})
    job = Job("1", "generate", "a red spike", str(tmp_path))
    done = export(job, [FBX], Placing(height=3, origin="base"), tmp_path / "out", str(program))
    assert [path.name for path in done.paths] == ["a-red-spike.fbx"]
    said = subprocess.run(
        [BPY, "-c", READ, str(done.paths[0])], capture_output=True, text=True, check=True
    ).stdout
    found = json.loads(next(line for line in said.splitlines() if line.startswith("FOUND"))[6:])
    assert found["low"] == pytest.approx([-0.75, -0.75, 0], abs=1e-4)
    assert found["high"] == pytest.approx([0.75, 0.75, 3], abs=1e-4)
    assert (found["faces"], found["uv"], found["pixels"]) == (4, 1, [8, 8])
    assert found["colour"] == pytest.approx([1, 0, 0], abs=0.01)
