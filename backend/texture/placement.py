"""Where an artist's object stands while it is refined: in the ball of radius 0.5, facing -Y, at any size of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.errors import InputError

RADIUS = 0.49  # metres, of the ball that it is brought into
FITS = (0.44, 0.51)  # radii round the origin that are left as they are
ROUNDS = 300


@dataclass(frozen=True)
class Placement:
    """Stage coordinates are turn (x - centre) scale; the object itself is never moved."""

    centre: tuple[float, float, float]
    scale: float
    turn: float  # degrees round z, against the clock seen from above

    def place(self, v_pos: NDArray[np.float32]) -> NDArray[np.float32]:
        """[V,3] to [V,3]."""
        moved = (v_pos.astype(np.float64) - self.centre) * self.scale
        c, s = math.cos(math.radians(self.turn)), math.sin(math.radians(self.turn))
        turned = moved @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        return turned.astype(np.float32)


def find_placement(v_pos: NDArray[np.float32], t_pos_idx: NDArray[np.int32], front: float) -> Placement:
    """From the vertices that faces use. `front`: the azimuth it faces, degrees.

    Raises InputError where it has no extent, or lies so far off that its vertices have lost their precision.
    """
    used = v_pos[np.unique(t_pos_idx)].astype(np.float64)
    if not len(used):
        raise InputError("The object has no faces.", "Choose an object with faces.")
    reach = np.linalg.norm(used, axis=1).max()
    if FITS[0] <= reach <= FITS[1]:  # as our own objects: what a prior expects to the pixel
        return Placement((0.0, 0.0, 0.0), 1.0, -front)
    centre = (used.min(0) + used.max(0)) / 2
    for i in range(1, ROUNDS):  # the smallest ball (Badoiu and Clarkson): a step to the farthest point
        centre = centre + (used[((used - centre) ** 2).sum(1).argmax()] - centre) / (i + 1)
    radius = float(np.linalg.norm(used - centre, axis=1).max())
    step = float(np.spacing(np.float32(np.abs(used).max())))  # of its numbers
    if not radius > 0 or not math.isfinite(radius):
        raise InputError("The object has no extent: all of its vertices lie in one point.", "Scale it up.")
    if step > radius / 100:
        raise InputError(
            f"The object is {2 * radius:.3g} m in size and lies {reach:.3g} m from the origin, where the numbers of its"
            f" vertices are {step:.1g} m apart.",
            "Move it nearer to the origin and try again.",
        )
    x, y, z = (float(c) for c in centre)
    return Placement((x, y, z), RADIUS / radius, -front)
