"""Kinds of things that the embedded prior knows from models of real ones only; no formula makes them.

They stand in the language (grammar.py) beside the procedural kinds of shapes.py. A real thing has one part that a
prompt can colour, its body; a prompt may name the body's material instead.
"""

from __future__ import annotations

from backend.objects.kinds import Kind
from backend.objects.shapes import KINDS

# word: the colour that a prompt without one means
_NATURAL = {
    "sofa": "grey",
    "armchair": "brown",
    "shelf": "brown",
    "plant": "green",
    "bench": "brown",
    "stool": "brown",
    "vase": "white",
    "wardrobe": "brown",
    "desk": "brown",
    "cabinet": "brown",
    "truck": "white",
}
REAL_KINDS: dict[str, Kind] = {word: Kind(word, natural, {}, ()) for word, natural in _NATURAL.items()}
THINGS: dict[str, Kind] = KINDS | REAL_KINDS
MATERIALS = ("wooden", "metal")
