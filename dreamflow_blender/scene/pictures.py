"""Pictures in the panel: the live preview, and the history's thumbnails. Nothing of them is in the user's file.

The pixels go straight into an icon, so that a renewed picture does not flicker as a reloaded one does.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import bpy
import bpy.utils.previews
import numpy as np

SIZE = 256  # pixels a side
LIVE = "live"

_ONE_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC"
)
_warm = False  # Blender has decoded a picture

_icons: Any = None  # a collection of bpy.utils.previews
_wanted: dict[str, Path] = {}  # by key: what the panel has asked for and is not read yet
_asked: set[str] = set()  # keys that were looked for, found or not


def warm_up() -> None:
    """The first picture takes Blender 16 ms, all others 2: at start-up, where the delay is not noticed."""
    global _warm
    if _warm:
        return
    image = bpy.data.images.new("DreamFlow", 1, 1)
    image.pack(data=_ONE_PIXEL, data_len=len(_ONE_PIXEL))
    image.source = "FILE"
    image.pixels.foreach_get(np.empty(4 * image.size[0] * image.size[1], np.float32))
    bpy.data.images.remove(image)
    _warm = True


def show(key: str, path: Path) -> None:
    """Put this picture under `key`; the one before stays where the file cannot be read."""
    if _icons is None:
        return
    _asked.add(key)
    pixels = read(path)
    if pixels is None:
        return
    icon = _icons[key] if key in _icons else _icons.new(key)
    icon.image_size = (pixels.shape[1], pixels.shape[0])
    icon.image_pixels_float.foreach_set(pixels.ravel())


def read(path: Path) -> np.ndarray | None:
    """[SIZE,SIZE,4] float32, row 0 at the bottom as Blender has it; None where it cannot be read."""
    if not path.is_file():
        return None
    try:
        image = bpy.data.images.load(str(path))
    except RuntimeError:
        return None
    try:
        if 0 in image.size:  # not a picture after all
            return None
        if max(image.size) > SIZE:
            image.scale(SIZE, SIZE)
        pixels = np.empty(image.size[0] * image.size[1] * 4, np.float32)
        image.pixels.foreach_get(pixels)
        return pixels.reshape(image.size[1], image.size[0], 4)
    finally:
        bpy.data.images.remove(image)


def want(key: str, path: Path | None) -> int:
    """The icon for `template_icon`; 0 until it has been read. For draw, where nothing may be read."""
    if key not in _asked and path is not None:
        _wanted[key] = path
    return icon(key)


def wanted() -> bool:
    return bool(_wanted)


def load_one() -> bool:
    """Read the next picture that was asked for, some milliseconds; False if there is none."""
    if not _wanted:
        return False
    key = next(iter(_wanted))
    show(key, _wanted.pop(key))
    return True


def icon(key: str) -> int:
    """For `template_icon`; 0 where there is no picture."""
    return int(_icons[key].icon_id) if _icons is not None and key in _icons else 0


def drop(key: str) -> None:
    _asked.discard(key)
    _wanted.pop(key, None)
    if _icons is not None and key in _icons:
        del _icons[key]


def register() -> None:
    global _icons
    _icons = bpy.utils.previews.new()


def unregister() -> None:
    global _icons
    if _icons is not None:
        bpy.utils.previews.remove(_icons)
    _icons = None
    _asked.clear()
    _wanted.clear()
