"""Furniture, vehicles and buildings: chair, table, lamp, bed, car, boat, rocket, house, tower."""

from __future__ import annotations

from backend.objects import sdf
from backend.objects.kinds import Kind
from backend.objects.sdf import Field


def chair() -> Kind:
    seat = sdf.box((0, 0, 0), (0.22, 0.21, 0.035), 0.015)
    legs = sdf.mirror(sdf.box((0.185, 0.175, -0.24), (0.03, 0.03, 0.24), 0.008), "xy")
    posts = sdf.mirror(sdf.box((0.185, 0.178, 0.25), (0.03, 0.028, 0.25), 0.008))
    rails = sdf.union(
        sdf.box((0, 0.178, 0.42), (0.2, 0.026, 0.07), 0.015),
        sdf.box((0, 0.178, 0.22), (0.2, 0.024, 0.045), 0.012),
    )
    return Kind([("seat", seat), ("legs", legs), ("back", sdf.union(posts, rails))])


def table() -> Kind:
    top = sdf.box((0, 0, 0.2), (0.42, 0.29, 0.03), 0.012)
    apron = sdf.box((0, 0, 0.15), (0.36, 0.23, 0.05))
    legs = sdf.mirror(sdf.box((0.345, 0.215, -0.05), (0.036, 0.036, 0.24), 0.008), "xy")
    return Kind([("top", sdf.union(top, apron)), ("legs", legs)])


def lamp() -> Kind:
    shade = [(0, 0.44), (0.17, 0.44), (0.31, 0.02), (0.265, 0.02), (0.14, 0.39), (0, 0.39)]
    inside = sdf.lathe([(0, 0.4), (0.149, 0.4), (0.276, 0.01), (0, 0.01)])
    base = sdf.blend(
        0.06,
        sdf.cylinder((0, 0, -0.46), 0.19, 0.03, "z", 0.012),
        sdf.ellipsoid((0, 0, -0.42), (0.09, 0.09, 0.06)),
    )
    pole = sdf.cylinder((0, 0, -0.02), 0.032, 0.43)
    return Kind(
        [("shade", sdf.lathe(shade, 0.006)), ("base", base), ("pole", pole)],
        [("inside", sdf.cut(inside, sdf.cylinder((0, 0, 0), 0.036, 1)))],
        {"base": "steel", "pole": "steel", "inside": "glow"},
    )


def bed() -> Kind:
    frame = sdf.union(
        sdf.box((0, 0, -0.14), (0.29, 0.45, 0.045), 0.01),
        sdf.box((0, 0.46, 0.0), (0.31, 0.03, 0.25), 0.02),
        sdf.box((0, -0.46, -0.09), (0.31, 0.03, 0.14), 0.02),
        sdf.mirror(sdf.box((0.275, 0.455, -0.2), (0.035, 0.035, 0.1), 0.01), "xy"),
    )
    mattress = sdf.box((0, 0, -0.05), (0.275, 0.44, 0.07), 0.03)
    blanket = sdf.box((0, -0.12, -0.055), (0.295, 0.32, 0.09), 0.035)
    pillow = sdf.mirror(sdf.box((0.135, 0.325, 0.055), (0.115, 0.08, 0.05), 0.045))
    return Kind(
        [("blanket", blanket), ("frame", frame), ("mattress", mattress), ("pillow", pillow)],
        own={"frame": "brown", "mattress": "white", "pillow": "white"},
    )


def car() -> Kind:
    hull = sdf.box((0, 0, -0.05), (0.2, 0.46, 0.1), 0.05)
    outline = [(-0.2, 0.0), (-0.09, 0.17), (0.2, 0.17), (0.34, 0.0)]
    cabin = sdf.extrude(outline, 0.145, "x", rounding=0.03)
    wheel = sdf.mirror(sdf.cylinder((0.185, 0.28, -0.13), 0.115, 0.045, "x", 0.015), "xy")
    hub = sdf.mirror(sdf.cylinder((0.23, 0.28, -0.13), 0.055, 0.03, "x"), "xy")
    sides = sdf.union(
        sdf.extrude([(-0.165, 0.06), (-0.09, 0.165), (0.04, 0.165), (0.04, 0.06)], 0.3, "x"),
        sdf.extrude([(0.085, 0.06), (0.085, 0.165), (0.19, 0.165), (0.27, 0.06)], 0.3, "x"),
    )
    sides = sdf.cut(sides, sdf.box((0, 0, 0), (0.15, 1, 1)))
    screens = sdf.box((0, 0, 0.11), (0.135, 0.6, 0.05))
    roof = sdf.half_space("z", 0.175, below=False)
    lights = sdf.mirror(sdf.ball((0.125, -0.47, -0.03), 0.05))
    rear = sdf.mirror(sdf.box((0.135, 0.47, -0.02), (0.045, 0.04, 0.03)))
    bumper = sdf.mirror(sdf.box((0, 0.455, -0.115), (0.18, 0.03, 0.025), 0.015), "y")
    return Kind(
        [("car", sdf.union(hull, cabin)), ("wheels", wheel), ("bumpers", bumper)],
        [
            ("roof", roof),
            ("windows", sdf.union(sides, screens)),
            ("lights", lights),
            ("taillights", rear),
            ("hubs", hub),
        ],
        {
            "wheels": "black",
            "hubs": "grey",
            "windows": "glass",
            "lights": "glow",
            "bumpers": "steel",
            "taillights": "red",
        },
    )


