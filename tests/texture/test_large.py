"""A large texture is repainted in the room that it needs: bytes a texel, counted under a limit of address space."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backend.texture.repaint import TEXEL

SIZE = 2048
PROGRAM = """
import resource, sys
import numpy as np, psutil, torch
from backend.scene.camera import orbit
from backend.scene.mesh import Mesh
from backend.texture.repaint import paint, prepare
from backend.texture.sheets import plan_sheets
from backend.texture.source_colours import source_colours
from tests.tools.made_meshes import from_parts

torch.set_num_threads(1)
size, room = int(sys.argv[1]), int(sys.argv[2])
image = np.full((size, size, 4), 200, np.uint8)
place = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.float32)
corners = np.concatenate((place - 0.5, np.zeros((4, 1), np.float32)), 1)
tri = np.array([[0, 1, 2], [2, 1, 3]], np.int32)
arrays = from_parts(corners, tri, uv=place[tri], image=[0], names=["a"], images=(image,))
weight = torch.ones(2, 3)
zero = torch.zeros(1)
mesh, colours = Mesh(torch.from_numpy(corners), torch.from_numpy(tri).long()), source_colours(arrays, "cpu")
cameras = orbit(zero, zero + 60, zero + 2, zero + 60, 64, 64)

def repaint(longest):
    sheet, = plan_sheets(arrays, corners, weight.numpy(), True, 0, size, lambda: False)
    canvas = prepare(sheet, mesh, colours, weight, np.zeros((0, 3), np.float32), cameras, longest)
    return paint(canvas, mesh, colours, lambda position: position.abs())

repaint(64)  # what libraries take, whatever the size
now = psutil.Process().memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (now + room, now + room))
repaint(None)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print("peak", status["VmPeak"].split()[0], "before", now // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits its address space")
def test_the_room_that_a_texture_is_planned_with_is_enough() -> None:
    root = Path(__file__).parents[2]
    # the C library keeps smaller pieces of what is given back, so as not to ask for them again
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(SIZE), str(TEXEL * SIZE**2)], cwd=root, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
