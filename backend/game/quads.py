"""A finished mesh remeshed into quads by Instant Meshes (Jakob et al. 2015), with the detail in its maps."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from backend.errors import InputError
from backend.files import disk_errors, write_files
from backend.game.game import (
    Made,
    bake_maps,
    check_texture_size,
    glb_of,
    read_detailed,
    unwrapped,
)
from backend.meshes.write import png_bytes, to_arrays
from backend.results.export import Placing, about, turned
from backend.scene.mesh import Mesh
from dreamflow_blender.contract.job import Job
from dreamflow_blender.contract.jobfolder import slug
from dreamflow_blender.contract.meshfile import MeshArrays

CHILD = Path(__file__).with_name("quads_child.py")
SECONDS = 300  # a mesh of 40,000 triangles takes about one
TRIES = 1.0, 1.1, 0.9, 1.25  # times the faces that are asked for: another size closes what one has left open
TOGETHER = 30.0  # what a seam across a quad costs: see unwrap's weight

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Quads:
    """What the profile `quads` makes."""

    faces: int = 8000  # quads, about
    texture_size: int = 2048  # pixels a side of each map
    roughness: float = 0.8  # as Game's

    def __post_init__(self) -> None:
        if not 400 <= self.faces <= 200_000:
            raise InputError(
                f"A mesh of quads has 400 to 200,000 faces, got {self.faces:,}.", "Give another --faces."
            )
        check_texture_size(self.texture_size)


def export_quads(job: Job, quads: Quads, placing: Placing, out: Path) -> Made:
    """Writes PROMPT.obj with the quads and its PROMPT.mtl, PROMPT.glb of the same in triangles, and the maps as PNG.

    Raises InputError for a job without a mesh, and where there is no Instant Meshes or it fails; DiskError.
    """
    detailed, texture = read_detailed(job, placing)
    place, quad = remeshed(detailed.v_pos.numpy(), detailed.t_pos_idx.numpy(), quads.faces)
    halves = quad[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    light = Mesh(torch.from_numpy(place), torch.from_numpy(halves))
    weight = np.ones(halves.shape, np.float32)
    weight[0::2, 2] = weight[1::2, 0] = TOGETHER
    light = unwrapped(light, quads.texture_size, weight)
    maps = bake_maps(light, detailed, texture, quads.texture_size, quads.roughness)
    name, arrays = slug(job.prompt), to_arrays(light)
    pngs = {kind: png_bytes(image) for kind, image in vars(maps).items()}
    files = {f"{name}_{kind}.png": content for kind, content in pngs.items()}
    obj, whole = quads_obj(turned(arrays), name, job.prompt)
    files |= {f"{name}.obj": obj, f"{name}.mtl": material(name, quads.roughness)}
    files[f"{name}.glb"] = glb_of(arrays, name, pngs, about(job))
    return Made(write_files(out, files), [whole, len(quad) - whole])


def check_library() -> None:
    """Raises InputError where there is no Instant Meshes."""
    if importlib.util.find_spec("pyinstantmeshes") is None:
        raise InputError(
            "Quads need pyinstantmeshes, which is not installed: it is made for Linux and Windows on x86-64 and for"
            " Apple's processors.",
            "Remesh the object in Blender instead: Object Data, Remesh, Quad.",
        )


def remeshed(v_pos: NDArray[np.float32], faces: Ints, count: int) -> tuple[NDArray[np.float32], Ints]:
    """The same surface in about `count` quads: places [V,3] and corners [Q,4]; closed where the mesh is.

    Raises InputError.
    """
    check_library()
    is_closed = not open_sides(faces)
    for share in TRIES:
        place, quad = _run(v_pos, faces, round(count * share))
        if not is_closed or not open_sides(quad):
            return place, quad
    raise InputError(
        f"Instant Meshes leaves holes in this mesh at about {count:,} quads.", "Give more or fewer --faces."
    )


def _run(v_pos: NDArray[np.float32], faces: Ints, count: int) -> tuple[NDArray[np.float32], Ints]:
    with tempfile.TemporaryDirectory() as folder, disk_errors(Path(folder)):
        given, made = Path(folder, "given.obj"), Path(folder, "made.obj")
        with given.open("w", encoding="ascii") as file:
            np.savetxt(file, v_pos, "v %.9g %.9g %.9g")
            np.savetxt(file, faces + 1, "f %d %d %d")
        command = [sys.executable, str(CHILD), str(given), str(made), str(count), str(SECONDS)]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode or not made.is_file():
            lines = done.stderr.decode("utf-8", errors="replace").strip().splitlines()
            raise InputError(
                f"Instant Meshes failed with code {done.returncode}: {lines[-1] if lines else 'no message'}",
                "Give another --faces, or remesh the object in Blender: Object Data, Remesh, Quad.",
            )
        rows = [line.split() for line in made.read_text("ascii").splitlines()]
    place = np.array([row[1:4] for row in rows if row[:1] == ["v"]], np.float32)
    corners = [[word.split("/")[0] for word in row[1:]] for row in rows if row[:1] == ["f"]]
    return place, np.array(corners, np.int64) - 1


def open_sides(polygons: Ints) -> int:
    """How many sides are not met by just one in the other direction: 0 for a closed mesh of one facing."""
    ends = np.stack((polygons, np.roll(polygons, -1, 1)), 2).reshape(-1, 2)
    key, count = ends @ [1 << 32, 1], np.unique(ends @ [1 << 32, 1], return_counts=True)[1]
    return int((~np.isin(ends @ [1, 1 << 32], key)).sum() + (count > 1).sum())


def quads_obj(mesh: MeshArrays, name: str, title: str) -> tuple[bytes, int]:
    """The OBJ, and how many of its faces are quads: one that a seam crosses stays two triangles.

    mesh  two triangles a quad, (a, b, c) and (a, c, d)
    """
    lines = [f"mtllib {name}.mtl", f"o {title}"]
    for word, values in (("v", mesh.v_pos), ("vt", mesh.v_tex), ("vn", mesh.normal)):
        lines += [f"{word} " + " ".join(f"{value:.9g}" for value in row) for row in values.tolist()]
    lines.append("usemtl delivered")
    corners = np.stack((mesh.t_pos_idx, mesh.t_tex_idx, mesh.t_pos_idx), 2).reshape(-1, 2, 3, 3) + 1
    whole = 0
    for one, other in corners.tolist():
        joined = one[0] == other[0] and one[2] == other[1]
        whole += joined
        for polygon in ([*one, other[2]],) if joined else (one, other):
            lines.append("f " + " ".join("/".join(map(str, corner)) for corner in polygon))
    return ("\n".join(lines) + "\n").encode(), whole


def material(name: str, roughness: float) -> bytes:
    """Wavefront's format, with Pr and norm of its PBR extension; occlusion has no word in it."""
    rows = ("newmtl delivered", "Kd 1 1 1", "Ks 0 0 0", "illum 1", f"Pr {roughness:g}", f"map_Kd {name}_albedo.png",
            f"norm {name}_normal.png")  # fmt: skip
    return ("\n".join(rows) + "\n").encode()
