"""Ball, cube, cone, donut, and vessels: mug, teapot, bottle, bowl."""

from __future__ import annotations

import math

import torch

from backend.objects import sdf
from backend.objects.kinds import Kind
from backend.objects.sdf import Field, Point


def ball() -> Kind:
    stripe = sdf.common(sdf.half_space("z", 0.08), sdf.half_space("z", -0.08, below=False))
    return Kind([("ball", sdf.ball((0, 0, 0), 0.5))], [("stripe", stripe)])


def cube() -> Kind:
    return Kind(
        [("cube", sdf.box((0, 0, 0), (0.3, 0.3, 0.3), 0.035))],
        [("top", sdf.half_space("z", 0.29, below=False))],
    )


def cone() -> Kind:
    return Kind(
        [("cone", sdf.lathe([(0, -0.36), (0.36, -0.36), (0.02, 0.42), (0, 0.42)], 0.02))],
        [
            ("stripe", sdf.common(sdf.half_space("z", 0.06), sdf.half_space("z", -0.12, below=False))),
            ("tip", sdf.half_space("z", 0.24, below=False)),
        ],
    )


def donut() -> Kind:
    ring, thickness = 0.325, 0.165

    def below_icing(p: Point) -> torch.Tensor:
        angle = torch.atan2(p[1], p[0])
        return p[2] - 0.005 - 0.035 * (9 * angle).sin()

    sprinkles: list[Field] = []
    for i in range(22):  # golden steps round the ring, so that none fall in line
        angle, across, lean = i * 2.399963, 0.62 * math.sin(1.7 * i), 2.1 * i
        radius = ring + thickness * math.sin(across)
        x, y, z = radius * math.cos(angle), radius * math.sin(angle), thickness * math.cos(across)
        dx, dy = 0.026 * math.cos(lean), 0.026 * math.sin(lean)
        sprinkles.append(sdf.tube([(x - dx, y - dy, z), (x + dx, y + dy, z)], [0.017, 0.017]))
    return Kind(
        [("icing", sdf.torus((0, 0, 0), ring, thickness))],
        [("dough", below_icing), ("sprinkles", sdf.union(*sprinkles))],
        {"dough": "dough", "sprinkles": "white"},
    )


def mug() -> Kind:
    wall = [(0, -0.33), (0.28, -0.33), (0.3, -0.31), (0.3, 0.33), (0.25, 0.33), (0.25, -0.27), (0, -0.27)]
    inside = sdf.cylinder((0, 0, 0.1), 0.262, 0.4)
    handle = sdf.cut(sdf.torus((0.29, 0, 0), 0.185, 0.045, "y"), sdf.cylinder((0, 0, 0), 0.26, 1))
    return Kind(
        [("mug", sdf.lathe(wall, 0.008)), ("handle", handle)],
        [("inside", sdf.common(inside, sdf.half_space("z", 0.335)))],
        {"inside": "white"},
    )


def teapot() -> Kind:
    body = sdf.blend(
        0.05,
        sdf.ellipsoid((0, 0, -0.04), (0.3, 0.3, 0.245)),
        sdf.cylinder((0, 0, -0.25), 0.17, 0.035, "z", 0.01),
    )
    spout = sdf.tube(
        [(0.2, 0, -0.12), (0.33, 0, -0.07), (0.39, 0, 0.03), (0.42, 0, 0.13), (0.48, 0, 0.2)],
        [0.1, 0.075, 0.058, 0.048, 0.042],
    )
    handle = sdf.cut(sdf.torus((-0.29, 0, 0.01), 0.165, 0.036, "y"), sdf.ball((0, 0, -0.04), 0.2))
    lid = sdf.blend(
        0.02, sdf.ellipsoid((0, 0, 0.12), (0.185, 0.185, 0.1)), sdf.torus((0, 0, 0.14), 0.165, 0.022)
    )
    knob = sdf.blend(0.03, sdf.ball((0, 0, 0.27), 0.05), sdf.cylinder((0, 0, 0.22), 0.026, 0.05))
    return Kind([("teapot", body), ("spout", spout), ("handle", handle), ("lid", lid), ("knob", knob)])


def bottle() -> Kind:
    profile = [
        (0, -0.47), (0.15, -0.47), (0.165, -0.45), (0.165, 0.04), (0.15, 0.12), (0.105, 0.19),
        (0.065, 0.25), (0.055, 0.4), (0, 0.4),
    ]  # fmt: skip
    label = sdf.common(sdf.half_space("z", -0.02), sdf.half_space("z", -0.32, below=False))
    cap = sdf.cylinder((0, 0, 0.42), 0.08, 0.065, "z", 0.015)
    return Kind(
        [("bottle", sdf.lathe(profile, 0.012)), ("cap", cap)],
        [("label", label)],
        {"cap": "black", "label": "cream"},
    )


def bowl() -> Kind:
    centre = (0.0, 0.0, 0.2)
    shell = sdf.cut(sdf.ball(centre, 0.475), sdf.ball((0, 0, 0.22), 0.425))
    shell = sdf.common(shell, sdf.half_space("z", 0.17))
    rim = sdf.torus((0, 0, 0.17), 0.448, 0.03)
    foot = sdf.cylinder((0, 0, -0.26), 0.2, 0.05, "z", 0.01)
    inside = sdf.common(sdf.ball((0, 0, 0.2), 0.44), sdf.half_space("z", 0.175))
    return Kind([("bowl", shell), ("foot", foot), ("rim", rim)], [("inside", inside)], {"inside": "white"})
