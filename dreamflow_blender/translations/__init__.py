"""The interface in other languages: a JSON each, from the English string to its own; Blender chooses one of them."""

from __future__ import annotations

import json
from pathlib import Path

import bpy

LOCALES = {  # our file -> what Blenders call the language
    "de": ("de_DE", "de"),
    "es": ("es", "es_ES"),
    "fr": ("fr_FR", "fr"),
    "ja": ("ja_JP", "ja"),
    "zh": ("zh_HANS", "zh_CN"),
}
OWN = "DreamFlow"  # the context of words that Blender has in another sense, such as a command line's prompt
CONTEXTS = ("*", "Operator", OWN)  # "*" of a label, "Operator" of an operator's name and button


def read(language: str) -> dict[str, str]:
    """English -> this language."""
    text = (Path(__file__).parent / f"{language}.json").read_text(encoding="utf-8")
    return {str(english): str(own) for english, own in json.loads(text).items()}


def register() -> None:
    tables: dict[str, dict[tuple[str, str], str]] = {}
    for language, locales in LOCALES.items():
        table = {(context, english): own for english, own in read(language).items() for context in CONTEXTS}
        tables |= dict.fromkeys(locales, table)
    bpy.app.translations.register(__package__, tables)


def unregister() -> None:
    bpy.app.translations.unregister(__package__)
