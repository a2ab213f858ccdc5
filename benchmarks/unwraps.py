"""Which way of unwrapping is best? Ours, xatlas's own charts, and Blender's Smart UV Project, on ten meshes.

    [DREAMFLOW_BPY_PYTHON=python-with-bpy] python -m benchmarks.unwraps [--kinds mushroom,...] [--ways ours,...]

Every mesh is a true object of about 8,000 triangles, and the texture 1024 pixels a side with 4 between charts. A line a
mesh and way: charts; use, the share of the texture that is covered; stretch, 1 for a map that keeps all sizes (Sander's
L2, over the surface); seam, the length of all seams in diagonals of the object's box; overlap, the share of the texels
that two faces have; processor seconds of the process that unwraps.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from backend.evidence.known_objects import true_mesh
from backend.kernels import rasterize_ids
from backend.objects.grammar import parse_object
from backend.objects.shapes import build
from backend.scene.simplify import deliver
from backend.texture.unwrap import PADDING, unwrap

KINDS = "mushroom,teapot,robot,duck,mug,rocket,tree,chair,fish,ball"
CELLS, FACES, SIZE = 40, 8000, 1024
XATLAS = """
import io, sys, numpy as np, xatlas
given = np.load(io.BytesIO(sys.stdin.buffer.read()))
v, t = given["v"], given["t"]
scale = np.float32(np.sqrt(len(t)) / np.ptp(v, axis=0).max())  # or it drops faces for being small
atlas = xatlas.Atlas()
atlas.add_mesh(v * scale, t.astype(np.uint32))
packing = xatlas.PackOptions()
packing.resolution, packing.padding = int(given["size"]), int(given["padding"])
atlas.generate(xatlas.ChartOptions(), packing)
_, corners, uv = atlas[0]
uv = uv * np.array([atlas.width, atlas.height]) / max(atlas.width, atlas.height)
np.savez(sys.stdout.buffer, uv=uv.astype(np.float32), corners=corners.astype(np.int64))
"""
BLENDER = """
import bpy, io, sys, math, numpy as np
given = np.load(io.BytesIO(sys.stdin.buffer.read()))
bpy.ops.wm.read_factory_settings(use_empty=True)
mesh = bpy.data.meshes.new("mesh")
mesh.from_pydata(given["v"].tolist(), [], given["t"].tolist())
obj = bpy.data.objects.new("object", mesh)
bpy.context.collection.objects.link(obj)
bpy.context.view_layer.objects.active = obj
obj.select_set(True)
bpy.ops.object.mode_set(mode="EDIT")
bpy.ops.mesh.select_all(action="SELECT")
margin = int(given["padding"]) / int(given["size"])
bpy.ops.uv.smart_project(angle_limit=math.radians(66), island_margin=margin, margin_method="FRACTION")
bpy.ops.object.mode_set(mode="OBJECT")
uv = np.zeros(len(mesh.loops) * 2, np.float32)
mesh.uv_layers.active.data.foreach_get("uv", uv)
uv, corners = np.unique(uv.reshape(-1, 2), axis=0, return_inverse=True)
np.savez(sys.stdout.buffer, uv=uv, corners=corners.reshape(-1, 3).astype(np.int64))
"""
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def meshes(kinds: list[str]) -> Iterator[tuple[str, Floats, Ints]]:
    for kind in kinds:
        made = deliver(true_mesh(build(parse_object(f"a red {kind}")), CELLS), FACES)
        yield kind, made.v_pos.double().numpy(), made.t_pos_idx.numpy()


def unwrapped(way: str, v: Floats, t: Ints) -> tuple[Floats, Ints]:
    """uv [T,2] and its corners [F,3]."""
    if way == "ours":
        made = unwrap(v.astype(np.float32), t, SIZE, timeout=300)
        assert made.method == "charts", made.reason
        return made.v_tex.astype(np.float64), made.t_tex_idx
    given = io.BytesIO()
    np.savez(given, v=v.astype(np.float32), t=t, size=SIZE, padding=PADDING)
    program = {"xatlas": XATLAS, "blender": BLENDER}[way]
    python = sys.executable if way == "xatlas" else os.environ.get("DREAMFLOW_BPY_PYTHON", sys.executable)
    done = subprocess.run(
        [python, "-c", program], input=given.getvalue(), stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    content = done.stdout[done.stdout.index(b"PK\x03\x04") :]  # after whatever a library has printed
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        return found["uv"].astype(np.float64), found["corners"]


def judged(v: Floats, t: Ints, uv: Floats, corners: Ints) -> dict[str, float]:
    """charts, use, stretch, seam, overlap: see above."""
    ends, places = (np.stack((x, np.roll(x, -1, 1)), 2).reshape(-1, 2) for x in (t, corners))
    key = np.sort(ends, 1)
    order = np.lexsort((key[:, 1], key[:, 0]))
    same = np.nonzero((key[order][1:] == key[order][:-1]).all(1))[0]
    one, other = order[same], order[same + 1]
    joined = (np.sort(places[one], 1) == np.sort(places[other], 1)).all(1)
    face = np.repeat(np.arange(len(t)), 3)
    graph = coo_matrix((np.ones(joined.sum()), (face[one[joined]], face[other[joined]])), (len(t),) * 2)
    cut = ends[one[~joined]]
    seam = np.linalg.norm(v[cut[:, 0]] - v[cut[:, 1]], axis=1).sum() / np.linalg.norm(np.ptp(v, axis=0))

    edge1, edge2 = v[t[:, 1]] - v[t[:, 0]], v[t[:, 2]] - v[t[:, 0]]
    (s1, t1), (s2, t2) = ((uv[corners[:, i]] - uv[corners[:, 0]]).T for i in (1, 2))
    twice = s1 * t2 - s2 * t1
    area = np.linalg.norm(np.cross(edge1, edge2), axis=1) / 2
    fine = np.abs(twice) > 1e-12
    along_s = (edge1 * t2[:, None] - edge2 * t1[:, None])[fine] / twice[fine, None]
    along_t = (edge2 * s1[:, None] - edge1 * s2[:, None])[fine] / twice[fine, None]
    squared = ((along_s**2).sum(1) + (along_t**2).sum(1)) / 2
    covered = np.abs(twice).sum() / 2
    stretch = np.sqrt((squared * area[fine]).sum() / area.sum() * covered / area.sum())

    flat = torch.from_numpy(uv).float() * 2 - 1
    clip = torch.cat((flat, torch.zeros(len(flat), 1), torch.ones(len(flat), 1)), 1)
    first = rasterize_ids(clip, torch.from_numpy(corners), SIZE, SIZE)
    last = rasterize_ids(clip, torch.from_numpy(corners).flip(0), SIZE, SIZE)
    twofold = (first >= 0) & (first != len(t) - 1 - last)
    return {
        "charts": connected_components(graph, directed=False)[0],
        "use": 100 * float((first >= 0).float().mean()),
        "stretch": float(stretch),
        "seam": float(seam),
        "overlap": float(twofold.sum() / (first >= 0).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", default=KINDS)
    blender = ",blender" if "DREAMFLOW_BPY_PYTHON" in os.environ else ""  # a Python that has bpy
    parser.add_argument("--ways", default=f"ours,xatlas{blender}")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[dict[str, float]]] = {}
    names = ("charts", "use", "stretch", "seam", "overlap", "seconds")
    print("| mesh | way | " + " | ".join(names) + " |\n|" + "---|" * (2 + len(names)))

    def show(kind: str, way: str, row: dict[str, float]) -> None:
        cells = (f"{row[name]:.0f}" if name in ("charts", "use") else f"{row[name]:.2f}" for name in names)
        print(f"| {kind} | {way} | " + " | ".join(cells) + " |", flush=True)

    for kind, v, t in meshes(args.kinds.split(",")):
        for way in args.ways.split(","):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            uv, corners = unwrapped(way, v, t)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            row = judged(v, t, uv, corners)
            row["seconds"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            rows.setdefault(way, []).append(row)
            show(kind, way, row)
    for way, found in rows.items():
        show("**mean**", way, {name: statistics.mean(row[name] for row in found) for name in names})


if __name__ == "__main__":
    main()
