"""A word that a built-in model does not know: what is known, and what comes nearest. Standard library only."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from . import vocabulary as v


class NotUnderstood(ValueError):
    """A prompt that a built-in model cannot make: what is wrong with it, and what to write instead."""

    def __init__(self, message: str, todo: str) -> None:
        super().__init__(f"{message} {todo}")
        self.message, self.todo = message, todo


def unknown(word: str, known: Iterable[str], what: str, kinds: Collection[str]) -> NotUnderstood:
    """With the nearest words: by meaning, and where it is mistyped by letters.

    what   "kind of object", "colour", "word" or "part of a mug"
    kinds  of object that the model knows
    """
    of_things = what == "kind of object"
    single = v.THING_WORDS.get(word, singular(word))
    meant, near = v.OTHER_THINGS.get(single, ("", ())) if of_things else ("", ())
    nearest = [kind for kind in near if kind in kinds]
    if not meant:
        words = list(known)
        nearest = difflib.get_close_matches(word, words, n=1, cutoff=0.75)
        nearest = nearest or difflib.get_close_matches(word, words, n=3, cutoff=0.6)
    if nearest:
        todo = f"Nearest known: {', '.join(nearest)}."
    elif what == "word":
        todo = "Leave it out, or choose another model."
    else:
        todo = listed(kinds if of_things else known)
    return NotUnderstood(f"{word!r} is no known {what}.", todo)


def singular(phrase: str) -> str:
    """Of an English plural, near enough to compare: "boxes" box, "knives" knive, "leaves" leave."""
    if phrase.endswith("ies") and len(phrase) > 4:
        return phrase[:-3] + "y"
    if phrase.endswith(("xes", "shes", "ches", "sses")):
        return phrase[:-2]
    return phrase[:-1] if phrase.endswith("s") and not phrase.endswith("ss") else phrase


def listed(known: Iterable[str]) -> str:
    return f"Known: {', '.join(known)}."
