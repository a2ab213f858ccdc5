"""Tangents as MikkTSpace defines them, so that a normal map looks the same in every program that follows it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.texture.bake import Points

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Frames:
    """Tangent space at the corners of a mesh's faces: tangent, normal [F,3,3], and the bitangent's sign [F,3]."""

    tangent: Tensor
    normal: Tensor
    sign: Tensor

    def at(self, points: Points) -> tuple[Tensor, Tensor, Tensor]:
        """Tangent, bitangent and normal [P,3] between the corners, blended as renderers do it: not made unit."""
        weight = points.bary[..., None]
        tangent = (self.tangent[points.face] * weight).sum(1)
        normal = (self.normal[points.face] * weight).sum(1)
        return tangent, self.sign[points.face][:, :1] * torch.linalg.cross(normal, tangent), normal


def tangents(
    position: NDArray[np.float32], texcoord: NDArray[np.float32], normal: NDArray[np.float32],
    corners: NDArray[np.int64],
) -> NDArray[np.float32]:  # fmt: skip
    """[N,4]: unit tangents, and the sign of the bitangent cross(normal, tangent), for vertices split at their seams.

    position, normal [N,3], texcoord [N,2] with v upwards; corners [F,3] rows of them. A face's direction of u, laid
    into the vertex's plane, counts by the face's angle there (Mikkelsen 2008, "Simulation of Wrinkled Surfaces
    Revisited", and his mikktspace.c). Where u has no direction, any at a right angle to the normal is taken.
    """
    p, uv, n = (values.astype(np.float64) for values in (position, texcoord, normal))
    edge1, edge2 = (p[corners[:, i]] - p[corners[:, 0]] for i in (1, 2))
    d1, d2 = (uv[corners[:, i]] - uv[corners[:, 0]] for i in (1, 2))
    area = d1[:, 0] * d2[:, 1] - d1[:, 1] * d2[:, 0]
    along = np.where(area < 0, -1.0, 1.0)[:, None] * (d2[:, 1:] * edge1 - d1[:, 1:] * edge2)
    total = np.zeros_like(p)
    sign = np.zeros(len(p))
    for i in range(3):
        at = corners[:, i]
        to_next, to_last = (_in_plane(p[corners[:, (i + j) % 3]] - p[at], n[at]) for j in (1, 2))
        angle = np.arccos(np.clip((to_next * to_last).sum(1), -1, 1))
        np.add.at(total, at, _in_plane(along, n[at]) * angle[:, None])
        np.add.at(sign, at, area)
    lost = np.linalg.norm(total, axis=1) < 1e-12
    axis = np.eye(3)[np.abs(n).argmin(1)]
    total[lost] = _in_plane(axis, n)[lost]
    found: NDArray[np.float32] = np.concatenate(
        (_unit(total), np.where(sign < 0, -1.0, 1.0)[:, None]), 1, dtype=np.float32, casting="same_kind"
    )
    return found


def _in_plane(vector: Floats, normal: Floats) -> Floats:
    return _unit(vector - (vector * normal).sum(1, keepdims=True) * normal)


def _unit(vector: Floats) -> Floats:
    length: Floats = np.linalg.norm(vector, axis=1, keepdims=True)
    unit: Floats = vector / np.where(length > 1e-30, length, 1.0)
    return unit
