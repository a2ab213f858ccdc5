"""The LoRAs in the panel's list: whether their files are there, and the words that they were trained with."""

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
    """The file of one of the list."""
    return Path(bpy.path.abspath(item.file))


def is_missing(item: Any) -> bool:
    """Whether its file is not there; cheap enough for every redraw."""
    return not _look(path_of(item), int(time.monotonic() / _LOOK_AGAIN))[0]


def words_of(item: Any) -> tuple[str, ...]:
    """The words that its file names, likewise; () where it names none, or cannot be read."""
    return _look(path_of(item), int(time.monotonic() / _LOOK_AGAIN))[1]


@lru_cache(maxsize=64)
def _look(path: Path, _when: int) -> tuple[bool, tuple[str, ...]]:
    if not is_file(path):
        return False, ()
    try:
        return True, trigger.trigger_words(trigger.read_metadata(path))
    except (OSError, ValueError):
        return True, ()
