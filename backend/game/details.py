"""What a detailed mesh leaves in the textures of a light one: its colours, its normals, and how deep its hollows lie.

Every texel of the light mesh looks for the nearest point of the detailed one that faces the same way, which is what
other programs call baking from high to low, without a cage.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from backend.game.tangents import Frames
from backend.kernels import rasterize_ids
from backend.kernels.raster import depth_image, fragments
from backend.scene.mesh import Mesh, face_normals, vertex_normals
from backend.texture.bake import Points, by_parts, random_points

SAMPLES = 2**17  # of the detailed surface, by which its triangles are found
NEAR = 6  # triangles that each point looks at
FACING = 0.2  # the cosine from which on two normals face the same way
TURN = 0.1  # of the object's size: how far away a triangle counts for facing at a right angle
DIRECTIONS, SHADOW = 96, 384  # of the light, and pixels a side of its shadow maps
BIAS = 0.006  # of the object's size: surfaces nearer than that do not shade each other


class Surface:
    """A mesh that can be asked for its nearest point."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self._normals = vertex_normals(mesh)
        points = random_points(mesh, SAMPLES, torch.Generator().manual_seed(0))
        self._face = points.face
        at = points.position(mesh).double()
        self._turn = TURN * float((at.amax(0) - at.amin(0)).norm())
        self._tree = cKDTree(at.numpy())
        facing = torch.cat((at, self._turn * face_normals(mesh)[points.face].double()), 1)
        self._facing = cKDTree(facing.numpy())  # of places and directions

    def nearest(self, at: Tensor, normal: Tensor | None = None) -> Points:
        """The nearest points of the surface to at [P,3]; those that face as normal [P,3] does come first.

        normal is to be of flat faces: a smooth one leans away from them at every edge, and leads to another place.
        """
        _, found = self._tree.query(at.double().numpy(), k=NEAR)
        if normal is not None:  # the nearest of all may be a thin wall's other side
            unit = torch.nn.functional.normalize(normal, dim=1)
            _, facing = self._facing.query(torch.cat((at, self._turn * unit), 1).double().numpy(), k=NEAR)
            found = np.concatenate((found, facing), 1)
        face = self._face[torch.from_numpy(found)]  # [P,NEAR or twice that]
        corners = self.mesh.v_pos[self.mesh.t_pos_idx[face]]  # [...,3,3]
        bary = closest(corners, at[:, None])
        gap = ((corners * bary[..., None]).sum(2) - at[:, None]).square().sum(2)
        if normal is not None:
            faces = torch.linalg.cross(
                corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0]
            )
            cosine = torch.nn.functional.cosine_similarity(faces, normal[:, None], dim=2)
            gap = torch.where(cosine < FACING, gap + 1e6, gap)
        best = gap.argmin(1)
        row = torch.arange(len(at))
        return Points(face[row, best], bary[row, best])

    def normal(self, points: Points) -> Tensor:
        """[P,3] unit, smooth over the surface."""
        of_corners = self._normals[self.mesh.t_pos_idx[points.face]]
        return torch.nn.functional.normalize((of_corners * points.bary[..., None]).sum(1), dim=1)


def closest(corners: Tensor, at: Tensor) -> Tensor:
    """[...,3] weights of the point of each triangle [...,3,3] that is nearest to at [...,3]."""
    a, b, c = corners.unbind(-2)
    ab, ac, ap = b - a, c - a, at - a
    d00, d01, d11 = (ab * ab).sum(-1), (ab * ac).sum(-1), (ac * ac).sum(-1)
    d20, d21 = (ap * ab).sum(-1), (ap * ac).sum(-1)
    area = (d00 * d11 - d01 * d01).clamp_min(1e-20)
    v, w = (d11 * d20 - d01 * d21) / area, (d00 * d21 - d01 * d20) / area
    inner = torch.stack((1 - v - w, v, w), -1)
    best, least = inner, torch.where((inner >= 0).all(-1), 0.0, torch.inf)
    for i, j in ((0, 1), (1, 2), (2, 0)):  # else it lies on an edge
        start, edge = corners[..., i, :], corners[..., j, :] - corners[..., i, :]
        share = (((at - start) * edge).sum(-1) / (edge * edge).sum(-1).clamp_min(1e-20)).clamp(0, 1)
        gap = (start + share[..., None] * edge - at).square().sum(-1)
        on_edge = torch.zeros_like(inner)
        on_edge[..., i], on_edge[..., j] = 1 - share, share
        nearer = gap < least
        best = torch.where(nearer[..., None], on_edge, best)
        least = torch.where(nearer, gap, least)
    return best


