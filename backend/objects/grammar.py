"""The language of the procedural objects, as `dreamflow_blender/contract/language` reads it for both programs."""

from __future__ import annotations

from collections.abc import Collection

from backend.errors import InputError
from backend.objects.shapes import KINDS
from dreamflow_blender.contract.language import reading
from dreamflow_blender.contract.language.reading import Description, describe
from dreamflow_blender.contract.language.unknown import NotUnderstood

LEAD_INS = ("a photo of", "a 3d model of", "a normal map of")  # that a prior is taught
ANY_PROMPT = (
    "This prior knows only its own words; with --prior and a Stable Diffusion folder, any prompt will do."
)


def parse_object(prompt: str, kinds: Collection[str] = KINDS, negative: str = "") -> Description:
    """The prompt's object, its colour named; InputError where it says more than that, and for a negative prompt."""
    try:
        return reading.read_object(prompt, negative, tuple(kinds))
    except NotUnderstood as error:
        raise InputError(error.message, f"{error.todo} {ANY_PROMPT}") from error


def canonical_prompt(prompt: str, negative: str, kinds: Collection[str]) -> str:
    """The prompt as a prior with a vocabulary was taught it: "Duck." becomes "a yellow duck". Raises InputError."""
    return describe(parse_object(prompt, kinds, negative))


def note(prompt: str, kinds: Collection[str]) -> str:
    """What the user should know of how this prompt was read; "" where it was read as it stands."""
    return reading.note(prompt, parse_object(prompt, kinds))
