"""Which colour spaces mean sRGB and which mean linear, as Blender's colour configuration has them.

A studio's configuration may have no space called sRGB. Blender gives a new 8-bit image the space that the
configuration names for textures (role default_byte), a new float image the one for scene-linear values.
"""

from __future__ import annotations

from functools import cache

import bpy

# as published configurations call them: Blender, ACES 1.x and 2 (CG and Studio), nuke-default
_SRGB = {
    "sRGB",
    "sRGB - Texture",
    "sRGB Encoded Rec.709 (sRGB)",
    "Utility - sRGB - Texture",
    "srgb_tx",
    "srgb_texture",
}
_LINEAR = {
    "Linear", "Linear Rec.709", "Linear Rec.709 (sRGB)", "Utility - Linear - sRGB", "Utility - Linear - Rec.709",
    "lin_rec709", "lin_srgb", "Raw", "Utility - Raw", "Utilities - Raw", "Generic Data", "Non-Color",
}  # fmt: skip


@cache
def _new_image_space(is_float: bool) -> str:
    image = bpy.data.images.new("DreamFlow", 1, 1, float_buffer=is_float)
    name = str(image.colorspace_settings.name)
    bpy.data.images.remove(image)
    return name


def is_srgb(image: bpy.types.Image) -> bool:
    name = image.colorspace_settings.name
    return name in _SRGB or (name != "" and name == _new_image_space(False))


def is_linear(image: bpy.types.Image) -> bool:
    """Data counts as linear: it is shown as it is."""
    settings = image.colorspace_settings
    return settings.is_data or settings.name in _LINEAR or settings.name == _new_image_space(True)