@torch.no_grad()
def bake_normals(light: Points, frames: Frames, surface: Surface, at: Tensor) -> Tensor:
    """[P,3] in [0,1]: the detailed normals in the light mesh's tangent space, x along u, y along v, z outwards."""

    flat = torch.linalg.cross(at[:, 1] - at[:, 0], at[:, 2] - at[:, 0])

    def ask(part: Points) -> Tensor:
        where = (at[part.face] * part.bary[..., None]).sum(1)
        tangent, bitangent, normal = frames.at(part)
        wanted = surface.normal(surface.nearest(where, flat[part.face]))
        # its columns, as a renderer blends them: not unit
        basis = torch.stack((tangent, bitangent, normal), 2)
        found = torch.linalg.solve(basis, wanted[..., None])[..., 0]
        return torch.nn.functional.normalize(found, dim=1) / 2 + 0.5

    return by_parts(light, ask)


@torch.no_grad()
def occlusion(mesh: Mesh, at: Tensor, normal: Tensor) -> Tensor:
    """[P] in [0,1]: how much of an even light from everywhere reaches points at [P,3] with normals [P,3].

    A shadow map a direction; of each, as much counts as the cosine to the normal.
    """
    low, high = mesh.v_pos.amin(0), mesh.v_pos.amax(0)
    middle, reach = (low + high) / 2, float((high - low).norm()) / 2
    lit, all_light = torch.zeros(len(at)), torch.zeros(len(at))
    offset = at + 0.5 * BIAS * 2 * reach * normal
    for direction in even_directions(DIRECTIONS).to(mesh.v_pos):
        weight = (normal @ direction).clamp_min(0)
        turned = basis_of(direction)  # its rows: across, down, away from the light
        seen = (mesh.v_pos - middle) @ turned.T / reach
        clip = torch.cat((seen, torch.ones_like(seen[:, :1])), 1)
        depth = depth_image(
            fragments(clip, mesh.t_pos_idx, rasterize_ids(clip, mesh.t_pos_idx, SHADOW, SHADOW))
        )
        mine = (offset - middle) @ turned.T / reach
        column, row = (((mine[:, i] + 1) / 2 * SHADOW).long().clamp(0, SHADOW - 1) for i in (0, 1))
        free = mine[:, 2] <= depth[row, column] + 2 * BIAS
        lit += weight * free
        all_light += weight
    return lit / all_light.clamp_min(1e-6)


def even_directions(count: int) -> Tensor:
    """[N,3] unit vectors, evenly over the sphere (a Fibonacci lattice)."""
    i = torch.arange(count) + 0.5
    height, turn = 1 - 2 * i / count, i * math.pi * (1 + math.sqrt(5))
    radius = (1 - height * height).sqrt()
    return torch.stack((radius * turn.cos(), radius * turn.sin(), height), 1)


def basis_of(direction: Tensor) -> Tensor:
    """[3,3] rows: two axes across a direction [3], and its opposite, along which depth grows."""
    helper = torch.zeros_like(direction)
    helper[int(direction.abs().argmin())] = 1
    across = torch.nn.functional.normalize(torch.linalg.cross(helper, direction), dim=0)
    return torch.stack((across, torch.linalg.cross(direction, across), -direction))
