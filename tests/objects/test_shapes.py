"""Every kind of object: its size, its side, its parts, and that its field is a distance's lower bound."""

from functools import cache

import pytest
import torch

from backend.errors import InputError
from backend.evidence.known_objects import true_mesh
from backend.objects import sdf
from backend.objects.kinds import COLOURS, NATURAL
from backend.objects.shapes import KINDS, RADIUS, build
from backend.objects.sphere_trace import gbuffer, render
from backend.scene.camera import orbit
from backend.scene.mesh import components, is_closed
from dreamflow_blender.contract.language.reading import Description
from dreamflow_blender.contract.language.vocabulary import MADE
from tests.tools.made_meshes import signed_volume

NAMES = [
    *(
        "ball",
        "cube",
        "cone",
        "donut",
        "mug",
        "teapot",
        "bottle",
        "bowl",
        "chair",
        "table",
        "lamp",
        "bed",
        "car",
    ),
    *("boat", "rocket", "house", "tower", "tree", "mushroom", "cactus", "duck", "fish", "snowman", "robot"),
]
SIDE = 1.1  # metres


@cache
def points() -> torch.Tensor:
    """Points all over a box of one cubic metre and a third; random, for walls may lie in a grid's planes."""
    return torch.rand(200_000, 3, generator=torch.Generator().manual_seed(0)) * SIDE - SIDE / 2


def seen_parts(kind: str) -> set[str]:
    azimuth = torch.tensor([0.0, 90, 180, -45, 0, 30])
    elevation = torch.tensor([15.0, 10, 10, 30, 80, -30])
    camera = orbit(azimuth, elevation, torch.full((6,), 1.5), torch.full((6,), 45.0), 64, 64)
    shape = build(Description(kind))
    return {shape.names[int(i)] for i in gbuffer(shape, camera).part.unique()}


def test_the_kinds_and_colours_are_those_promised():
    assert list(KINDS) == NAMES
    assert list(COLOURS) == [
        *(
            "red",
            "orange",
            "yellow",
            "green",
            "cyan",
            "blue",
            "purple",
            "pink",
            "brown",
            "black",
            "grey",
            "white",
        )
    ]
    values = torch.tensor(list(COLOURS.values()))
    assert values.min() > 0.05 and values.max() < 0.98
    apart = torch.cdist(values, values) + 9 * torch.eye(len(values))
    assert apart.min() > 0.2


@pytest.mark.parametrize("kind", NAMES)
def test_a_kind_fills_the_ball_and_no_more(kind: str):
    distance = build(Description(kind)).sdf(points())
    inside = points()[distance < 0]
    assert inside.norm(dim=1).max() <= 0.5
    assert inside.norm(dim=1).max() > 0.45
    assert (inside.amax(0) - inside.amin(0)).max() > 0.55
    assert (distance < 0).float().mean() * SIDE**3 > 0.01  # cubic metres


@pytest.mark.parametrize("kind", NAMES)
def test_the_field_is_nowhere_steeper_than_a_distance(kind: str):
    shape = build(Description(kind))
    generator = torch.Generator().manual_seed(1)
    other = points()[:20000] + 0.01 * torch.nn.functional.normalize(
        torch.randn(20000, 3, generator=generator), dim=1
    )
    steepness = (shape.sdf(points()[:20000]) - shape.sdf(other)).abs() / 0.01
    assert steepness.max() <= 1.002


@pytest.mark.parametrize("kind", NAMES)
def test_one_closed_piece_without_cavities(kind: str):
    shape = build(Description(kind))
    mesh = true_mesh(shape, 40)
    assert is_closed(mesh)
    assert components(mesh)[0] == 1
    inside = (shape.sdf(points()) < 0).float().mean() * SIDE**3
    assert signed_volume(mesh) == pytest.approx(float(inside), rel=0.07)


@pytest.mark.parametrize("kind", NAMES)
def test_every_part_can_be_seen(kind: str):
    assert seen_parts(kind) == {MADE[kind].body, *MADE[kind].parts}


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("duck", "beak"),
        ("fish", "eyes"),
        ("snowman", "nose"),
        ("robot", "eyes"),
        ("car", "lights"),
        ("house", "door"),
        ("rocket", "window"),
        ("tower", "door"),
    ],
)
def test_it_faces_minus_y(kind: str, part: str):
    shape = build(Description(kind))
    camera = orbit(
        torch.tensor([0.0, 180]), torch.zeros(2), torch.full((2,), 1.5), torch.full((2,), 45.0), 64, 64
    )
    buffer = gbuffer(shape, camera)
    found = buffer.pixel[buffer.part == shape.names.index(part)] // (64 * 64)
    assert (found == 0).any() and not (found == 1).any()


@pytest.mark.parametrize(
    ("kind", "up"), [("chair", "back"), ("tree", "leaves"), ("mushroom", "cap"), ("lamp", "shade")]
)
def test_it_stands_upright(kind: str, up: str):
    shape = build(Description(kind))
    surface = points()[shape.sdf(points()).abs() < 0.02]
    is_part = shape.part(surface) == shape.names.index(up)
    assert surface[is_part][:, 2].mean() > surface[~is_part][:, 2].mean() + 0.1


