"""The prompt's field: what is wrong with it while it is typed, and the words that the built-in model knows."""

# ruff: noqa: N801  Blender's own naming

from __future__ import annotations

from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as translated

from ..contract.language.unknown import NotUnderstood
from ..contract.language.vocabulary import COLOURS
from ..session import findings, models, tasks
from ..settings import addon
from ..translations import OWN
from . import parts as ui_parts
from .parts import Layout


def draw_prompt(layout: Layout, context: bpy.types.Context, settings: Any, refine: bool) -> None:
    """The prompt of Generate or of Refine, under its label; with the built-in model also its words."""
    built_in = settings.model == "BUILT_IN" and bool(models.known_kinds())
    wrong, note = read(settings) if settings.prompt.strip() else ("", "")
    column = layout.column(align=True)
    column.label(text="Prompt", text_ctxt=OWN)
    field = column.row()
    field.alert = bool(wrong)
    if hasattr(field, "textbox"):  # from Blender 5.2: several lines
        field.textbox(settings, "prompt")
    else:
        field.prop(settings, "prompt", text="")
    if built_in:
        words = column.row(align=True)
        for name, text in (("things", "Things"), ("colours", "Colors")):
            words.menu(f"DREAMFLOW_MT_{name}{'_refine' if refine else ''}", text=text)
    if wrong:
        ui_parts.paragraph(layout, context, wrong, "ERROR")
    elif note:
        ui_parts.paragraph(layout, context, note, "INFO")


def draw_dialog(layout: Layout, context: bpy.types.Context) -> None:
    """Of Add > Mesh > DreamFlow: the least that Generate needs."""
    settings = context.scene.dreamflow
    draw_prompt(layout, context, settings, refine=False)
    form = layout.column()
    form.use_property_split = True
    form.use_property_decorate = False
    for name in ("preset", "model", "seed"):
        form.prop(settings, name)
    if models.to_fetch(settings):
        draw_fetch(layout, context, models.to_fetch(settings))


def read(settings: Any) -> tuple[str, str]:
    """What is wrong with the prompt, and where nothing is, how it is read."""
    try:
        return "", models.read_by_chosen(settings)
    except NotUnderstood as error:
        return str(error), ""


def draw_fetch(layout: Layout, context: bpy.types.Context, name: str) -> None:
    """The button that fetches this model, with what it is, its size and its licence."""
    if tasks.current is not None:
        return  # its progress is shown above
    title, size, licence = models.STATED[name]
    known = next((item for item in findings.models if item.get("name") == name), {})
    size = float(known.get("size", 0)) / 1e9 or size
    ui_parts.paragraph(layout, context, f"{title}: {size:.1f} GB, {translated('License')}: {licence}")
    text = translated("Fetch it")
    if ui_parts.fits(context, f"{text} ({size:.1f} GB)"):
        text = f"{text} ({size:.1f} GB)"
    ui_parts.big_button(layout, "dreamflow.fetch_model", text, "IMPORT").model = name
    offline = addon.offline_reason()
    if offline:
        ui_parts.paragraph(layout, context, f"{translated(offline)}.", "INTERNET_OFFLINE")


class _Words(bpy.types.Menu):
    kind_or_colour = "kind"
    refine = False

    def draw(self, context: bpy.types.Context) -> None:
        words = models.known_kinds() if self.kind_or_colour == "kind" else COLOURS
        for word in words:
            button = self.layout.operator("dreamflow.put_word", text=translated(word.capitalize()))
            setattr(button, self.kind_or_colour, word)
            button.refine = self.refine


class DREAMFLOW_MT_things(_Words):
    bl_label = "Things"
    bl_description = "Things that the built-in model can make"


class DREAMFLOW_MT_colours(_Words):
    bl_label = "Colors"
    bl_description = "Colors that the built-in model knows"
    kind_or_colour = "colour"


class DREAMFLOW_MT_things_refine(DREAMFLOW_MT_things):
    refine = True


class DREAMFLOW_MT_colours_refine(DREAMFLOW_MT_colours):
    refine = True


CLASSES = (
    DREAMFLOW_MT_things,
    DREAMFLOW_MT_colours,
    DREAMFLOW_MT_things_refine,
    DREAMFLOW_MT_colours_refine,
)
