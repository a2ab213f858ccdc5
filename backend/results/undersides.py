"""Colours for what faces the ground, which no camera of the prior looks at: those of what is seen near by."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from backend.scene.camera import Camera, orbit
from backend.scene.mesh import Mesh, face_cross, surface_points
from backend.texture.mask import seen

SAMPLES = 60_000  # points that stand for the surface
# degrees between a view and the normal: up to which a stage says enough of a colour, and from which it says little
CLEAR, GRAZING = 20.0, 40.0
LENDERS = 4_000  # of those that are seen clearly: few, so that NEAR of them reach far
NEAR, SMOOTH = 64, 0.05  # of whose colours an unseen one takes the mean, by 1 / (metres + SMOOTH)
AROUND, SIZE, FOV = 8, 256, 40.0  # lowest cameras that say who is seen, their pixels a side, degrees
Colour = Callable[[Tensor], Tensor]


@torch.no_grad()
def with_undersides(mesh: Mesh, colour: Colour, lowest: float) -> Colour:
    """`colour` ([N,3] metres to [N,3] RGB), but for what the lowest cameras see at more than GRAZING degrees, which is
    left as the field happened to be: there a mean of what they see clearly near by, and from CLEAR on part of it.

    lowest  degrees, the elevation of the prior's lowest cameras
    """
    device = mesh.v_pos.device
    cross = face_cross(mesh).cpu()
    points, face = surface_points(mesh, SAMPLES, 0)
    points = points.to(cross)
    height = cross[face, 2] / cross[face].norm(dim=1).clamp(min=1e-12)  # sine of where the normal points
    clear, grazing = (math.sin(math.radians(max(lowest - angle, -90.0))) for angle in (CLEAR, GRAZING))
    if bool((height >= clear).all()):
        return colour
    # the floor inside a mug is nearer to its underside than its outside is, and may have another colour
    lending = (height >= clear) & seen(points.to(device), mesh, lowest_cameras(mesh, lowest)).cpu()
    if int(lending.sum()) < NEAR:
        return colour
    share = ((clear - height) / max(clear - grazing, 1e-6)).clamp(0, 1)
    everywhere, lenders = cKDTree(points.numpy()), points[lending][:LENDERS]
    tree, colours = cKDTree(lenders.numpy()), colour(lenders.to(device)).cpu()

    def ask(position: Tensor) -> Tensor:
        found, at = colour(position), position.cpu().numpy()
        lent = share[torch.from_numpy(everywhere.query(at)[1])]
        rows = lent.nonzero()[:, 0]
        if len(rows):
            away, which = tree.query(at[rows.numpy()], NEAR)
            weight = torch.from_numpy(1 / (away + SMOOTH)).float()
            weight = weight / weight.sum(1, keepdim=True)
            mean = (colours[torch.from_numpy(which)] * weight[:, :, None]).sum(1)
            rows, how_much = rows.to(device), lent[rows, None].to(device)
            found[rows] = found[rows].lerp(mean.to(found), how_much)
        return found

    return ask


def lowest_cameras(mesh: Mesh, lowest: float) -> Camera:
    """A circle of them at `lowest` degrees, so far away that each sees all of the mesh."""
    azimuth = torch.arange(AROUND, device=mesh.v_pos.device) * (360.0 / AROUND)
    same = torch.ones_like(azimuth)
    distance = float(mesh.v_pos.norm(dim=1).max()) / math.sin(math.radians(FOV / 2))
    return orbit(azimuth, lowest * same, distance * same, FOV * same, SIZE, SIZE)
