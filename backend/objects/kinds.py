"""What a kind of object is made of, and the colours it can have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backend.objects.sdf import Field

RGB = tuple[float, float, float]

# The colours that a prompt can name; sRGB in [0,1]. Black and white stay away from 0 and 1, and under
# the soft sky light all stay away from the backgrounds' greys as far as their names allow.
COLOURS: dict[str, RGB] = {
    "red": (0.82, 0.11, 0.10),
    "orange": (0.96, 0.50, 0.07),
    "yellow": (0.97, 0.84, 0.14),
    "green": (0.17, 0.62, 0.20),
    "cyan": (0.16, 0.80, 0.86),
    "blue": (0.13, 0.27, 0.82),
    "purple": (0.52, 0.20, 0.72),
    "pink": (0.97, 0.53, 0.72),
    "brown": (0.45, 0.26, 0.13),
    "black": (0.07, 0.07, 0.08),
    "grey": (0.66, 0.67, 0.70),
    "white": (0.96, 0.96, 0.94),
}

# Colours that parts have by nature and that no prompt can name.
NATURAL: dict[str, RGB] = {
    "glass": (0.45, 0.70, 0.88),
    "cream": (0.95, 0.87, 0.70),
    "dough": (0.85, 0.62, 0.34),
    "clay": (0.76, 0.40, 0.24),
    "steel": (0.40, 0.43, 0.48),
    "glow": (1.00, 0.93, 0.62),
}


@dataclass(frozen=True)
class Kind:
    """The form of one kind of object, in coordinates of its own; `shapes.build` fits it into the ball.

    solids   (part, field): together they are the solid; a point belongs to the nearest. What parts there are
             says the language (contract/language/vocabulary.py)
    paint    (part, field): surface inside the field has that part's colour, the last one wins
    own      the parts that have a colour of their own, a key of COLOURS or NATURAL; all others have the body's
    """

    solids: Sequence[tuple[str, Field]]
    paint: Sequence[tuple[str, Field]] = ()
    own: Mapping[str, str] = field(default_factory=dict)
