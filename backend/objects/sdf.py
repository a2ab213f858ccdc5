"""Signed distance functions to build objects from, and ways to combine them.

A field maps a point, given as three tensors (x, y, z) of one shape, to a tensor of that shape:
POSITIVE OUTSIDE, negative inside, metres. No field is steeper than 1, so its value is a lower bound
of the distance to the surface and sphere tracing along it is safe (Quilez, "distance functions").
Coordinates are separate tensors because that halves the time of every field on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor

Point = tuple[Tensor, Tensor, Tensor]
Field = Callable[[Point], Tensor]
Triple = tuple[float, float, float]

# The two axes across each axis, so that "along the axis" is always the third coordinate.
_ACROSS = {"x": (1, 2, 0), "y": (0, 2, 1), "z": (0, 1, 2)}


def _boxed(across: Tensor, along: Tensor) -> Tensor:
    """The distance to a prism, from the distance to its outline and to its two ends."""
    outside = (across.clamp(min=0).square() + along.clamp(min=0).square()).sqrt()
    return outside + torch.maximum(across, along).clamp(max=0)


def ball(centre: Triple, radius: float) -> Field:
    def field(p: Point) -> Tensor:
        x, y, z = p[0] - centre[0], p[1] - centre[1], p[2] - centre[2]
        return (x * x + y * y + z * z).sqrt() - radius

    return field


def ellipsoid(centre: Triple, radii: Triple) -> Field:
    """A ball in stretched space; the bound is loose by the ratio of the radii."""
    small = min(radii)

    def field(p: Point) -> Tensor:
        x, y, z = ((p[i] - centre[i]) * (1 / radii[i]) for i in range(3))
        return ((x * x + y * y + z * z).sqrt() - 1) * small

    return field


def box(centre: Triple, half: Triple, rounding: float = 0.0) -> Field:
    """half: the half-sizes including the rounding of the edges."""

    def field(p: Point) -> Tensor:
        x, y, z = ((p[i] - centre[i]).abs() - (half[i] - rounding) for i in range(3))
        outside = (x.clamp(min=0).square() + y.clamp(min=0).square() + z.clamp(min=0).square()).sqrt()
        return outside + torch.maximum(torch.maximum(x, y), z).clamp(max=0) - rounding

    return field


def cylinder(centre: Triple, radius: float, half: float, axis: str = "z", rounding: float = 0.0) -> Field:
    i, j, k = _ACROSS[axis]

    def field(p: Point) -> Tensor:
        u, v = p[i] - centre[i], p[j] - centre[j]
        across = (u * u + v * v).sqrt() - (radius - rounding)
        return _boxed(across, (p[k] - centre[k]).abs() - (half - rounding)) - rounding

    return field


def torus(centre: Triple, radius: float, thickness: float, axis: str = "z") -> Field:
    """thickness: the tube's radius."""
    i, j, k = _ACROSS[axis]

    def field(p: Point) -> Tensor:
        u, v, w = p[i] - centre[i], p[j] - centre[j], p[k] - centre[k]
        ring = (u * u + v * v).sqrt() - radius
        return (ring * ring + w * w).sqrt() - thickness

    return field


def tube(points: Sequence[Triple], radii: Sequence[float]) -> Field:
    """Round segments from point to point, their radius going from one to the next."""

    def segment(a: Triple, b: Triple, ra: float, rb: float) -> Field:
        e = [b[i] - a[i] for i in range(3)]
        square = sum(c * c for c in e)
        slope = 1 / math.sqrt(1 + (rb - ra) ** 2 / square)

        def field(p: Point) -> Tensor:
            x, y, z = p[0] - a[0], p[1] - a[1], p[2] - a[2]
            t = ((x * e[0] + y * e[1] + z * e[2]) * (1 / square)).clamp(0, 1)
            x, y, z = x - e[0] * t, y - e[1] * t, z - e[2] * t
            distance = (x * x + y * y + z * z).sqrt()
            return distance - ra if ra == rb else (distance - (ra + (rb - ra) * t)) * slope

        return field

    return union(*map(segment, points, points[1:], radii, radii[1:]))


