"""Refine in the sidebar: the selected object, the dialog, and before / after. It draws and decides nothing."""

# ruff: noqa: N801  Blender's own naming

from __future__ import annotations

from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as translated

from ..contract import words
from ..gather.object import cannot_refine_reason
from ..scene import decide
from ..session import estimates, jobs, models, service
from ..session import refine as refine_session
from ..settings.refine import strength_word
from ..translations import OWN
from . import loras as ui_loras
from . import parts as ui_parts
from . import prompt as ui_prompt
from .parts import Layout


class DREAMFLOW_PT_refine(bpy.types.Panel):
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "DreamFlow"
    bl_label = "Refine"
    bl_translation_context = OWN
    bl_order = 1

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return service.python() is not None and context.object is not None

    def draw(self, context: bpy.types.Context) -> None:
        layout, obj = self.layout, context.object
        room = ui_parts.columns(context)
        layout.label(text=words.shorten(obj.name, room - 3), icon="OBJECT_DATA", translate=False)
        state = decide.state_of(obj)
        if state is not None:
            draw_decide(layout, context, state["shown"] == "after")
            return
        layout.operator("dreamflow.refine", text=button_text(context), icon="BRUSH_DATA")
        said = cannot_refine_reason(obj)
        if said:
            ui_parts.paragraph(layout, context, f"{translated(said)}.", "INFO")
        elif models.missing(context.scene.dreamflow_refine):
            draw_missing(layout, context, context.scene.dreamflow_refine.prompt or first_prompt(obj))
            layout.prop(context.scene.dreamflow_refine, "model", text="")
        for note in notes():
            ui_parts.paragraph(layout, context, note, "INFO")


def button_text(context: bpy.types.Context) -> str:
    """ "Refine with SDXL..." """
    model = context.scene.dreamflow_refine.model
    if model == "SDXL":
        return "Refine with SDXL..."
    return "Refine with built-in..." if model == "BUILT_IN" else "Refine..."


def draw_decide(layout: Layout, context: bpy.types.Context, after: bool) -> None:
    row = layout.row()
    row.operator(
        "dreamflow.before_after", text="Show before" if after else "Show after", icon="ARROW_LEFTRIGHT"
    )
    buttons = ui_parts.button_row(layout, context, "Apply", "Discard")
    buttons.operator("dreamflow.apply_refined", icon="CHECKMARK")
    buttons.operator("dreamflow.discard_refined", icon="X")


def draw_dialog(layout: Layout, context: bpy.types.Context) -> None:
    """The settings of the next refinement."""
    settings = context.scene.dreamflow_refine
    meant = refine_session.chosen(context)
    if len(meant) > 1:
        names = ", ".join(obj.name for obj in meant)
        ui_parts.paragraph(
            layout, context, f"{translated('One job for each, with one prompt')}: {names}", "INFO"
        )
    ui_prompt.draw_prompt(layout, context, settings, refine=True)
    form = layout.column()
    form.use_property_split = True
    form.use_property_decorate = False
    form.prop(settings, "model")
    if settings.model == "FOLDER":
        ui_loras.draw_own_model(form, "refiner_folder")
        ui_loras.draw_list(layout, context, context.scene.dreamflow)  # the same as Generate's
    if not settings.prompt.strip():
        ui_parts.paragraph(layout, context, "Enter a prompt that says what the object is.", "INFO")
    draw_missing(layout, context, settings.prompt)
    form = layout.column()
    form.use_property_split = True
    form.use_property_decorate = False
    form.prop(settings, "strength", slider=True)
    row = form.row()
    row.alignment = "RIGHT"
    row.label(text=strength_word(settings))
    draw_without_uvs(layout, context)
    form = layout.column()
    form.use_property_split = True
    form.use_property_decorate = False
    form.prop(settings, "preset")
    form.prop(settings, "faces")
    target = chosen_name(context)
    if target:
        row = form.row()
        row.alignment = "RIGHT"
        row.label(text=words.shorten(target, 40), translate=False)
    form.prop(settings, "front")
    form.prop(settings, "texture_size")
    form.prop(settings, "keep_uvs")
    form.prop(settings, "keep")
    said = estimate(settings)
    if said:
        row = layout.row()
        row.alignment = "CENTER"
        row.active = False
        row.label(text=said, translate=False)
    row = layout.row()  # no `layout.panel`: in a dialog it ends Blender 4.3
    row.alignment = "LEFT"
    icon = "DOWNARROW_HLT" if settings.advanced else "RIGHTARROW"
    row.prop(settings, "advanced", icon=icon, emboss=False)
    if settings.advanced:
        body = layout.column()
        body.use_property_split = True
        body.use_property_decorate = False
        for name in ("from_scratch", "negative", "seed", "extra"):
            body.prop(settings, name)


