"""A room of known objects, and the exact prior over the pictures from its middle.

    a room with OBJECT, OBJECT and OBJECT

Up to five objects of objects/grammar.py, a third as large as alone, stand on the floor in a circle and face the
middle. The walls differ in colour, so that no two directions look alike.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from backend.diffusion.prior import Backgrounds, PosesWithin
from backend.diffusion.view_words import COMPASS
from backend.errors import InputError
from backend.objects.exact_prior import ExactPrior, FixedPoses
from backend.objects.grammar import parse_object
from backend.objects.kinds import COLOURS, NATURAL
from backend.objects.shapes import Shape, build
from backend.objects.sphere_trace import Solid
from backend.scene.camera import Camera, look_out
from dreamflow_blender.contract.language.reading import describe

HALF = (0.5, 0.5, 0.25)  # metres, of the room's sides
MOST, SCALE, CIRCLE = 5, 0.3, 0.33  # objects; their size beside their own; metres from the middle
SIDES = (
    "cream",
    "cyan",
    "dough",
    "purple",
    "brown",
    "white",
)  # from -X, +X, -Y, +Y, the floor and the ceiling
VIEWS, TRACED = 240, 64  # cameras of the prior's pictures; pixels a side at which they are traced at least
WITHIN = PosesWithin(elevation=(-35.0, 15.0), fov=(75.0, 75.0), away=0.05)
PROMPT = re.compile(r"^a room with (.+)$")


@dataclass(frozen=True)
class Placed:
    """An object in the room: own = turn^T (world - place) / SCALE. turn [3,3]; place [3], metres."""

    shape: Shape
    turn: Tensor
    place: Tensor

    def own(self, points: Tensor) -> Tensor:
        """[N,3] of points [N,3]."""
        return (points - self.place.to(points)) @ self.turn.to(points) / SCALE


@dataclass(frozen=True)
class Room:
    """Fulfils sphere_trace.Solid: what is round the room is solid."""

    kind: str
    objects: tuple[Placed, ...]
    bound: float = 1.1 * math.hypot(*HALF)

    @property
    def colours(self) -> Tensor:
        """[P,3]: the sides', then each object's."""
        sides = torch.tensor([(COLOURS | NATURAL)[name] for name in SIDES])
        return torch.cat([sides, *(one.shape.colours for one in self.objects)])

    def sdf(self, points: Tensor) -> Tensor:
        """As Shape.sdf."""
        return self._distances(points).amin(1)

    def part(self, points: Tensor) -> Tensor:
        """As Shape.part: a row of `colours`."""
        nearest = self._distances(points).argmin(1)
        part, first = self._to_sides(points).argmin(1), len(SIDES)
        for number, one in enumerate(self.objects, 1):
            mine = nearest == number
            part[mine] = first + one.shape.part(one.own(points[mine]))
            first += len(one.shape.names)
        return part

    def _to_sides(self, points: Tensor) -> Tensor:
        """[N,6]: distances to SIDES from within."""
        half = points.new_tensor(HALF)
        return torch.stack((half + points, half - points), 2).flatten(1)

    def _distances(self, points: Tensor) -> Tensor:
        """[N,1+objects]: to the sides, and to each object."""
        found = [one.shape.sdf(one.own(points)) * SCALE for one in self.objects]
        return torch.stack([self._to_sides(points).amin(1), *found], 1)


def build_room(prompt: str) -> Room:
    """The room that the prompt names. Raises InputError."""
    found = PROMPT.match(prompt.strip())
    if found is None:
        raise InputError(
            f"{prompt!r} names no room.", "Write for example: a room with a red mug and a blue chair."
        )
    described = [parse_object(part) for part in re.split(r",\s*|\s+and\s+", found[1])]
    if len(described) > MOST:
        raise InputError(f"A room has {MOST} places, got {len(described)} objects.", "Name fewer.")
    objects = []
    for number, description in enumerate(described):
        shape, angle = build(description), 2 * math.pi * number / len(described)
        place = torch.tensor(
            [CIRCLE * math.sin(angle), -CIRCLE * math.cos(angle), -HALF[2] - SCALE * _bottom(shape.kind)]
        )
        sin, cos = math.sin(angle + math.pi), math.cos(angle + math.pi)
        turn = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        objects.append(Placed(shape, turn, place))
    return Room("a room with " + ", ".join(map(describe, described)), tuple(objects))


@cache
def _bottom(kind: str) -> float:
    """The lowest point of a kind, to a centimetre, metres."""
    axis = torch.linspace(-0.5, 0.5, 51)
    points = torch.cartesian_prod(axis, axis, axis)
    shape = build(parse_object(f"a {kind}"))
    return float(points[shape.sdf(points) < 0][:, 2].min())


class RoomPoses(FixedPoses):
    """Cameras about the middle of WITHIN's ranges, spread evenly."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        i = torch.arange(count, dtype=torch.float64) + 0.5
        low, high = WITHIN.elevation
        self._looks = (low + (high - low) * (i * 0.7548776662 % 1)).float()
        steps = torch.tensor([0.8191725134, 0.6710436067, 0.5497004779], dtype=torch.float64)
        self._places = (WITHIN.away * (2 * (i[:, None] * steps % 1) - 1)).float()

    def cameras(self, index: Tensor, height: int, width: int) -> Camera:
        """See FixedPoses."""
        azimuth, looks, places = (
            t.to(index.device)[index] for t in (self.azimuth, self._looks, self._places)
        )
        return look_out(azimuth, looks, places, torch.full_like(looks, WITHIN.fov[0]), height, width)


class RoomPrior(ExactPrior):
    """The exact prior of rooms. A picture is told from others by which of eight ways its camera looks."""

    name = "exact-room"

    def __init__(self, device: torch.device | str = "cpu", views: int = VIEWS) -> None:
        super().__init__(device, views, words=COMPASS[:8])
        self.poses = RoomPoses(views)
        self.spec = replace(
            self.spec, poses=self.poses, backgrounds=Backgrounds(((0.0, 0.0, 0.0),), learned_share=0.0)
        )

    def check(self, prompt: str, negative: str, kind: object, size: int) -> None:
        """See ExactPrior."""
        if negative.strip():
            raise InputError(
                "The exact prior knows no negative prompts.", "Leave it out, or use another prior."
            )
        build_room(prompt)

    def solid(self, prompt: str) -> tuple[str, Solid]:
        """See ExactPrior."""
        room = build_room(prompt)
        return room.kind, room

    def traced_at(self) -> int:
        """See ExactPrior: every pixel of a room shows something."""
        return TRACED

    def words_of(self, camera: Camera) -> list[str]:
        """See ExactPrior."""
        ahead = -camera.c2w[:, :3, 2]
        azimuth = torch.rad2deg(torch.atan2(ahead[:, 0], -ahead[:, 1]))
        return [self.words[index] for index in ((azimuth / 45).round().long() % 8).tolist()]
