"""Regularisers of the field and of the mesh. Each is a scalar; its weight lives in config.py."""

from __future__ import annotations

import torch
from torch import Tensor

from backend.scene.mesh import Mesh, face_normals


def opacity_entropy(opacity: Tensor) -> Tensor:
    """Binary entropy of opacities [...], summed, in nats: pushes fog to either side."""
    a = opacity.clamp(1e-4, 1 - 1e-4)
    return -(a * a.log() + (1 - a) * (1 - a).log()).sum()


def foggy_share(opacity: Tensor) -> Tensor:
    """The share of pixels that show something, opacity [...], but are neither air nor solid."""
    shown = opacity > 0.05
    half = shown & (opacity < 0.9)
    return half.sum() / shown.sum().clamp(min=1)


def normal_consistency(mesh: Mesh, face: Tensor, other: Tensor) -> Tensor:
    """Sum of 1 - cos between neighbouring faces; face, other [E] int64, -1 where there is no other."""
    normals = face_normals(mesh)
    a, b = normals.index_select(0, face), normals.index_select(0, other.clamp(min=0))
    bend = 1 - (a * b).sum(-1)
    return torch.where(other >= 0, bend, 0).sum()  # choosing rows would mean waiting for their number


def laplacian(mesh: Mesh) -> Tensor:
    """Squared distance of a vertex from the mean of its neighbours, summed, in squared metres.

    Each face adds its two other corners to a vertex, so on a closed mesh every neighbour counts twice.
    """
    t, v = mesh.t_pos_idx, mesh.v_pos
    corners = v.index_select(0, t.reshape(-1)).view(-1, 3, 3)
    total = torch.zeros_like(v)
    count = torch.zeros(len(v), 1, dtype=v.dtype, device=v.device)
    for corner in range(3):
        others = corners.sum(1) - corners[:, corner]
        total = total.index_add(0, t[:, corner], others)
        count = count.index_add(0, t[:, corner], torch.full_like(others[:, :1], 2.0))
    return (v - total / count.clamp(min=1)).square().sum()
