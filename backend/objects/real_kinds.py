"""Kinds of things that the embedded prior knows from models of real ones only; no formula makes them.

They stand in the language (grammar.py) beside the procedural kinds of shapes.py. A real thing has one part that a
prompt can colour, its body; a prompt may name the body's material instead.
"""

from __future__ import annotations

from backend.objects.kinds import Kind
from backend.objects.shapes import KINDS
from dreamflow_blender.contract.language.vocabulary import REAL

REAL_KINDS: dict[str, Kind] = {word: Kind(thing.body, thing.natural, {}, ()) for word, thing in REAL.items()}
THINGS: dict[str, Kind] = KINDS | REAL_KINDS