def boat() -> Kind:
    hull = sdf.mirror(sdf.ellipsoid((-0.1, 0.1, 0.02), (0.29, 0.54, 0.28)))
    hull = sdf.common(hull, sdf.half_space("z", 0.0), sdf.half_space("y", 0.4), sdf.half_space("x", 0.6))
    deck = sdf.half_space("z", -0.012, below=False)
    mast = sdf.cylinder((0, -0.03, 0.31), 0.026, 0.35)
    main = sdf.extrude([(-0.02, 0.1), (0.36, 0.1), (0.0, 0.62)], 0.012, "x", rounding=0.012)
    boom = sdf.tube([(0, -0.03, 0.085), (0, 0.38, 0.085)], [0.024, 0.024])
    jib = sdf.extrude([(-0.07, 0.09), (-0.4, 0.05), (-0.05, 0.54)], 0.012, "x", rounding=0.012)
    sail = sdf.turn(main, "z", 25, (0, -0.03, 0))
    boom = sdf.turn(boom, "z", 25, (0, -0.03, 0))
    return Kind(
        [("hull", hull), ("mast", sdf.union(mast, boom)), ("sail", sdf.union(sail, jib))],
        [("deck", sdf.common(deck, sdf.half_space("z", 0.02), sdf.box((0, 0, 0), (0.17, 0.37, 0.1))))],
        {"sail": "white", "mast": "brown", "deck": "dough"},
    )


def rocket() -> Kind:
    profile = [
        (0, -0.34), (0.11, -0.34), (0.15, -0.2), (0.165, -0.02), (0.155, 0.14), (0.12, 0.29), (0.06, 0.42),
        (0.02, 0.475), (0, 0.475),
    ]  # fmt: skip
    hull = sdf.lathe(profile, 0.015)
    fin = sdf.extrude(
        [(0.08, -0.1), (0.2, -0.19), (0.31, -0.36), (0.31, -0.47), (0.2, -0.37), (0.08, -0.32)],
        0.018,
        "y",
        rounding=0.008,
    )
    nozzle = sdf.lathe([(0, -0.43), (0.125, -0.43), (0.085, -0.33), (0, -0.33)])
    ring = sdf.torus((0, -0.158, 0.08), 0.07, 0.024, "y")
    pane = sdf.common(sdf.cylinder((0, 0, 0.08), 0.07, 1, "y"), sdf.half_space("y", 0))
    return Kind(
        [("rocket", hull), ("fins", sdf.ring_of(fin, 4)), ("nozzle", nozzle), ("ring", ring)],
        [
            ("nose", sdf.half_space("z", 0.24, below=False)),
            ("window", sdf.cut(pane, sdf.torus((0, -0.158, 0.08), 0.07, 0.027, "y"))),
        ],
        {"nose": "red", "fins": "red", "window": "glass", "nozzle": "steel", "ring": "grey"},
    )


def house() -> Kind:
    outline = [(-0.27, -0.36), (0.27, -0.36), (0.27, 0.03), (0, 0.3), (-0.27, 0.03)]
    walls = sdf.extrude(outline, 0.31, "y")
    slabs = [(-0.37, -0.02), (0, 0.35), (0.37, -0.02), (0.335, -0.055), (0, 0.28), (-0.335, -0.055)]
    roof = sdf.extrude(slabs, 0.36, "y", rounding=0.008)
    chimney = sdf.box((0.19, 0.13, 0.26), (0.055, 0.055, 0.15))
    door = sdf.box((0, -0.31, -0.235), (0.075, 0.022, 0.125))
    knob = sdf.ball((0.045, -0.335, -0.24), 0.018)

    def window(grow: float) -> Field:
        wide = 0.055 + grow
        front = sdf.mirror(sdf.box((0.175, -0.31, -0.17), (wide, 0.05, wide)))
        back = sdf.mirror(sdf.box((0.13, 0.31, -0.15), (wide, 0.05, wide)))
        sides = sdf.mirror(sdf.box((0.27, 0.15, -0.17), (0.05, wide, wide)), "xy")
        return sdf.union(front, back, sides, sdf.cylinder((0, -0.31, 0.06), wide, 0.05, "y"))

    return Kind(
        [("walls", walls), ("roof", roof), ("chimney", chimney), ("door", door)],
        [("frames", window(0.022)), ("windows", window(0.0)), ("knob", knob)],
        {
            "roof": "red",
            "door": "brown",
            "windows": "glass",
            "frames": "white",
            "chimney": "clay",
            "knob": "glow",
        },
    )


def tower() -> Kind:
    profile = [
        (0, -0.49), (0.23, -0.49), (0.225, -0.45), (0.185, -0.38), (0.165, 0.2), (0.225, 0.28), (0.225, 0.39),
        (0.165, 0.39), (0.165, 0.35), (0, 0.35),
    ]  # fmt: skip
    merlons = sdf.ring_of(sdf.box((0.195, 0, 0.42), (0.033, 0.045, 0.07), 0.004), 8)
    door = sdf.union(
        sdf.box((0, -0.2, -0.38), (0.07, 0.14, 0.12)), sdf.cylinder((0, -0.2, -0.26), 0.07, 0.14, "y")
    )
    frame = sdf.union(
        sdf.box((0, -0.2, -0.38), (0.1, 0.12, 0.12)), sdf.cylinder((0, -0.2, -0.26), 0.1, 0.12, "y")
    )

    def slit(angle: float, z: float) -> Field:
        opening = sdf.union(
            sdf.box((0, -0.2, z), (0.03, 0.1, 0.06)), sdf.cylinder((0, -0.2, z + 0.06), 0.03, 0.1, "y")
        )
        return sdf.turn(opening, "z", angle)

    windows = sdf.union(slit(0, 0.04), slit(90, -0.06), slit(180, 0.04), slit(270, -0.06))
    return Kind(
        [("tower", sdf.lathe(profile)), ("battlements", merlons)],
        [("frame", frame), ("door", door), ("windows", windows)],
        {"door": "brown", "windows": "black", "frame": "steel"},
    )