def draw_without_uvs(layout: Layout, context: bpy.types.Context) -> None:
    """Ask before the job what its result should be put on."""
    obj = context.object
    if refine_session.must_choose(obj):
        text = translated(
            "No UVs, and modifiers that make faces. Unwrap the object itself, or make a copy of it?"
        )
        ui_parts.paragraph(layout, context, text, "QUESTION")
        layout.row().prop(context.scene.dreamflow_refine, "without_uvs", expand=True)
    elif obj is not None and obj.library is not None:
        ui_parts.paragraph(layout, context, "Linked: the result is a copy in this file.", "INFO")


def estimate(settings: Any) -> str:
    """ "about 2 min, 1.4 GB of memory", as the last refinements here have taken; "" where nothing is known."""
    if models.cannot_refine_reason(settings):
        return ""
    prior = models.choose(settings)["prior"]
    past = jobs.get_store().finished(kind="refine", preset=settings.preset, prior=prior)
    return estimates.in_words(past)


def draw_missing(layout: Layout, context: bpy.types.Context, prompt: str) -> None:
    """What the model needs, and how to get it."""
    settings = context.scene.dreamflow_refine
    said = models.missing(settings)
    if not said:
        return
    ui_parts.paragraph(layout, context, f"{translated(said)}.", "INFO")
    if settings.model != "SDXL":
        return
    ui_prompt.draw_fetch(layout, context, models.SD if models.is_here(models.REFINER) else models.REFINER)
    if not models.unknown_words(prompt):
        layout.operator("dreamflow.refine_built_in", icon="BRUSH_DATA")


def chosen_name(context: bpy.types.Context) -> str:
    """The active material slot or vertex group that the setting means."""
    obj, settings = context.object, context.scene.dreamflow_refine
    if obj is None:
        return ""
    if settings.faces == "SLOT":
        return obj.active_material.name if obj.active_material else translated("no material")
    if settings.faces == "GROUP":
        group = obj.vertex_groups.active
        return group.name if group else translated("no vertex group")
    return ""


def first_prompt(obj: bpy.types.Object) -> str:
    """What it was made from, where it is one of ours; else what it is called."""
    said = str(obj.get("dreamflow_prompt", ""))
    if said:
        return said
    name = obj.name.rsplit(".", 1)[0] if obj.name[-3:].isdigit() else obj.name
    return name.replace("_", " ").strip().lower()


def fill_prompt(settings: Any, obj: bpy.types.Object) -> None:
    """The prompt of this object; what was typed for it stays as long as it is the one that is refined."""
    if settings.prompt_of != str(obj.session_uid) or not settings.prompt.strip():
        settings.prompt = first_prompt(obj)
    settings.prompt_of = str(obj.session_uid)


def notes() -> list[str]:
    """Notes about the running refine job."""
    now = jobs.running
    place = now.entry.place.get("refine") if now is not None else None
    return [str(note) for note in place.get("notes", [])] if isinstance(place, dict) else []


CLASSES = (DREAMFLOW_PT_refine,)
