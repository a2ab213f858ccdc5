"""Free ground for the next result: the 3D cursor where the artist has moved it, else next to what is there."""

from __future__ import annotations

from collections.abc import Iterable

import bpy
from mathutils import Vector

Box = tuple[Vector, Vector]  # the lowest and the highest corner, metres
GAP = 0.25  # of the result's height, between it and what is there


def free_place(scene: bpy.types.Scene, height: float, taken: Iterable[tuple[Vector, float]]) -> Vector:
    """Where the centre of its base goes.

    taken  places and heights of results that are still being made
    """
    cursor = scene.cursor.location.copy()
    if cursor.length > 1e-6:
        return cursor
    size = height or 1.0
    boxes = [_box(obj) for obj in scene.objects if _takes_room(obj)]
    boxes += [_around(place, other or 1.0) for place, other in taken]
    place = Vector((0.0, 0.0, 0.0))
    while hit := [box for box in boxes if _overlap(_around(place, size), box)]:
        place.x = max(high.x for _, high in hit) + (0.5 + GAP) * size
    return place


def _takes_room(obj: bpy.types.Object) -> bool:
    return obj.type in {"MESH", "CURVE", "SURFACE", "FONT", "META"} and obj.visible_get()


def _box(obj: bpy.types.Object) -> Box:
    corners = [obj.matrix_world @ Vector(corner) for corner in obj.bound_box]
    return Vector(map(min, zip(*corners, strict=True))), Vector(map(max, zip(*corners, strict=True)))


def _around(place: Vector, size: float) -> Box:
    """Of an object of this height that stands there; a little above the ground, which takes no room."""
    half = size / 2
    low = place + Vector((-half, -half, 0.02 * size))
    return low, place + Vector((half, half, size))


def _overlap(one: Box, other: Box) -> bool:
    return all(one[0][i] < other[1][i] and other[0][i] < one[1][i] for i in range(3))
