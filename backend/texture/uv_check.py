"""Can a texture be painted into these UVs? Looked at as an artist would: outside, overlapping, without area, none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from backend.kernels import rasterize_ids

SIZE = 1024  # cells a side in which overlaps are looked for
OUTSIDE = 1e-4  # of the square's side that a corner may be outside it: packers round
FEW = 0.005  # share of the surface whose UVs may be amiss: those faces keep their colours
SHIFT = (0.3713, 0.2137)  # of a cell: no edge of a regular layout passes through the cells' centres


@dataclass(frozen=True)
class UVReport:
    """usable: a texture can go there. why: a sentence about what is wrong, or "". overlapping: share of the area.

    copy  [F] bool: faces whose texels are another face's, corner by corner, as a mirror modifier leaves them
    flat  [F] bool: faces with an area that have none in the UVs
    """

    usable: bool
    why: str
    overlapping: float
    copy: NDArray[np.bool_]
    flat: NDArray[np.bool_]


def check_uvs(uv: NDArray[np.float32], area: NDArray[np.float64], keep: NDArray[np.bool_]) -> UVReport:
    """uv [F,3,2] of the corners (no rows: no UVs); area [F] of the faces on the object, any unit.

    keep  [F] bool: faces that must stay as they are; one that shares its texels with a face that may
          change is an overlap, and not a copy
    """
    faces = len(area)
    none = np.zeros(faces, bool)
    if not len(uv):
        return UVReport(False, "It has no UVs.", 0.0, none, none)
    total = max(float(area.sum()), 1e-300)

    def share(which: NDArray[np.bool_]) -> float:
        return float(area[which].sum()) / total

    edge = uv[:, 1:] - uv[:, :1]
    uv_area = np.abs(edge[:, 0, 0] * edge[:, 1, 1] - edge[:, 0, 1] * edge[:, 1, 0]) / 2
    flat = (uv_area < 1e-12) & (area > 0)
    beyond = (uv < -OUTSIDE).any((1, 2)) | (uv > 1 + OUTSIDE).any((1, 2))
    copy = copies(uv, keep) & ~flat
    outside = share(beyond)
    overlapping = 0.0 if outside > 0 else _overlap(uv, copy | flat | (uv_area == 0), area) / total
    without = share(flat)
    why = ""
    if outside > 0:
        why = f"{outside:.1%} of its UVs lie outside the unit square."
    elif without > FEW:
        why = f"{without:.1%} of its surface have no area in its UVs."
    elif overlapping > FEW:
        why = f"{overlapping:.1%} of its surface share their place in the UVs with other faces."
    return UVReport(why == "", why, overlapping, copy, flat)


def copies(uv: NDArray[np.float32], keep: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[F] bool: every face but the first among those with the same three corners, in any order."""
    # a float32's own steps next to 1 are 2^-24
    steps = np.round(uv.astype(np.float64) * 2**20).astype(np.int64)
    key = np.sort((steps[..., 0] << 32) + steps[..., 1], axis=1)
    mixed = key[:, 0] * 3 + key[:, 1] * 5 + key[:, 2] * 7 + keep  # equal for equal corners; else hardly ever
    order = np.lexsort((mixed,))
    same = np.zeros(len(uv), bool)
    a, b = order[:-1], order[1:]
    same[b] = (key[a] == key[b]).all(1) & (keep[a] == keep[b])
    return same


def _overlap(uv: NDArray[np.float32], without: NDArray[np.bool_], area: NDArray[np.float64]) -> float:
    """The area of faces whose cells in the square are other faces', too: its first face and its last differ there."""
    rows = np.nonzero(~without)[0]
    if not len(rows):
        return 0.0
    corners = torch.from_numpy(np.ascontiguousarray(uv[rows])).reshape(-1, 2)
    place = corners * 2 - 1 + corners.new_tensor(SHIFT) * (2 / SIZE)
    triangles = torch.arange(len(corners)).view(-1, 3)
    depth = torch.linspace(-0.9, 0.9, len(rows)).repeat_interleave(3)
    first, last = (
        rasterize_ids(
            torch.stack((place[:, 0], place[:, 1], sign * depth, torch.ones_like(depth)), 1),
            triangles,
            SIZE,
            SIZE,
        ).flatten()
        for sign in (1, -1)
    )
    shared = first != last
    counts = [torch.bincount(ids[ids >= 0].long(), minlength=len(rows)) for ids in (first, last)]
    cells = torch.maximum(*counts)  # of a face that is on top in one of the two
    lost = torch.bincount(torch.cat((first[shared], last[shared])).long(), minlength=len(rows))
    share = (lost / cells.clamp(min=1)).numpy()
    return float((share * area[rows]).sum())