def _polygon(outline: Sequence[tuple[float, float]], u: Tensor, v: Tensor, open_at_axis: bool) -> Tensor:
    """The distance to a polygon in the plane; edges on the axis u = 0 bound nothing if open_at_axis."""
    nearest = torch.full_like(u, math.inf)
    inside = torch.zeros_like(u, dtype=torch.bool)
    for (ua, va), (ub, vb) in zip(outline, [*outline[1:], outline[0]], strict=True):
        eu, ev = ub - ua, vb - va
        wu, wv = u - ua, v - va
        if not (open_at_axis and ua == 0 and ub == 0):
            t = ((wu * eu + wv * ev) * (1 / (eu * eu + ev * ev))).clamp(0, 1)
            du, dv = wu - eu * t, wv - ev * t
            nearest = torch.minimum(nearest, du * du + dv * dv)
        if ev != 0:  # does a ray towards +u cross this edge?
            inside ^= ((wv < 0) ^ (v < vb)) & (wu < wv * (eu / ev))
    distance = nearest.sqrt()
    return torch.where(inside, -distance, distance)


def lathe(profile: Sequence[tuple[float, float]], rounding: float = 0.0) -> Field:
    """A closed profile of (radius, z) turned round the z axis; `rounding` is added outside it."""

    def field(p: Point) -> Tensor:
        radius = (p[0] * p[0] + p[1] * p[1]).sqrt()
        return _polygon(profile, radius, p[2], open_at_axis=True) - rounding

    return field


def extrude(outline: Sequence[tuple[float, float]], half: float, axis: str, rounding: float = 0.0) -> Field:
    """An outline drawn across `axis` - (y,z), (x,z) or (x,y) - and pulled to both sides of the origin.

    `rounding` is added outside the outline and the ends.
    """
    i, j, k = _ACROSS[axis]

    def field(p: Point) -> Tensor:
        across = _polygon(outline, p[i], p[j], open_at_axis=False)
        return _boxed(across, p[k].abs() - half) - rounding

    return field


def half_space(axis: str, limit: float, below: bool = True) -> Field:
    """All that is below (or above) `limit` along an axis."""
    k, sign = "xyz".index(axis), 1.0 if below else -1.0
    return lambda p: (p[k] - limit) * sign


def union(*fields: Field) -> Field:
    return lambda p: reduce(torch.minimum, (field(p) for field in fields))


def blend(width: float, *fields: Field) -> Field:
    """A union whose seams are rounded over `width`."""

    def field(p: Point) -> Tensor:
        distance = fields[0](p)
        for other in fields[1:]:
            d = other(p)
            h = (width - (distance - d).abs()).clamp(min=0)
            distance = torch.minimum(distance, d) - h * h * (0.25 / width)
        return distance

    return field


def common(*fields: Field) -> Field:
    """What is inside all of them."""
    return lambda p: reduce(torch.maximum, (field(p) for field in fields))


def cut(field: Field, away: Field) -> Field:
    """`field` without `away`."""
    return lambda p: torch.maximum(field(p), -away(p))


def mirror(field: Field, axes: str = "x") -> Field:
    """The half at positive coordinates, seen on both sides."""

    def mirrored(p: Point) -> Tensor:
        x, y, z = (p[i].abs() if name in axes else p[i] for i, name in enumerate("xyz"))
        return field((x, y, z))

    return mirrored


def turn(field: Field, axis: str, degrees: float, about: Triple = (0.0, 0.0, 0.0)) -> Field:
    """Rotated counter-clockwise, seen against the axis, round a line through `about`."""
    k = "xyz".index(axis)
    i, j = (k + 1) % 3, (k + 2) % 3
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def turned(p: Point) -> Tensor:
        q = list(p)
        u, v = p[i] - about[i], p[j] - about[j]
        q[i], q[j] = u * c + v * s + about[i], v * c - u * s + about[j]
        return field((q[0], q[1], q[2]))

    return turned


def ring_of(field: Field, count: int) -> Field:
    """`count` copies round the z axis; `field` describes the one on +X, symmetric in y."""
    sector = 2 * math.pi / count

    def ring(p: Point) -> Tensor:
        radius = (p[0] * p[0] + p[1] * p[1]).sqrt()
        angle = torch.atan2(p[1], p[0])
        angle = angle - sector * (angle * (1 / sector)).round()
        return field((radius * angle.cos(), radius * angle.sin(), p[2]))

    return ring
