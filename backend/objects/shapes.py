"""Objects: `build` turns a description into a Shape of coloured parts.

The kinds themselves are in kinds_plain.py, kinds_built.py and kinds_living.py. Every object faces -Y,
stands upright along z, and touches the ball of radius 0.5 round the origin from inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from backend.errors import InputError
from backend.objects import kinds_built, kinds_living, kinds_plain
from backend.objects.kinds import COLOURS, NATURAL, Kind
from backend.objects.sdf import union
from dreamflow_blender.contract.language.reading import Description
from dreamflow_blender.contract.language.vocabulary import MADE

CHUNK = 32768  # points at a time, so that a field's intermediate values stay in the processor's cache
RADIUS = 0.49  # of the ball that `build` fits every object into, metres

KINDS: dict[str, Kind] = {
    make.__name__: make()
    for make in (
        kinds_plain.ball, kinds_plain.cube, kinds_plain.cone, kinds_plain.donut, kinds_plain.mug, kinds_plain.teapot,
        kinds_plain.bottle, kinds_plain.bowl, kinds_built.chair, kinds_built.table, kinds_built.lamp, kinds_built.bed,
        kinds_built.car, kinds_built.boat, kinds_built.rocket, kinds_built.house, kinds_built.tower, kinds_living.tree,
        kinds_living.mushroom, kinds_living.cactus, kinds_living.duck, kinds_living.fish, kinds_living.snowman,
        kinds_living.robot,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A solid of coloured parts.

    kind     a key of KINDS
    names    P names of parts, the body first
    colours  [P,3] sRGB in [0,1], float32
    bound    radius of the ball that holds every object, metres
    centre, scale   the kind's own coordinates in the world: own = world / scale + centre
    """

    kind: str
    names: tuple[str, ...]
    colours: Tensor
    centre: tuple[float, float, float]
    scale: float
    bound: float = 0.5

    def sdf(self, points: Tensor) -> Tensor:
        """[N,3] to [N]: a lower bound of the distance to the surface, POSITIVE OUTSIDE, metres."""
        return _chunked(self._distance, points)

    def part(self, points: Tensor) -> Tensor:
        """[N,3] to [N] int64: which part the surface belongs to at the points on it."""
        return _chunked(self._part, points)

    def _own(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, y, z = (points[:, i] * (1 / self.scale) + self.centre[i] for i in range(3))
        return x, y, z

    def _distance(self, points: Tensor) -> Tensor:
        return union(*(field for _, field in KINDS[self.kind].solids))(self._own(points)) * self.scale

    def _part(self, points: Tensor) -> Tensor:
        p = self._own(points)
        kind = KINDS[self.kind]
        index = torch.tensor([self.names.index(name) for name, _ in kind.solids], device=points.device)
        part = index[torch.stack([field(p) for _, field in kind.solids]).argmin(0)]
        for name, paint in kind.paint:
            part = torch.where(paint(p) < 0, self.names.index(name), part)
        return part


def _chunked(function: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    return torch.cat([function(chunk) for chunk in points.split(CHUNK)])


def build(description: Description) -> Shape:
    """The object that a description names.

    A part whose own colour is the body's would vanish (an orange beak on an orange duck): it turns
    white, or grey on white. Raises InputError for an unknown kind, colour or part.
    """
    if description.kind not in KINDS:
        raise InputError(f"There is no kind {description.kind!r}.", f"Known: {', '.join(KINDS)}.")
    thing = MADE[description.kind]
    body = description.colour or thing.natural
    named = {thing.body: body, **description.parts}
    for part, colour in named.items():
        if part not in (thing.body, *thing.parts):
            raise InputError(
                f"A {description.kind} has no {part!r}.", f"Its parts: {', '.join(thing.parts) or 'none'}."
            )
        if colour not in COLOURS:
            raise InputError(f"There is no colour {colour!r}.", f"Known: {', '.join(COLOURS)}.")
    for part, own in KINDS[description.kind].own.items():
        contrast = "grey" if body == "white" else "white"
        named.setdefault(part, contrast if own == body else own)
    names = (thing.body, *thing.parts)
    colours = torch.tensor([(COLOURS | NATURAL)[named.get(name, body)] for name in names])
    centre, scale = _fit(description.kind)
    return Shape(description.kind, names, colours, centre, scale)


def ball_centre(points: Tensor, steps: int) -> Tensor:
    """[3]: the centre of the smallest ball round points [N,3], by steps to the farthest (Badoiu and Clarkson)."""
    centre = (points.amin(0) + points.amax(0)) / 2
    for i in range(1, steps):
        farthest = points[(points - centre).norm(dim=1).argmax()]
        centre = centre + (farthest - centre) / (i + 1)
    return centre


@cache
def _fit(kind: str) -> tuple[tuple[float, float, float], float]:
    """The centre of the smallest ball round the kind, to a centimetre, and what scales it to RADIUS."""
    raw = Shape(kind, (), torch.zeros(0, 3), (0.0, 0.0, 0.0), 1.0)
    cells = 72
    axis = torch.linspace(-0.75, 0.75, cells)
    points = torch.cartesian_prod(axis, axis, axis)
    points = points[raw.sdf(points) < 0].double()
    x, y, z = (round(float(c), 2) + 0.0 for c in ball_centre(points, 400))  # + 0.0: no -0
    radius = float((points - torch.tensor([x, y, z])).norm(dim=1).max()) + 1.5 / cells / 2
    return (x, y, z), RADIUS / radius
