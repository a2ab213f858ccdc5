"""A result in the asset library: tags from its prompt, and its own picture as the thumbnail."""

from __future__ import annotations

from pathlib import Path

import bpy

_SMALL_WORDS = {"a", "an", "the", "of", "with", "and", "in", "on", "at", "to"}


def tags(prompt: str) -> list[str]:
    """The prompt's words that say something, each once, in order."""
    words = (word.strip(".,;:!?\"'()").lower() for word in prompt.split())
    return list(dict.fromkeys(word for word in words if word and word not in _SMALL_WORDS))


def mark(obj: bpy.types.Object, prompt: str, picture: Path) -> None:
    """Mark as asset; a second time renews description, tags and thumbnail.

    picture  a whole path; a relative one, as of a job that is forgotten, would be anybody's
    """
    obj.asset_mark()
    data = obj.asset_data
    data.description = prompt
    there = {tag.name for tag in data.tags}
    for tag in ["DreamFlow", *tags(prompt)]:
        if tag not in there:
            data.tags.new(tag)
    if picture.is_absolute() and picture.is_file():
        with bpy.context.temp_override(id=obj):
            bpy.ops.ed.lib_id_load_custom_preview(filepath=str(picture))
