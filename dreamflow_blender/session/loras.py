"""What stands in the list beside the model: whether its files are there, what they are, and a LoRA's own words."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import bpy

from ..contract.files import is_file
from ..contract.language import trigger

_LOOK_AGAIN = 3  # seconds


def path_of(item: Any) -> Path:
    """The file or folder of one of the list."""
    return Path(bpy.path.abspath(item.file))


def is_missing(item: Any) -> bool:
    """Whether it is not there; cheap enough for every redraw."""
    return not _seen(item)[0]


def shows_picture(item: Any) -> bool:
    """Whether it is an IP-Adapter, likewise."""
    return _seen(item)[1] == "picture"


def words_of(item: Any) -> tuple[str, ...]:
    """The words that a LoRA's file names, likewise; () where it names none, or cannot be read."""
    return _seen(item)[2]


def cannot_use_reason(items: Any) -> str:
    """Why the list cannot be used; "" where it can."""
    if any(is_missing(item) for item in items):
        return "A file in the list is not there: remove it, or choose it again"
    images = sum(_seen(item)[1] == "image" for item in items)
    shown = [Path(bpy.path.abspath(item.picture)) for item in items if shows_picture(item)]
    if len(shown) > 1:
        return "Only one IP-Adapter can be used at a time: remove the other"
    if images + len(shown) > 1:
        return "Only one picture can be shown at a time: remove the other"
    return "" if all(is_file(path) for path in shown) else "Choose the picture that the IP-Adapter shows"


def _seen(item: Any) -> tuple[bool, str, tuple[str, ...]]:
    return _look(path_of(item), int(time.monotonic() / _LOOK_AGAIN))


@lru_cache(maxsize=64)
def _look(path: Path, _when: int) -> tuple[bool, str, tuple[str, ...]]:
    kind = trigger.kind_of(path)
    folder = kind == "control" and path.suffix.lower() != ".safetensors"
    if not is_file(path / "config.json" if folder else path):
        return False, kind, ()
    if kind != "lora":
        return True, kind, ()
    try:
        return True, kind, trigger.trigger_words(trigger.read_metadata(path))
    except (OSError, ValueError):
        return True, kind, ()
