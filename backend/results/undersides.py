"""Colours for what faces the ground, which no camera of the prior looks at: those of what is seen near by."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Generator, Tensor

from backend.scene.mesh import Mesh, face_cross

SAMPLES = 60_000  # points that stand for the surface
GRAZING = 50.0  # degrees between a view and the normal above which a stage says little of a colour
NEAR = 24  # seen points, of which an unseen one takes the mean, nearer ones counting more
Colour = Callable[[Tensor], Tensor]


@torch.no_grad()
def with_undersides(mesh: Mesh, colour: Colour, lowest: float) -> Colour:
    """`colour` ([N,3] metres to [N,3] RGB), but for what the lowest cameras see at more than GRAZING degrees, which is
    left as the field happened to be: there the weighted mean of the nearest seen points of the surface.

    lowest  degrees, the elevation of the prior's lowest cameras
    """
    device = mesh.v_pos.device
    cross = face_cross(mesh).cpu()
    area = cross.norm(dim=1)
    generator = Generator().manual_seed(0)
    face = torch.multinomial(area.clamp(min=1e-12), SAMPLES, replacement=True, generator=generator)
    bary = torch.rand(SAMPLES, 3, generator=generator).log().neg()
    bary = bary / bary.sum(1, keepdim=True)
    corners = mesh.v_pos.cpu()[mesh.t_pos_idx.cpu()[face]]
    points = (corners * bary[:, :, None]).sum(1)
    height = cross[face, 2] / area[face].clamp(min=1e-12)  # sine of where the normal points
    unseen = height < math.sin(math.radians(max(lowest - GRAZING, -90.0)))
    if not bool(unseen.any()) or bool(unseen.all()):
        return colour
    kinds, seen = cKDTree(points.numpy()), points[~unseen]
    tree, colours = cKDTree(seen.numpy()), colour(seen.to(device)).cpu()
    down = unseen.numpy()

    def ask(position: Tensor) -> Tensor:
        found, at = colour(position), position.cpu().numpy()
        rows = np.flatnonzero(down[kinds.query(at)[1]])
        if len(rows):
            away, which = tree.query(at[rows], NEAR)
            weight = torch.from_numpy(1 / (away + 1e-4)).float()
            weight = weight / weight.sum(1, keepdim=True)
            mean = (colours[torch.from_numpy(which)] * weight[:, :, None]).sum(1)
            found[torch.from_numpy(rows).to(device)] = mean.to(found)
        return found

    return ask
