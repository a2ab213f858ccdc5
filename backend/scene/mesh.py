"""Triangle meshes as values, and functions on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh; counter-clockwise seen from outside.

    v_pos      [V,3] float32, metres
    t_pos_idx  [F,3] int64, rows of v_pos
    v_tex      [T,2] float32 or None, v upwards as in Blender
    t_tex_idx  [F,3] int64 or None, rows of v_tex
    """

    v_pos: Tensor
    t_pos_idx: Tensor
    v_tex: Tensor | None = None
    t_tex_idx: Tensor | None = None

    def to(self, device: torch.device | str) -> Mesh:
        moved: dict[str, Any] = {name: t.to(device) for name, t in vars(self).items() if t is not None}
        return Mesh(**moved)


def face_cross(mesh: Mesh) -> Tensor:
    """[F,3] cross products of two edges: the face's normal times twice its area."""
    corners = mesh.v_pos.index_select(0, mesh.t_pos_idx.reshape(-1))  # its backward is deterministic
    a, b, c = corners.view(-1, 3, 3).unbind(1)
    return torch.linalg.cross(b - a, c - a)


def face_normals(mesh: Mesh) -> Tensor:
    """[F,3] unit normals; zero for a degenerate face."""
    return torch.nn.functional.normalize(face_cross(mesh), dim=-1)


def surface_points(mesh: Mesh, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points [count,3] float64 all over a mesh, on the CPU, and the rows [count] of their faces."""
    corners = mesh.v_pos.cpu().double()[mesh.t_pos_idx.cpu()]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
    generator = torch.Generator().manual_seed(seed)
    face = torch.multinomial(area, count, replacement=True, generator=generator)
    # a flat Dirichlet's, as shares
    share = torch.rand(count, 3, generator=generator, dtype=torch.float64).log()
    share = share / share.sum(1, keepdim=True)
    return torch.einsum("nk,nkd->nd", share, corners[face]), face


def vertex_normals(mesh: Mesh) -> Tensor:
    """[V,3] unit normals, area weighted."""
    cross = face_cross(mesh)
    normals = torch.zeros_like(mesh.v_pos)
    for corner in range(3):  # index_add is deterministic on the CPU, index_put is not
        normals = normals.index_add(0, mesh.t_pos_idx[:, corner], cross)
    return torch.nn.functional.normalize(normals, dim=-1)


def is_closed(mesh: Mesh) -> bool:
    """Every edge has exactly two faces, running in opposite directions."""
    t = mesh.t_pos_idx
    directed = torch.cat((t[:, [0, 1]], t[:, [1, 2]], t[:, [2, 0]]))
    n = int(t.max()) + 1 if len(t) else 0
    forth, n_forth = (directed[:, 0] * n + directed[:, 1]).unique(return_counts=True)
    back = (directed[:, 1] * n + directed[:, 0]).unique()
    real = bool((directed[:, 0] != directed[:, 1]).all())
    return len(t) > 0 and real and bool((n_forth == 1).all()) and torch.equal(forth, back)


def components(mesh: Mesh) -> tuple[int, np.ndarray]:
    """The number of connected pieces that have faces, and each face's piece [F] int."""
    t = mesh.t_pos_idx.cpu().numpy()
    n = int(t.max()) + 1 if len(t) else 0
    graph = coo_matrix(
        (np.ones(2 * len(t)), (np.r_[t[:, 0], t[:, 1]], np.r_[t[:, 1], t[:, 2]])), shape=(n, n)
    )
    _, label = connected_components(graph, directed=False)
    used, of_face = np.unique(label[t[:, 0]], return_inverse=True)
    return len(used), of_face


def holes(mesh: Mesh) -> int:
    """How many holes go through a closed mesh: its genus, of all its pieces together."""
    t = mesh.t_pos_idx
    sides = torch.cat((t[:, [0, 1]], t[:, [1, 2]], t[:, [2, 0]])).sort(1).values.unique(dim=0)
    characteristic = len(t.unique()) - len(sides) + len(t)
    return components(mesh)[0] - characteristic // 2


@dataclass(frozen=True)
class Sheet:
    """One texture and the faces that it covers.

    faces      [N] int64, rows of the object's triangles
    v_tex      [T,2] float32, t_tex_idx [N,3] int64: its UVs
    copy       [N] bool: faces that show the texels of another one, or have none
    height, width   pixels
    image      [H,W,4] uint8, the present texture, or None: it is baked from the object's colours
    materials  rows of the object's materials that show it
    """

    faces: NDArray[np.int64]
    v_tex: NDArray[np.float32]
    t_tex_idx: NDArray[np.int64]
    copy: NDArray[np.bool_]
    height: int
    width: int
    image: NDArray[np.uint8] | None
    materials: tuple[int, ...]
    new_uvs: bool
    why: str  # what was wrong with the UVs that it had
