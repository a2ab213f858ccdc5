"""Deeper hollows: what pictures of a vessel's normals tell, and no gradient does.

A floor that lies too high shows its error in a line, where it meets the wall: all the rest of it is as level as the
true one. So stages 1 and 2a leave it where it has formed, half way down, between walls that are too thick. Here some
deeper and wider ones are made, and somebody who knows how the object looks says which is best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from backend.scene.isosurface import TetGrid, marching_tetrahedra
from backend.scene.mesh import Mesh, holes

FINEST = 0.5  # of a cell, a voxel's side
MOST_VOXELS = 96  # along the longest side, however fine the grid is
LEAST = 3.0  # cells: what is less deep or less wide is a dent
WALL = 2.0  # cells of the object that are left beside a hollow and under it
DEPTHS = 6  # that are tried, from as it is to the wall over the ground
WIDER = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)  # cells on all sides, that are tried with each
ALIKE = 1.05  # times the least error: it is not known more finely, so this much decides nothing
RIM = 2.0  # cells, the height of a rim
FILM = 1.0  # voxels of water that are none, on a rim that is not quite level
PIT = 5  # voxels across, at most, of a hole in a floor that is not the floor


@dataclass(frozen=True)
class Hollow:
    """What water would stand in. Lengths are in voxels, heights from the middle of the lowest.

    depth   [X,Y] of the water, 0 beside it
    level   [X,Y] to which water would stand
    ground  [X,Y] where the object begins, from below
    thick   [X,Y,Z] to the object's outside in its slice, that of the rim as under it; 0 outside, and what is over the
            water counts as the object
    first   [3] metres, the middle of the first voxel
    voxel   metres
    """

    depth: np.ndarray
    level: np.ndarray
    ground: np.ndarray
    thick: np.ndarray
    first: np.ndarray
    voxel: float

    def deepest(self, wall: float) -> float:
        """How many times as deep it can become with `wall` metres left under it."""
        floor = self.depth > 0.5 * self.depth.max()
        return float(np.median((self.level - self.ground - wall / self.voxel)[floor] / self.depth[floor]))

    def stretched(self, times: float, wall: float) -> np.ndarray:
        """[X,Y,Z] voxels to the hollow's air, negative in it, `times` as deep, with `wall` metres left under it."""
        floor = np.maximum(self.level - times * self.depth, self.ground + wall / self.voxel)
        air = (np.arange(self.thick.shape[2]) > floor[..., None]) & (self.depth > 0)[..., None]
        away = ndimage.distance_transform_edt(~air) - ndimage.distance_transform_edt(air)
        return ndimage.gaussian_filter(away, 1.0)

    def widened(self, away: np.ndarray, wider: float, wall: float, points: Tensor) -> Tensor:
        """[N] metres from points [N,3] to that air, `wider` metres on all sides but for `wall` metres of the object."""
        away = np.maximum(away - wider / self.voxel, wall / self.voxel - self.thick)
        lowest = np.median(self.ground[self.depth > 0]) + wall / self.voxel
        away = np.maximum(away, lowest - np.arange(away.shape[2]))
        at = (points.detach().cpu().double().numpy() - self.first) / self.voxel
        metres = ndimage.map_coordinates(away, at.T, order=1, mode="nearest") * self.voxel
        return torch.from_numpy(metres).to(points)


def hollows(sdf: Tensor, grid: TetGrid) -> list[Hollow]:
    """Those of a surface that are open upwards, the largest first. sdf [N] metres, positive inside."""
    corners = grid.vertices[: grid.corners].cpu().double().numpy()
    cells = np.round(np.ptp(corners, 0) / grid.spacing).astype(int)
    step = max(FINEST, float(cells.max()) / MOST_VOXELS)  # cells
    at = np.meshgrid(*(np.arange(0, n + step, step) for n in cells), indexing="ij")
    coarse = sdf[: grid.corners].detach().cpu().double().numpy().reshape(cells + 1)
    fine = ndimage.map_coordinates(coarse, at, order=1, mode="nearest")  # the last may lie outside
    solid = fine > 0
    some, ground = solid.any(2), solid.argmax(2)
    top = np.where(some, solid.shape[2] - 1 - solid[..., ::-1].argmax(2), 0)
    within, above = (np.take_along_axis(fine, z[..., None], 2)[..., 0] for z in (top, top + 1))
    surface = np.where(some, top + within / np.where(some, within - above, 1.0), -1.0)
    level = _water_level(surface, some)
    piece, count = ndimage.label(level - surface > FILM)
    found = []
    for k in range(1, count + 1):
        own = np.where(piece == k, level - surface, 0.0)
        depth = np.where(piece == k, ndimage.grey_opening(own, PIT), 0.0)
        deep = depth * step > LEAST
        if deep.any() and 2 * step * ndimage.distance_transform_edt(deep).max() > LEAST:
            over = (depth > 0)[..., None] & (np.arange(solid.shape[2]) > ground[..., None])
            one_slice = (1, 1, sum(solid.shape))  # so far apart that no distance leaves its slice
            thick = ndimage.distance_transform_edt(solid | over, sampling=one_slice)
            below = max(0, int(level[deep].min() - RIM / step))
            thick[..., below:] = thick[
                ..., below : below + 1
            ]  # a round rim is thin, and would be left as a lip
            found.append(Hollow(depth, level, ground, thick, corners[0], step * grid.spacing))
    return sorted(found, key=lambda hollow: -float(hollow.depth.sum()))


def _water_level(surface: np.ndarray, some: np.ndarray) -> np.ndarray:
    """[X,Y] to which water stands on a surface [X,Y]; it runs off at the border, and through where there is none."""
    level = np.where(some, np.inf, surface)
    level[[0, -1]], level[:, [0, -1]] = surface[[0, -1]], surface[:, [0, -1]]
    beside = ndimage.generate_binary_structure(2, 1)
    while True:
        lower = np.maximum(surface, ndimage.minimum_filter(level, footprint=beside))
        if np.array_equal(lower, level):
            return level
        level = lower


@torch.no_grad()
def dig(sdf: Tensor, grid: TetGrid, error_of: Callable[[Mesh], float]) -> Tensor:
    """[N] metres, positive inside: `sdf` with its hollows as they look best; itself where that is as they are.

    sdf       [N] metres, positive inside
    error_of  of a surface, how far it is from what it should look like

    Of those that look alike one with the fewest holes is taken, where a field is empty under a floor and the floor is
    torn; of these the deepest, for what no picture tells from air is air; and of its widths the best.
    """
    wall = WALL * grid.spacing
    for hollow in hollows(sdf, grid):
        most = hollow.deepest(wall)
        if most <= 1:
            continue
        as_it_is = error_of(marching_tetrahedra(grid.vertices, sdf, grid))
        tried = []  # as numbers: of a fine grid a few dozen distances would fill a card
        for times in np.linspace(1, most, DEPTHS):
            away = hollow.stretched(times, wall)
            for wider in WIDER:
                air = hollow.widened(away, wider * grid.spacing, wall, grid.vertices)
                mesh = marching_tetrahedra(grid.vertices, torch.minimum(sdf, air), grid)
                tried.append((error_of(mesh), holes(mesh), times, wider))
        good = ALIKE * min(error for error, *_ in tried)
        if as_it_is > good:
            alike = [one for one in tried if one[0] <= good]
            _, _, times, wider = min(alike, key=lambda one: (one[1], -one[2], one[0]))
            air = hollow.widened(hollow.stretched(times, wall), wider * grid.spacing, wall, grid.vertices)
            sdf = torch.minimum(sdf, air)
    return sdf
