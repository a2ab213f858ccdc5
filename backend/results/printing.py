"""A finished job's mesh for a 3D printer: closed, in millimetres, standing on the bed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.errors import InputError
from backend.files import write_files
from backend.results.export import MILLIMETRES, Placing, place, read_mesh, stl_bytes, threemf_bytes
from dreamflow_blender.contract.job import Job
from dreamflow_blender.contract.jobfolder import slug
from dreamflow_blender.contract.meshfile import MeshArrays

MOST_BASE = 0.5  # of the height


@dataclass(frozen=True)
class Print:
    """What the profile `print` makes: an STL and a 3MF, z up, the lowest point at 0."""

    flat_base: bool = False  # press the lowest part flat, so that it holds on the bed
    base: float = 0.02  # of the height: that part

    def __post_init__(self) -> None:
        if not 0 < self.base <= MOST_BASE:
            raise InputError(
                f"The flat base is more than 0 and at most {MOST_BASE:g} of the height, got {self.base}.",
                "Give another share.",
            )


@dataclass(frozen=True)
class Printable:
    """What was written: its size [3] in millimetres, and its volume in cubic centimetres."""

    paths: list[Path]
    size: tuple[float, float, float]
    volume: float


def export_print(job: Job, profile: Print, placing: Placing, out: Path) -> Printable:
    """Writes PROMPT.stl and PROMPT.3mf into `out`.

    Raises InputError where there is no mesh or it is not closed, before anything is written; DiskError.
    """
    if placing.up not in ("", "z"):
        raise InputError("A printer's bed is below: z is up.", "Leave out --up.")
    if placing.origin == "keep":
        placing = replace(placing, origin="base")
    mesh = place(read_mesh(job, ["stl", "3mf"]), placing)
    faces = mesh.t_pos_idx
    unpaired = unpaired_edges(faces)
    if unpaired:
        raise InputError(
            f"The mesh is not closed: {unpaired} edges do not join two faces that face the same way.",
            "Close it in Blender (Mesh > Clean Up > Fill Holes, or a Remesh modifier, Voxel) and export it there, or"
            " give --format stl and let the slicer mend it.",
        )
    if enclosed(mesh.v_pos, faces) < 0:  # all of it faces inwards
        faces = np.ascontiguousarray(faces[:, ::-1])
    v_pos = mesh.v_pos
    if profile.flat_base:
        v_pos, faces = with_flat_base(v_pos, faces, profile.base)
    volume = enclosed(v_pos, faces)
    if not volume > 0:
        raise InputError("The mesh has no volume: there is nothing to print.", "Make the object again.")
    no_uv, no_normal = np.zeros((1, 2), np.float32), np.zeros_like(v_pos)  # neither format has them
    mesh = MeshArrays(v_pos, faces, no_uv, np.zeros_like(faces), no_normal)
    name = slug(job.prompt)
    files = {f"{name}.stl": stl_bytes(mesh), f"{name}.3mf": threemf_bytes(mesh, job.prompt)}
    paths = write_files(out, files)
    x, y, z = (np.ptp(v_pos, axis=0) * MILLIMETRES).tolist()
    return Printable(paths, (x, y, z), volume * 1e6)


def unpaired_edges(faces: NDArray[np.int32]) -> int:
    """How many directed edges are not met by just one in the other direction: 0 for a closed mesh of one facing."""
    ends = np.concatenate((faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]])).astype(np.int64)
    count = int(faces.max(initial=0)) + 1
    there, times = np.unique(ends[:, 0] * count + ends[:, 1], return_counts=True)
    back = np.isin(there % count * count + there // count, there)
    return int((~back | (times != 1)).sum())


def enclosed(v_pos: NDArray[np.float32], faces: NDArray[np.int32]) -> float:
    """Cubic metres; negative where the faces face inwards."""
    a, b, c = v_pos.astype(np.float64)[faces].transpose(1, 0, 2)
    return float((a * np.cross(b, c)).sum() / 6)


def with_flat_base(
    v_pos: NDArray[np.float32], faces: NDArray[np.int32], share: float
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """What lies below this share of the height is pressed up to it, and the whole then moved down.

    Faces that cross the level are divided along it, those of an edge at the same point: what was closed stays closed.
    """
    low, high = v_pos[:, 2].min(), v_pos[:, 2].max()
    level = np.float32(low + share * (high - low))
    under = v_pos[:, 2] <= level
    count = under[faces].sum(1)
    crossing = faces[(count == 1) | (count == 2)]
    lone = np.where(under[crossing].sum(1) == 1, under[crossing].argmax(1), under[crossing].argmin(1))
    # a lies on a side of its own
    a, b, c = np.take_along_axis(crossing, (lone[:, None] + np.arange(3)) % 3, 1).T
    ends = np.sort(np.concatenate((np.stack((a, b), 1), np.stack((a, c), 1))), 1)
    edges, which = np.unique(ends, axis=0, return_inverse=True)
    one, other = v_pos[edges[:, 0]], v_pos[edges[:, 1]]
    way = (level - one[:, 2:]) / (other[:, 2:] - one[:, 2:])
    ab, ac = (which.reshape(2, -1) + len(v_pos)).astype(faces.dtype)
    parts = [np.stack(part, 1) for part in ((a, ab, ac), (ab, b, c), (ab, c, ac))]
    divided = np.concatenate((faces[(count == 0) | (count == 3)], *parts))
    pressed = np.concatenate((v_pos, one + way * (other - one)))
    pressed[len(v_pos) :, 2] = level
    pressed[:, 2] = np.maximum(pressed[:, 2], level) - level
    return pressed, divided
