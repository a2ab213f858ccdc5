"""The dialog of Mark as asset: where it goes, and what is written beside it."""

from __future__ import annotations

from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as translated

from ..settings import addon
from . import parts as ui_parts
from .parts import Layout


def draw_dialog(layout: Layout, context: bpy.types.Context, operator: Any, library: str) -> None:
    """library  the chosen one's name, "" for the open file"""
    form = layout.column()
    form.use_property_split = True
    form.use_property_decorate = False
    form.prop(operator, "library")
    preferences = addon.preferences()
    for name in ("asset_author", "asset_license") if preferences else ():
        form.prop(preferences, name)
    if library:
        said = translated("A copy is saved as a file of its own in “{library}”; nothing is overwritten.")
        said = said.format(library=library)
    else:
        said = translated(
            "It is in the Asset Browser of this file; save the file in a library's folder to share it."
        )
    ui_parts.paragraph(layout, context, said, "INFO")
