"""A place of its own for every polygon in one square image: where colours are baked to. numpy only.

Each polygon becomes a regular one with as many corners, in a square cell; however it is cut into triangles, they
do not overlap there. Cells have sides of powers of two and follow a Z curve, the largest first: no gap, no search.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST = 8  # texels a side of a cell
INSET = 1.0  # texels between a polygon and its cell's edge


class TooMany(ValueError):
    """More polygons than the image has room for."""


def atlas(area: NDArray[np.float64], total: NDArray[np.int32], size: int) -> NDArray[np.float32]:
    """[L,2] in the unit square, for the corners of polygons of these areas, in order; size: pixels, a power of two.

    Raises TooMany.
    """
    if not len(total):
        return np.zeros((0, 2), np.float32)
    level = _levels(area, size)
    order = np.argsort(-level, kind="stable")
    side = (LEAST << level[order]).astype(np.int64)
    cells = (side // LEAST) ** 2
    x, y = _unmix(np.cumsum(cells) - cells)
    corner = np.empty((len(total), 2))
    corner[order] = np.stack((x, y), 1) * LEAST
    wide = np.empty(len(total))
    wide[order] = side
    which = np.repeat(np.arange(len(total)), total)
    nth = np.arange(len(which)) - np.repeat(np.cumsum(total) - total, total)
    turn = 2 * np.pi * (nth + 0.5) / total[which]
    radius = (wide[which] / 2 - INSET) * np.where(total[which] == 4, np.sqrt(2), 1)  # a square fills its cell
    place = (
        corner[which] + wide[which, None] / 2 + radius[:, None] * np.stack((np.cos(turn), np.sin(turn)), 1)
    )
    return (place / size).astype(np.float32)


def _levels(area: NDArray[np.float64], size: int) -> NDArray[np.int64]:
    """[P] so that cells of LEAST << level texels a side are in proportion to the polygons, and just fit."""
    most = int(size // LEAST).bit_length() - 1
    side = np.sqrt(np.maximum(area, 0))
    mean = max(float(np.sqrt((side**2).mean())), 1e-300)
    room = (size // LEAST) ** 2
    if len(area) > room:
        raise TooMany(f"{len(area):,} faces")
    per = size / np.sqrt(len(area)) / mean / LEAST  # cells along a side of length 1, if all were alike
    for _ in range(40):
        level = np.floor(np.log2(np.maximum(side * per, 1))).astype(np.int64).clip(0, most)
        if int((4**level).sum()) <= room:
            return level
        per *= 0.85
    return np.zeros(len(area), np.int64)


def _unmix(code: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The even and the odd bits of each number: where on a Z curve it stands."""
    x, y = np.zeros_like(code), np.zeros_like(code)
    for bit in range(20):
        x |= (code >> (2 * bit) & 1) << bit
        y |= (code >> (2 * bit + 1) & 1) << bit
    return x, y
