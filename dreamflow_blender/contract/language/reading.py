"""From a prompt in ordinary English to what a built-in model can make. Standard library only.

    [LEAD-IN] [ARTICLE] [COLOUR] [MATERIAL] THING [with [ARTICLE] COLOUR PART {and [ARTICLE] COLOUR PART}] [, VIEW view]

is the language that the models were taught. Around it ordinary words are left out ("big", "on a table"), and others
are taken for the word that they mean ("cup", "gold", "two mugs"); `Description.left_out` says which were left out.
A word that stands in no table is refused, since a model that cannot read it would make something else.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import lru_cache

from . import vocabulary as v
from .unknown import NotUnderstood, listed, singular, unknown

LEAD_IN = re.compile(
    r"^(?:(?:an?|the) )?(photo(?:graph)?|picture|image|drawing|3d model|model|3d render|render|normal map) of "
)
_TAG = re.compile(r"<[^>]*>|:\s*[\d.]+(?=\s*[)\]])|--\w+")  # other programs' notation
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|,|;")


@dataclass(frozen=True)
class Description:
    """What a prompt says. colour None: the thing's natural one."""

    kind: str  # of THINGS
    colour: str | None = None
    parts: dict[str, str] = field(default_factory=dict)  # part -> colour
    normal_map: bool = False
    view: str | None = None  # of VIEWS
    material: str | None = None  # of MATERIALS, of a real thing
    left_out: tuple[str, ...] = field(default=(), compare=False)  # what was not read, as it was written


def read(prompt: str, kinds: Collection[str] = tuple(v.MADE)) -> Description:
    """What the prompt says, of these kinds. Raises NotUnderstood with what to write instead."""
    said = " ".join(_WORD.findall(_TAG.sub(" ", prompt.lower()))).replace(";", ",")
    if not said.isascii() or v.FOREIGN & set(said.split()):
        raise NotUnderstood(
            "The built-in model reads English only.", f"Write for example: {_example(kinds)}."
        )
    normal_map = False
    if lead := LEAD_IN.match(said):
        said, normal_map = said[lead.end() :], lead[1] == "normal map"
    clauses = said.rsplit(" ,", 1)
    last = clauses[-1].strip().removesuffix(" view") if len(clauses) == 2 else ""
    view = last if last in v.VIEWS else None
    words = (clauses[0] if view else said).split()
    for word in words:
        if word in v.NOT:
            raise NotUnderstood(
                f"The built-in model cannot leave anything out, and {word!r} asks it to.",
                f"Say what the object has: {_example(kinds)}.",
            )
    at = next((i for i, word in enumerate(words) if i and word in v.WITH), len(words))
    materials = any(kind in v.REAL for kind in kinds)
    found = _Reader(tuple(kinds), materials).head(words[:at])
    found.tail(words[at + 1 :])
    assert found.kind is not None
    parts = dict(found.parts)
    colour, material = parts.pop(v.THINGS[found.kind].body, found.colour), found.material
    if material is not None and found.kind not in v.OF_MATERIALS:  # no model was shown a wooden mug
        colour, material = colour or v.MATERIALS[material], None
    return Description(
        found.kind, colour, parts, normal_map, view, material, tuple(dict.fromkeys(found.left_out))
    )


@lru_cache(maxsize=64)
def read_object(prompt: str, negative: str, kinds: tuple[str, ...]) -> Description:
    """The object that a prompt asks a built-in model for, its colour named. Raises NotUnderstood."""
    if negative.strip():
        raise NotUnderstood(
            "The built-in model knows no negative prompts.", "Leave it empty, or use Stable Diffusion."
        )
    described = read(prompt, kinds)
    if described.view is not None or described.normal_map:
        raise NotUnderstood(
            f"{prompt!r} describes one picture, not an object.", "Leave out 'a normal map of' and the view."
        )
    if described.material is not None:
        return described  # a material has its own colour
    return replace(described, colour=described.colour or v.THINGS[described.kind].natural)


def describe(description: Description) -> str:
    """The plainest prompt that says this; read(describe(d)) == d."""
    subject = " ".join(filter(None, (description.colour, description.material, description.kind)))
    text = f"{_article(subject)} {subject}"
    if description.normal_map:
        text = f"a normal map of {text}"
    if description.parts:
        phrases = (
            f"{c} {p}" if p.endswith("s") else f"{_article(c)} {c} {p}" for p, c in description.parts.items()
        )
        text += " with " + " and ".join(phrases)
    return f"{text}, {description.view} view" if description.view else text


def note(prompt: str, described: Description) -> str:
    """How the prompt was read, where something was left out or taken for another word; else ""."""
    plain = describe(described)
    words = set(re.findall(r"\w+", prompt.lower()))
    marked = re.search(r"[()\[\]{}|]", prompt)  # as weights of other programs are
    if not described.left_out and not marked and words <= {*re.findall(r"\w+", plain), *v.ARTICLES}:
        return ""
    left = f" Left out: {', '.join(described.left_out)}." if described.left_out else ""
    return f"Read as “{plain}”.{left}"


def put_word(prompt: str, kinds: tuple[str, ...], kind: str = "", colour: str = "") -> str:
    """The prompt with this thing or this colour in it, as the menus beside it put them."""
    try:
        said = read(prompt, kinds)
    except NotUnderstood:
        said = Description(kind or kinds[0])
    if kind and kind != said.kind:
        said = replace(said, kind=kind, parts={}, material=None)
    return describe(replace(said, colour=colour or said.colour, view=None, normal_map=False))


