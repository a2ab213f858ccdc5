"""An image of the file as bytes in sRGB, as the backend wants it. Nothing of the image is changed."""

from __future__ import annotations

import bpy
import numpy as np
from numpy.typing import NDArray

from ..contract.colour import to_srgb
from .colour_spaces import is_linear, is_srgb
from .material import CannotRefine

MOST = 8192  # pixels a side


def pixels_of(image: bpy.types.Image, alpha: bool) -> NDArray[np.uint8]:
    """[H,W,4], row 0 = top. alpha: keep the image's own, else it is opaque. Raises CannotRefine."""
    width, height = image.size  # this loads it
    if not width or not height or not image.has_data:
        where = f" ({image.filepath})" if image.filepath else ""
        raise CannotRefine(
            f"The image “{image.name}”{where} is missing: use File > External Data > Find Missing Files."
        )
    if max(width, height) > MOST:
        raise CannotRefine(
            f"“{image.name}” has {width} by {height} pixels, more than {MOST:,}: scale it down."
        )
    flat = np.empty(width * height * image.channels, np.float32)
    image.pixels.foreach_get(flat)
    values = flat.reshape(height, width, image.channels)[::-1]
    if image.channels == 4 and not image.is_float and is_srgb(image):  # most
        whole = (values * 255 + 0.5).astype(np.uint8)  # bytes they were
        if not alpha:
            whole[..., 3] = 255
        return whole
    rgba = np.ones((height, width, 4), np.float32)
    rgba[..., :3] = values[..., :3] if image.channels >= 3 else values[..., :1]
    if image.channels == 4 and alpha:
        rgba[..., 3] = values[..., 3]
    if image.is_float:  # scene-linear, and multiplied by its alpha
        if image.channels == 4 and image.alpha_mode == "PREMUL":
            rgba[..., :3] /= np.maximum(values[..., 3:], 1e-6)
        rgba[..., :3] = to_srgb(rgba[..., :3])
    elif is_linear(image):
        rgba[..., :3] = to_srgb(rgba[..., :3])
    elif not is_srgb(image):
        raise CannotRefine(
            f"“{image.name}” is in the colour space {image.colorspace_settings.name}: choose an sRGB one, or bake it."
        )
    return np.round(np.clip(rgba, 0, 1) * 255).astype(np.uint8)
