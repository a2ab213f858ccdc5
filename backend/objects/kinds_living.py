"""Plants, animals and figures: tree, mushroom, cactus, duck, fish, snowman, robot."""

from __future__ import annotations

import math

import torch

from backend.objects import sdf
from backend.objects.kinds import Kind
from backend.objects.sdf import Point


def tree() -> Kind:
    trunk = sdf.blend(
        0.06,
        sdf.tube([(0, 0, -0.48), (0, 0, -0.38), (0, 0, 0.05)], [0.1, 0.07, 0.055]),
        sdf.tube([(0, 0, -0.2), (0.13, -0.02, 0.0)], [0.04, 0.035]),
    )
    ring = [
        (math.cos(math.radians(a)) * 0.2, math.sin(math.radians(a)) * 0.2, z)
        for a, z in ((-70, 0.04), (2, 0.1), (74, 0.05), (146, 0.1), (218, 0.08))
    ]
    leaves = sdf.blend(
        0.03,
        sdf.ball((0, 0, 0.15), 0.23),
        *(sdf.ball(c, 0.165) for c in ring),
        sdf.ball((0.04, 0.06, 0.3), 0.17),
        sdf.ball((-0.07, -0.06, 0.27), 0.16),
    )
    return Kind([("leaves", leaves), ("trunk", trunk)], own={"trunk": "brown"})


def mushroom() -> Kind:
    stem = sdf.tube([(0, 0, -0.4), (0, 0, -0.25), (0, 0, 0.05)], [0.15, 0.13, 0.1])
    stem = sdf.common(stem, sdf.half_space("z", -0.47, below=False))
    cap = sdf.cut(
        sdf.ellipsoid((0, 0, 0.0), (0.43, 0.43, 0.38)), sdf.ellipsoid((0, 0, -0.1), (0.6, 0.6, 0.12))
    )
    cap = sdf.common(cap, sdf.half_space("z", 0.0, below=False))
    spots = [sdf.ball((0, 0, 0.38), 0.09)]
    for i, (low, size) in enumerate([(0.62, 0.085), (0.3, 0.075)] * 5):
        angle = 2 * math.pi * (i + 0.25) / 10
        across = 0.43 * math.cos(math.asin(low))
        spots.append(sdf.ball((across * math.cos(angle), across * math.sin(angle), 0.38 * low), size))
    return Kind(
        [("cap", cap), ("stem", stem)],
        [
            ("gills", sdf.cut(sdf.half_space("z", 0.03), sdf.cylinder((0, 0, 0), 0.155, 1))),
            ("spots", sdf.union(*spots)),
        ],
        {"stem": "cream", "spots": "white", "gills": "cream"},
    )


def cactus() -> Kind:
    trunk = sdf.tube([(0, 0, -0.25), (0, 0, 0.33)], [0.125, 0.115])
    right = sdf.tube(
        [(0.05, 0, -0.02), (0.2, 0, -0.01), (0.27, 0, 0.05), (0.275, 0, 0.24)], [0.07, 0.07, 0.07, 0.065]
    )
    left = sdf.tube([(-0.05, 0, -0.12), (-0.19, 0, -0.11), (-0.255, 0, -0.05), (-0.26, 0, 0.1)], [0.065] * 4)
    plant = sdf.blend(0.04, trunk, right, left)
    pot = sdf.union(
        sdf.lathe([(0, -0.49), (0.15, -0.49), (0.2, -0.27), (0, -0.27)]),
        sdf.cylinder((0, 0, -0.27), 0.225, 0.035, "z", 0.01),
    )
    soil = sdf.cylinder((0, 0, -0.22), 0.185, 0.03)
    flower = sdf.union(
        sdf.ring_of(sdf.ellipsoid((0.06, 0, 0.45), (0.05, 0.035, 0.03)), 5), sdf.ball((0, 0, 0.45), 0.04)
    )

    def spines(p: Point) -> torch.Tensor:
        """Dots in rows on the trunk, in columns on the arms."""
        trunk_side = (10 * torch.atan2(p[1], p[0])).cos()
        arm_side = (7 * torch.atan2(p[1], p[0].abs() - 0.265)).cos()
        side = torch.where(p[0].abs() < 0.16, trunk_side, arm_side)
        return 1.35 - side - (p[2] * 60).cos()

    return Kind(
        [("cactus", plant), ("pot", pot), ("flower", flower)],
        [
            ("spines", sdf.common(spines, sdf.cut(sdf.half_space("z", 0.42), sdf.half_space("z", -0.2)))),
            ("soil", soil),
        ],
        {"pot": "clay", "soil": "brown", "flower": "pink", "spines": "cream"},
    )