class _Reader:
    """What has been read so far."""

    def __init__(self, kinds: tuple[str, ...], materials: bool) -> None:
        self.kinds, self.materials = kinds, materials
        self.kind: str | None = None
        self.colour: str | None = None
        self.material: str | None = None
        self.parts: dict[str, str] = {}
        self.left_out: list[str] = []

    def head(self, words: list[str]) -> _Reader:
        """Everything before "with": the thing, its colour and material."""
        index, foreign = 0, ""
        while index < len(words):
            word = words[index]
            if word == "made":  # of copper, from wood
                index += 2 if words[index + 1 : index + 2] in (["of"], ["from"]) else 1
                continue
            if word in v.PREPOSITIONS:
                index = self._phrase(words, index)
                continue
            role, target, length = _look_up(words, index)
            text = " ".join(words[index : index + length])
            index += length
            if role == "thing":
                if self.kind is not None and self.kind != target:
                    if words[index - length - 1] == "of":  # "a bottle of donuts"
                        self.left_out.append(text)
                        continue
                    raise NotUnderstood(
                        f"The prompt names two things, {self.kind!r} and {text!r}.",
                        "Write one; another job makes the other.",
                    )
                self._take_thing(target, text)
            elif role == "colour" and self.colour is None:
                self.colour = target
            elif role == "material" and self.materials and self.material is None:
                self.material = target
            elif role == "material" and not self.materials and self.colour is None:
                self.colour = v.MATERIALS[target]
            elif role in ("colour", "material", "number", "other"):
                self.left_out.append(text)
            elif role == "unknown":
                foreign = foreign or word
        if self.kind is None:
            raise self._no_thing(foreign)
        if foreign:
            raise unknown(foreign, v.COLOUR_WORDS, "word", self.kinds)
        return self

    def tail(self, words: list[str]) -> None:
        """Everything after the first "with": colours of parts."""
        assert self.kind is not None
        thing = v.THINGS[self.kind]
        known = [thing.body, *thing.parts]
        phrases: list[list[str]] = [[]]
        for word in words:
            if word in ("and", ",", *v.WITH):
                phrases.append([])
            else:
                phrases[-1].append(word)
        for phrase in filter(None, phrases):
            places = v.PREPOSITIONS.difference(known)  # "inside" is a part of a mug
            end = next((i for i, word in enumerate(phrase) if word in places), len(phrase))
            if end < len(phrase):
                self.left_out.append(" ".join(phrase[end:]))
            self._part([word for word in phrase[:end] if word not in v.ARTICLES], known)

    def _part(self, words: list[str], known: list[str]) -> None:
        colour, part, odd, index = None, None, [], 0
        while index < len(words):
            same = next((p for p in known if singular(words[index]) == singular(p)), None)
            if same is not None and part is None:
                part, index = same, index + 1
                continue
            role, target, length = _look_up(words, index)
            if role == "colour" and colour is None:
                colour = target
            elif role in ("unknown", "thing"):
                odd.append(words[index])
            index += length
        said = " ".join(words)
        if odd:
            if part is not None:
                raise unknown(odd[0], v.COLOUR_WORDS, "colour", self.kinds)
            raise unknown(odd[0], known, f"part of a {self.kind}", self.kinds)
        if part is None or colour is None:  # "with a handle", "highly detailed"
            if said:
                self.left_out.append(said)
            return
        if part in self.parts or (part == known[0] and self.colour is not None):
            raise NotUnderstood(
                f"The prompt gives the {part} of the {self.kind} two colours.", "Keep one of them."
            )
        self.parts[part] = colour

    def _phrase(self, words: list[str], begin: int) -> int:
        """Leave out "on a table"; where it ends."""
        end = next((i for i in range(begin, len(words)) if words[i] == ","), len(words))
        if self.kind is None:
            raise NotUnderstood(
                f"The prompt names no object before {words[begin]!r}.",
                f"Begin with it: {_example(self.kinds)}.",
            )
        self.left_out.append(" ".join(words[begin:end]))
        return end

    def _take_thing(self, kind: str, text: str) -> None:
        if kind not in self.kinds:
            raise self._no_thing(text)
        self.kind = kind

    def _no_thing(self, word: str) -> NotUnderstood:
        if not word:
            return NotUnderstood(
                "The prompt names no object.",
                f"Say for example {_example(self.kinds)!r}. {listed(self.kinds)}",
            )
        return unknown(word, [*self.kinds, *v.COLOURS], "kind of object", self.kinds)


def _look_up(words: list[str], index: int) -> tuple[str, str, int]:
    """(role, the model's word, how many words it took) of what begins here; the longest that is known."""
    for length in (3, 2, 1):
        if index + length > len(words):
            continue
        phrase = " ".join(words[index : index + length])
        for form in (phrase, singular(phrase)):
            for role, table in _TABLES:
                if form in table:
                    return role, table[form], length
    word = words[index]
    if word in v.ARTICLES or word in (",", "and", "of"):
        return "none", word, 1
    if word in v.NUMBERS or word.isdigit():
        return "number", word, 1
    return ("other" if word in v.LEFT_OUT else "unknown"), word, 1


_TABLES = (("thing", v.THING_WORDS), ("colour", v.COLOUR_WORDS), ("material", v.MATERIAL_WORDS))


def _example(kinds: Collection[str]) -> str:
    return "a red mug" if "mug" in kinds else f"a red {next(iter(kinds))}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
