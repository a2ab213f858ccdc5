"""Meshes built by code, for the tests of refine: plain ones, and all kinds of difficult ones."""

from __future__ import annotations

import numpy as np
import torch

from backend.meshes.glb import parse
from backend.meshes.parts import from_parts
from backend.meshes.write import glb_bytes, png_bytes
from backend.results.deliver_refined import result_arrays
from backend.scene.mesh import Mesh, Sheet
from dreamflow_blender.contract.meshfile import ObjectArrays


def signed_volume(mesh: Mesh) -> float:
    """Cubic metres; positive where faces wind counter-clockwise seen from outside."""
    a, b, c = mesh.v_pos.detach().double()[mesh.t_pos_idx].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def grid_ball(rows: int = 12, columns: int = 24, radius: float = 0.49):
    """A ball of latitude and longitude: v_pos, triangles, their corners' UVs, and each one's quad."""
    lat = np.linspace(-np.pi / 2, np.pi / 2, rows + 1)
    lon = np.linspace(-np.pi, np.pi, columns + 1)
    v, uv = [], []
    for i, a in enumerate(lat):
        for j, b in enumerate(lon):
            v.append((np.cos(a) * np.sin(b), -np.cos(a) * np.cos(b), np.sin(a)))
            uv.append((j / columns, i / rows))
    tri, polygon = [], []
    for i in range(rows):
        for j in range(columns):
            a = i * (columns + 1) + j
            b, c, d = a + 1, a + columns + 2, a + columns + 1
            for t in ((a, b, c), (a, c, d)):
                if not (i == 0 and t == (a, b, c)) and not (i == rows - 1 and t == (a, c, d)):  # at the poles
                    tri.append(t)
                    polygon.append(i * columns + j)
    tri = np.array(tri)
    return radius * np.array(v), tri, np.array(uv)[tri], np.array(polygon)


def stripes(size: int = 64, alpha: int = 255) -> np.ndarray:
    """[S,S,4] uint8: what no refinement would leave as it is."""
    image = np.full((size, size, 4), alpha, np.uint8)
    x = np.arange(size)
    image[..., 0] = 60 + 120 * (x // 8 % 2)
    image[..., 1] = 90
    image[..., 2] = (40 + 3 * x)[:, None] % 200
    return image


def painted_ball(**changes) -> ObjectArrays:
    v, tri, uv, polygon = grid_ball()
    parts = {
        "uv": uv, "polygon": polygon, "image": [0], "base": [(1.0, 1.0, 1.0, 1.0)], "names": ["paint"],
        "images": (stripes(),),
    }  # fmt: skip
    parts |= changes
    return from_parts(parts.pop("v", v), parts.pop("tri", tri), **parts)


def a_glb(**material: object) -> bytes:
    """An exported ball with an extra attribute, a camera, a name and a moved node."""
    v, tri, uv, polygon = grid_ball()
    arrays = from_parts(v, tri, uv=uv, polygon=polygon)
    sheet = Sheet(np.arange(0), np.zeros((0, 2), np.float32), np.zeros((0, 3), np.int64), np.zeros(0, bool), 1, 1,
                  None, (), False, "")  # fmt: skip
    mesh = result_arrays(arrays, [sheet])
    glb = parse(glb_bytes(mesh, png_bytes(torch.from_numpy(stripes())), {"prompt": "é 🦆"}))
    document = glb.document
    primitive = document["meshes"][0]["primitives"][0]
    count = document["accessors"][0]["count"]
    joints = np.arange(4 * count, dtype=np.uint8).tobytes()
    made = {"bufferView": glb.append(joints), "componentType": 5121, "type": "VEC4", "count": count}
    document["accessors"].append(made)
    primitive["attributes"]["JOINTS_0"] = len(document["accessors"]) - 1
    document["cameras"] = [{"type": "perspective", "perspective": {"yfov": 1, "znear": 0.1}}]
    document["nodes"][0] |= {"translation": [5, 6, 7], "scale": [2, 2, -2], "extras": {"mine": [1, 2]}}
    document["materials"][0] |= {"alphaMode": "MASK", "emissiveFactor": [0.1, 0, 0]}
    document["materials"][0]["pbrMetallicRoughness"] |= material
    return glb.content()