def duck() -> Kind:
    body = sdf.blend(
        0.1,
        sdf.ellipsoid((0, 0.04, -0.2), (0.25, 0.34, 0.2)),
        sdf.tube([(0, 0.25, -0.14), (0, 0.4, 0.0)], [0.12, 0.035]),
        sdf.tube([(0, -0.12, -0.12), (0, -0.13, 0.1)], [0.15, 0.12]),
    )
    body = sdf.common(body, sdf.half_space("z", -0.365, below=False))
    head = sdf.blend(0.04, body, sdf.ball((0, -0.14, 0.21), 0.195))
    bill = sdf.union(
        sdf.ellipsoid((0, -0.355, 0.185), (0.105, 0.13, 0.042)),
        sdf.ellipsoid((0, -0.335, 0.135), (0.085, 0.1, 0.035)),
    )
    eyes = sdf.mirror(sdf.ball((0.095, -0.29, 0.275), 0.042))
    wing = sdf.turn(sdf.ellipsoid((0.235, 0.09, -0.15), (0.055, 0.2, 0.115)), "x", 18, (0, 0.09, -0.15))
    return Kind(
        [("duck", head), ("beak", bill), ("eyes", eyes), ("wings", sdf.mirror(wing))],
        own={"beak": "orange", "eyes": "black"},
    )


def fish() -> Kind:
    body = sdf.blend(
        0.05,
        sdf.ellipsoid((0, -0.08, 0), (0.15, 0.33, 0.225)),
        sdf.tube([(0, 0.05, 0), (0, 0.25, 0)], [0.1, 0.05]),
    )
    fork = [(0.18, 0.0), (0.26, 0.06), (0.47, 0.22), (0.4, 0.0), (0.47, -0.22), (0.26, -0.06)]
    tail = sdf.extrude(fork, 0.02, "x", rounding=0.012)
    back = sdf.extrude([(-0.2, 0.14), (-0.12, 0.3), (0.1, 0.29), (0.16, 0.1)], 0.016, "x", rounding=0.01)
    under = sdf.extrude([(-0.02, -0.16), (0.1, -0.3), (0.16, -0.27), (0.14, -0.1)], 0.016, "x", rounding=0.01)
    side = sdf.turn(sdf.ellipsoid((0.19, 0.0, -0.06), (0.03, 0.12, 0.065)), "z", -28, (0.15, -0.08, 0))
    eyes = sdf.mirror(sdf.ball((0.09, -0.285, 0.06), 0.058))
    pupils = sdf.mirror(sdf.ball((0.142, -0.31, 0.062), 0.036))
    mouth = sdf.common(sdf.torus((0, -0.405, -0.05), 0.035, 0.018, "y"), sdf.half_space("y", -0.3))
    bands = sdf.union(sdf.box((0, -0.1, 0), (1, 0.035, 1)), sdf.box((0, 0.07, 0), (1, 0.035, 1)))
    return Kind(
        [
            ("fish", body),
            ("tail", tail),
            ("fins", sdf.union(back, under, sdf.mirror(side))),
            ("eyes", eyes),
            ("mouth", mouth),
        ],
        [
            ("stripes", sdf.common(bands, sdf.ellipsoid((0, -0.08, 0), (0.17, 0.35, 0.24)))),
            ("pupils", pupils),
        ],
        {"stripes": "white", "eyes": "white", "pupils": "black"},
    )


