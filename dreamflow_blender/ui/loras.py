"""The model's file or folder, and the list of LoRAs, ControlNets and a picture. It draws and decides nothing."""

# ruff: noqa: N801  Blender's own naming

from __future__ import annotations

from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as translated

from ..contract import words
from ..session import loras
from ..settings import addon
from . import parts as ui_parts
from .parts import Layout


class DREAMFLOW_UL_loras(bpy.types.UIList):
    def draw_item(
        self, context: Any, layout: Layout, data: Any, item: Any, icon: Any, active_data: Any, active: Any
    ) -> None:
        row = layout.split(factor=0.5, align=True) if in_rows(context) else layout.row()
        gone = loras.is_missing(item)
        row.label(text=loras.path_of(item).stem, icon="ERROR" if gone else "NONE", translate=False)
        if in_rows(context):
            row.prop(item, "weight", text="", slider=True)


def in_rows(context: bpy.types.Context) -> bool:
    """Whether a row of the list has room for a slider; else the chosen one's is below the list."""
    return ui_parts.room(context) >= 170


def draw_own_model(layout: Layout, name: str) -> None:
    """A model of the user's own, with a button that shows .safetensors files and folders alone."""
    preferences = addon.preferences()
    if preferences is not None:
        row = layout.row(align=True)
        row.prop(preferences, name, text="")
        row.operator("dreamflow.choose_model", text="", icon="FILE_FOLDER").setting = name


def draw_loras(layout: Layout, context: bpy.types.Context, settings: Any) -> None:
    """The list under a heading that opens it."""
    count = f" ({len(settings.loras)})" if settings.loras else ""
    header, body = layout.panel("dreamflow_loras", default_closed=True)
    header.label(text=f"{translated('Additions')}{count}", translate=False)
    if body:
        draw_list(body, context, settings)


def draw_list(body: Layout, context: bpy.types.Context, settings: Any) -> None:
    """The list, and of the chosen one its picture or its words."""
    row = body.row()
    row.template_list("DREAMFLOW_UL_loras", "", settings, "loras", settings, "active_lora", rows=2)
    side = row.column(align=True)
    side.operator("dreamflow.add_lora", text="", icon="ADD")
    side.operator("dreamflow.remove_lora", text="", icon="REMOVE")
    if not 0 <= settings.active_lora < len(settings.loras):
        return
    item = settings.loras[settings.active_lora]
    if not in_rows(context):
        body.prop(item, "weight", slider=True)
    if loras.is_missing(item):
        ui_parts.paragraph(body, context, f"{translated('Not there')}: {loras.path_of(item)}", "ERROR")
    elif loras.shows_picture(item):
        body.prop(item, "picture", text="")
    elif found := loras.words_of(item):
        said = words.shorten(", ".join(found), 200)
        ui_parts.paragraph(body, context, f"{translated('Trained with')}: {said}", "INFO")
        body.operator("dreamflow.add_words", icon="ADD")


CLASSES = (DREAMFLOW_UL_loras,)