def test_colours_of_body_parts_and_what_would_vanish():
    def colour(description: Description, part: str) -> tuple[float, ...]:
        shape = build(description)
        return tuple(round(float(c), 4) for c in shape.colours[shape.names.index(part)])

    assert colour(Description("duck"), "duck") == COLOURS["yellow"]
    assert colour(Description("duck", "red"), "duck") == COLOURS["red"]
    assert colour(Description("duck", "red"), "wings") == COLOURS["red"]
    assert colour(Description("duck", "red"), "beak") == COLOURS["orange"]
    assert colour(Description("duck", "orange"), "beak") == COLOURS["white"]
    assert colour(Description("mug", "white"), "inside") == COLOURS["grey"]
    assert colour(Description("mug", "white", {"inside": "red"}), "inside") == COLOURS["red"]
    assert colour(Description("bottle"), "label") == NATURAL["cream"]


def test_the_named_colour_reaches_the_picture():
    shape = build(Description("chair", "blue", {"legs": "yellow"}))
    camera = orbit(
        torch.tensor([30.0]), torch.tensor([20.0]), torch.tensor([1.5]), torch.tensor([45.0]), 64, 64
    )
    views = render(shape, camera)
    pixels = views.colour[views.alpha[..., 0] == 1]
    hue = torch.nn.functional.normalize(pixels, dim=1)
    for name in ("blue", "yellow"):
        like = hue @ torch.nn.functional.normalize(torch.tensor(COLOURS[name]), dim=0) > 0.999
        assert like.float().mean() > 0.1


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (Description("corgi"), "no kind 'corgi'"),
        (Description("duck", "mauve"), "no colour 'mauve'"),
        (Description("duck", None, {"wheels": "red"}), "no 'wheels'"),
        (Description("duck", None, {"beak": "glass"}), "no colour 'glass'"),
    ],
)
def test_what_does_not_exist_is_said(description: Description, message: str):
    with pytest.raises(InputError, match=message):
        build(description)


def at(field: sdf.Field, *points: tuple[float, float, float]) -> list[float]:
    x, y, z = torch.tensor(points, dtype=torch.float32).unbind(1)
    return [round(v, 5) for v in field((x, y, z)).tolist()]


def test_primitives_against_hand_computed_distances():
    assert at(sdf.ball((1, 0, 0), 0.5), (0, 0, 0), (1, 0, 0)) == [0.5, -0.5]
    assert at(sdf.box((0, 0, 0), (1, 2, 3), 0.1), (4, 6, 3), (0, 0, 0))[1] == -1
    assert at(sdf.box((0, 0, 0), (1, 2, 3)), (4, 6, 3), (1.5, 0, 0)) == [5, 0.5]
    assert at(sdf.cylinder((0, 0, 0), 1, 2, "x"), (5, 5, 0), (0, 0, 0), (0, 0, 3)) == [5, -1, 2]
    assert at(sdf.torus((0, 0, 0), 3, 1, "y"), (0, 0, 0), (3, 0, 0), (3, 2, 0)) == [2, -1, 1]
    assert at(sdf.tube([(0, 0, 0), (2, 0, 0)], [0.5, 0.5]), (1, 2, 0), (5, 4, 0), (1, 0, 0)) == [
        1.5,
        4.5,
        -0.5,
    ]
    square = [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]
    assert at(sdf.extrude(square, 2, "z"), (4, 5, 0), (0, 0, 0), (0, 0, 3)) == [5, -1, 1]
    cup = [(0.0, 0.0), (1.0, 0.0), (1.0, 2.0), (0.0, 2.0)]
    assert at(sdf.lathe(cup), (0, 3, 1), (0, 0, 1), (0, 0, 4), (-0.5, 0, 1)) == [2, -1, 2, -0.5]


def test_combinators():
    left, right = sdf.ball((-1, 0, 0), 0.5), sdf.ball((1, 0, 0), 0.5)
    assert at(sdf.union(left, right), (1, 0, 0), (-1, 0, 0)) == [-0.5, -0.5]
    assert at(sdf.mirror(right), (-1, 0, 0)) == [-0.5]
    assert at(sdf.cut(sdf.ball((0, 0, 0), 1), right), (1, 0, 0), (0, 0, 0)) == [0.5, -0.5]
    assert at(sdf.common(sdf.ball((0, 0, 0), 1), sdf.half_space("z", 0)), (0, 0, 0.5), (0, 0, -0.5)) == [
        0.5,
        -0.5,
    ]
    assert at(sdf.turn(right, "z", 90), (0, 1, 0)) == [-0.5]
    assert at(sdf.turn(right, "y", 90), (0, 0, -1)) == [-0.5]
    assert at(sdf.ring_of(right, 4), (0, -1, 0), (-1, 0, 0)) == [-0.5, -0.5]
    assert at(sdf.blend(0.5, left, right), (0, 0, 0))[0] == pytest.approx(0.5 - 0.125)
    assert RADIUS < 0.5