def snowman() -> Kind:
    snow = sdf.blend(
        0.03, sdf.ball((0, 0, -0.29), 0.225), sdf.ball((0, 0, 0.0), 0.17), sdf.ball((0, 0, 0.24), 0.135)
    )
    snow = sdf.common(snow, sdf.half_space("z", -0.48, below=False))
    nose = sdf.tube([(0, -0.11, 0.235), (0, -0.27, 0.225)], [0.042, 0.02])
    eyes = sdf.mirror(sdf.ball((0.05, -0.118, 0.285), 0.028))
    buttons = sdf.union(
        sdf.ball((0, -0.165, 0.06), 0.028),
        sdf.ball((0, -0.172, -0.03), 0.028),
        sdf.ball((0, -0.212, -0.22), 0.028),
    )
    hat = sdf.union(
        sdf.cylinder((0, 0, 0.345), 0.175, 0.02, "z", 0.008),
        sdf.cylinder((0, 0, 0.43), 0.11, 0.09, "z", 0.01),
    )
    scarf = sdf.union(
        sdf.torus((0, 0, 0.13), 0.12, 0.04),
        sdf.turn(sdf.box((0.08, -0.16, 0.03), (0.04, 0.026, 0.1), 0.015), "x", -8, (0, -0.16, 0.1)),
    )
    arm = sdf.union(
        sdf.tube([(0.12, 0, 0.03), (0.4, -0.03, 0.16)], [0.024, 0.02]),
        sdf.tube([(0.31, -0.02, 0.12), (0.36, -0.02, 0.22)], [0.02, 0.019]),
    )
    return Kind(
        [
            ("snow", snow),
            ("hat", hat),
            ("scarf", scarf),
            ("nose", nose),
            ("arms", sdf.mirror(arm)),
            ("eyes", eyes),
            ("buttons", buttons),
        ],
        own={
            "hat": "black",
            "scarf": "red",
            "nose": "orange",
            "arms": "brown",
            "eyes": "black",
            "buttons": "black",
        },
    )


def robot() -> Kind:
    head = sdf.box((0, 0, 0.28), (0.17, 0.135, 0.125), 0.03)
    torso = sdf.box((0, 0, -0.05), (0.19, 0.13, 0.17), 0.025)
    neck = sdf.cylinder((0, 0, 0.14), 0.06, 0.06)
    ears = sdf.mirror(sdf.cylinder((0.18, 0, 0.28), 0.05, 0.03, "x", 0.008))
    antenna = sdf.union(sdf.cylinder((0, 0, 0.43), 0.02, 0.06), sdf.ball((0, 0, 0.49), 0.042))
    eyes = sdf.mirror(sdf.cylinder((0.075, -0.13, 0.305), 0.045, 0.025, "y", 0.008))
    pupils = sdf.mirror(sdf.cylinder((0.075, -0.16, 0.305), 0.02, 0.02, "y"))
    mouth = sdf.box((0, -0.14, 0.205), (0.085, 0.03, 0.02))
    panel = sdf.box((0, -0.14, -0.04), (0.125, 0.03, 0.09))
    lamps = sdf.union(
        sdf.ball((-0.065, -0.135, -0.01), 0.028),
        sdf.ball((0.0, -0.135, -0.01), 0.028),
        sdf.ball((0.065, -0.135, -0.01), 0.028),
        sdf.box((0, -0.14, -0.085), (0.09, 0.03, 0.016)),
    )
    arm = sdf.union(
        sdf.ball((0.22, 0, 0.06), 0.06),
        sdf.tube([(0.23, 0, 0.06), (0.275, -0.01, -0.07), (0.265, -0.08, -0.17)], [0.042, 0.04, 0.04]),
    )
    hand = sdf.ball((0.265, -0.095, -0.195), 0.062)
    leg = sdf.cylinder((0.095, 0, -0.3), 0.05, 0.12)
    foot = sdf.box((0.1, -0.035, -0.445), (0.075, 0.115, 0.045), 0.02)
    return Kind(
        [
            ("robot", sdf.union(head, torso)),
            ("arms", sdf.mirror(arm)),
            ("hands", sdf.mirror(hand)),
            ("legs", sdf.union(sdf.mirror(leg), neck)),
            ("feet", sdf.mirror(foot)),
            ("ears", ears),
            ("antenna", antenna),
            ("eyes", eyes),
        ],
        [("mouth", mouth), ("panel", panel), ("buttons", lamps), ("pupils", pupils)],
        {
            "arms": "steel",
            "legs": "steel",
            "eyes": "glow",
            "pupils": "black",
            "mouth": "black",
            "panel": "black",
            "buttons": "cyan",
            "antenna": "red",
            "ears": "steel",
        },
    )
