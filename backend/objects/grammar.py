"""The language of the procedural objects; data, prompts and errors all use this definition.

    [LEAD-IN] [ARTICLE] [COLOUR] [MATERIAL] KIND [with [ARTICLE] COLOUR PART {and [ARTICLE] COLOUR PART}] [, VIEW view]

    ARTICLE  "a", "an", "the"
    LEAD-IN  "a photo of", "a 3d model of", "a normal map of"
    COLOUR   a key of COLOURS; without one, the kind has its natural colour
    MATERIAL "wooden" or "metal", where the prior has seen real things of it
    KIND     a key of THINGS
    PART     one of the kind's parts, singular or plural, or its body's word ("a mushroom with a red cap")
    VIEW     one of diffusion.views.VIEWS or COMPASS

Upper and lower case, extra spaces and a full stop at the end make no difference.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from dataclasses import replace

from backend.diffusion.view_words import COMPASS, VIEWS
from backend.errors import InputError
from backend.objects.kinds import COLOURS
from backend.objects.real_kinds import MATERIALS, THINGS
from backend.objects.shapes import KINDS, Description

LEAD_INS = ("a photo of", "a 3d model of", "a normal map of")
KNOWN_VIEWS = tuple(dict.fromkeys(VIEWS + COMPASS))
ARTICLES = ("a", "an", "the")
ANY_PROMPT = (
    "This prior knows only its own words; with --prior and a Stable Diffusion folder, any prompt will do."
)


def parse(prompt: str, kinds: Collection[str] = KINDS) -> Description:
    """What the prompt says, of these kinds. Raises InputError with the nearest known words for anything else."""
    words = prompt.lower().replace(",", " , ").removesuffix(" ").rstrip(" .").split()
    normal_map = False
    for lead in LEAD_INS:
        if words[: len(lead.split())] == lead.split():
            words, normal_map = words[len(lead.split()) :], "normal" in lead
            break
    view = None
    if "," in words:
        comma = words.index(",")
        view = _view(words[comma + 1 :])
        words = words[:comma]
    words = _without_article(words)
    colour = words.pop(0) if words and words[0] in COLOURS else None
    material = words.pop(0) if words and words[0] in MATERIALS else None
    if not words:
        raise InputError(
            f"The prompt {prompt!r} names no object.", f"Say for example 'a red mug'. {_known(kinds)}"
        )
    name = words.pop(0)
    if name not in kinds:
        raise _unknown(name, [*kinds, *COLOURS] if colour is None else kinds, "kind of object or colour")
    kind = THINGS[name]
    parts: dict[str, str] = {}
    if words:
        if words[0] != "with":
            raise InputError(
                f"{words[0]!r} cannot follow {name!r}.", f"Say '{name} with a COLOUR PART'. {ANY_PROMPT}"
            )
        for phrase in _split(words[1:], "and"):
            part_colour, part = _part(phrase, name)
            if part in parts or (part == kind.body and colour is not None):
                raise InputError(
                    f"The prompt gives the {part} of the {name} two colours.", "Keep one of them."
                )
            parts[part] = part_colour
    return Description(name, parts.pop(kind.body, colour), parts, normal_map, view, material)


def parse_object(prompt: str, kinds: Collection[str] = KINDS) -> Description:
    """The prompt's object; InputError where it says more than that."""
    described = parse(prompt, kinds)
    if described.view is not None or described.normal_map:
        raise InputError(
            f"{prompt!r} describes one picture, not an object.", "Leave out 'a normal map of' and the view."
        )
    return described


def canonical_prompt(prompt: str, negative: str, kinds: Collection[str]) -> str:
    """The prompt as a prior with a vocabulary was taught it, its colour named: "Duck." becomes "a yellow duck".

    InputError for a word it does not know, a picture instead of an object, or a negative prompt.
    """
    if negative.strip():
        raise InputError(
            "The built-in prior knows no negative prompts.",
            "Leave it out, or use Stable Diffusion with --prior.",
        )
    described = parse_object(prompt, kinds)
    if described.material is not None:
        return describe(described)  # a material has its own colour
    return describe(replace(described, colour=described.colour or THINGS[described.kind].natural))


def describe(description: Description) -> str:
    """The plainest prompt that says this; parse(describe(d)) == d."""
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


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _without_article(words: list[str]) -> list[str]:
    return words[1:] if words and words[0] in ARTICLES else list(words)


def _split(words: list[str], separator: str) -> list[list[str]]:
    phrases: list[list[str]] = [[]]
    for word in words:
        if word == separator:
            phrases.append([])
        else:
            phrases[-1].append(word)
    return phrases


def _part(phrase: list[str], kind: str) -> tuple[str, str]:
    """(colour, part) of "[a] COLOUR PART"."""
    words = _without_article(phrase)
    known = [THINGS[kind].body, *THINGS[kind].parts]
    if len(words) != 2:
        said = " ".join(phrase)
        raise InputError(
            f"After 'with' comes a colour and a part, got {said!r}.",
            f"Parts: {', '.join(known)}. {ANY_PROMPT}",
        )
    colour, word = words
    if colour not in COLOURS:
        raise _unknown(colour, COLOURS, "colour")
    for part in known:
        if word.rstrip("s") == part.rstrip("s"):
            return colour, part
    raise _unknown(word, known, f"part of a {kind}")


def _view(words: list[str]) -> str:
    said = " ".join(words[:-1] if words[-1:] == ["view"] else words)
    if said not in KNOWN_VIEWS:
        raise InputError(
            f"After the comma comes a view, got {' '.join(words)!r}.",
            f"Say one of: {', '.join(KNOWN_VIEWS)} view. {ANY_PROMPT}",
        )
    return said


def _unknown(word: str, known: Iterable[str], what: str) -> InputError:
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    nearest = f"Nearest known: {', '.join(near)}. " if near else f"{_known(known)} "
    return InputError(f"{word!r} is no known {what}.", f"{nearest}{ANY_PROMPT}")


def _known(known: Iterable[str]) -> str:
    return f"Known: {', '.join(known)}."
