"""What an artist adds to a model, by its file's own header: what it is, and a LoRA's words. Standard library only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff")  # that an ImageDream is shown
MOST_HEADER = 32 << 20  # bytes: kohya's trainers list every tag of every picture, a few megabytes


def kind_of(path: Path) -> str:
    """What a path in the list is, there or not.

    "image" for a picture, "control" for a ControlNet's folder and MV-Adapter's file, "picture" for an IP-Adapter, which
    shows one, "lora" for any other file.
    """
    if path.suffix.lower() in PICTURES:
        return "image"
    if path.suffix.lower() != ".safetensors":
        return "control"
    with suppress(OSError, ValueError):
        header = _read_header(path)
        if any(name.startswith("image_proj.") for name in header):
            return "picture"
        if any(".to_q_mv." in name for name in header):
            return "control"
    return "lora"


def read_metadata(path: Path) -> dict[str, str]:
    """The texts in a .safetensors file's header. Raises ValueError, OSError."""
    found = _read_header(path).get("__metadata__")
    stated = found if isinstance(found, dict) else {}
    return {str(name): text for name, text in stated.items() if isinstance(text, str)}


def _read_header(path: Path) -> dict[str, Any]:
    """A length of 8 bytes, then JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= MOST_HEADER:
            raise ValueError(f"{path} is no .safetensors file.")
        try:
            header = json.loads(file.read(length))
        except RecursionError as error:
            raise ValueError(f"{path} is damaged.") from error
    return header if isinstance(header, dict) else {}


def trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """What the file says that it was trained with: its own phrase, else the five most frequent of kohya's tags."""
    if phrase := metadata.get("modelspec.trigger_phrase", "").strip():
        return (phrase,)
    counts: Counter[str] = Counter()
    # foreign text, and no more than a hint
    with suppress(ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        for tags in json.loads(metadata.get("ss_tag_frequency", "{}")).values():
            counts.update({tag.strip(): int(count) for tag, count in tags.items()})
    return tuple(tag for tag, _ in counts.most_common(5))
