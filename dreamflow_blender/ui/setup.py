"""The preferences: set-up and its check, models, and the settings of this machine."""

from __future__ import annotations

from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as translated

from ..contract import words
from ..session import findings, service, tasks
from . import parts as ui_parts
from . import problems as ui_problems
from .parts import Layout

PLACEHOLDERS = {  # what an empty field means
    "environment_folder": "in Blender's user folder",
    "models_folder": "in Blender's user folder",
    "jobs_folder": "in Blender's user folder",
    "python": "found on this machine, or downloaded",
    "torch_index": "the build for this graphics card",
    "proxy": "the system's",
    "prior_folder": "none",
    "refiner_folder": "none: the model itself refines",
    "asset_author": "none",
    "asset_license": "none",
    "collection": "the scene's own collection",
}
PURPOSES = {  # of the models that `python -m backend models` lists
    "sd": "For any prompt: outline, shape and texture",
    "sd-phi": "Beside Stable Diffusion 2.1-base: it learns what the renders look like",
    "sdxl": "Any prompt, with more detail; needs its weights, and a graphics card of 12 GB or more",
    "sdxl-refiner": "For the last stage, and for Refine",
    "mvdream": "For shapes without a second face: it sees four sides at once",
}
MENDS = {  # what `doctor` gives a command line for
    "space": "Delete jobs that you no longer need in History, or choose another folder below.",
    "folder": "Choose another folder below, or allow writing to this one.",
    "driver": "Install the graphics card's newest driver, and restart the computer.",
}
ADDED = {  # by the option that takes it
    "--control": "Shows the model the object's depth or normals while it is painted",
    "--image-adapter": "Shows the model a reference picture while it paints",
}
TAKES = {"--prior": "prior_folder", "--refiner": "refiner_folder"}
CHECK_ICONS = {"good": "CHECKMARK", "note": "INFO", "problem": "ERROR"}


def draw_preferences(layout: Layout, preferences: Any) -> None:
    context = bpy.context
    ui_problems.task(layout, context)
    ui_problems.problems(layout, context)
    draw_backend(layout, context, preferences)
    draw_models(layout, context, preferences)
    header, body = layout.panel("dreamflow_prefs_work", default_closed=False)
    header.label(text="Jobs")
    if body:
        column = _column(body)
        for name in ("device", "threads", "memory_gb", "idle_minutes", "checkpoint_seconds", "jobs_folder"):
            _field(column, preferences, name)
    header, body = layout.panel("dreamflow_prefs_scene", default_closed=False)
    header.label(text="In the scene")
    if body:
        column = _column(body)
        for name in (
            "live_mesh",
            "picture_size",
            "auto_import",
            "mark_asset",
            "asset_author",
            "asset_license",
            "collection",
        ):
            _field(column, preferences, name)
    row = ui_parts.button_row(layout, context, "Documentation", "Copy report")
    row.operator("dreamflow.open_documentation", icon="HELP")
    row.operator("dreamflow.copy_report", icon="COPYDOWN")


def draw_backend(layout: Layout, context: bpy.types.Context, preferences: Any) -> None:
    state = service.state()
    header, body = layout.panel("dreamflow_prefs_backend", default_closed=False)
    header.label(text="Set-up")
    if not body:
        return
    if state.state == "ready":
        size = f", {state.size_gb:.1f} GB" if state.size_gb else ""
        torch = f", torch {state.torch}" if state.torch else ""
        body.label(text=f"{translated('Ready')}{torch}{size}", icon="CHECKMARK", translate=False)
        if state.note:
            ui_parts.paragraph(body, context, state.note, "INFO")
    else:
        ui_parts.paragraph(body, context, state.why, "INFO")
        ui_parts.set_up_button(body, context, repair=state.state == "broken")
    if state.python is not None:
        row = body.row(align=True)
        row.operator("dreamflow.check_setup", icon="VIEWZOOM")
        row.operator("dreamflow.set_up", text="Repair", icon="TOOL_SETTINGS").repair = True
        row.operator("dreamflow.remove_setup", icon="TRASH")
        row.operator("dreamflow.open_log", icon="TEXT")
    listed = {model.get("name") for model in findings.models}  # with their buttons under Models
    for check in findings.checks:
        if check.get("name") not in listed:
            draw_check(body, context, check)
    column = _column(body)
    for name in ("environment_folder", "python", "torch_index", "proxy"):
        _field(column, preferences, name)


def draw_check(layout: Layout, context: bpy.types.Context, check: dict[str, Any]) -> None:
    """One line of `doctor`, with its mending button where there is one to press here."""
    row = layout.row()
    icon = CHECK_ICONS.get(str(check.get("state")), "INFO")
    ui_parts.paragraph(row, context, f"{check.get('name', '')}: {check.get('message', '')}", icon)
    side = row.row()
    side.alignment = "RIGHT"
    match check.get("fix"):
        case "setup":
            side.operator("dreamflow.set_up", text="Set up", icon="IMPORT")
        case "repair":
            side.operator("dreamflow.set_up", text="Repair", icon="TOOL_SETTINGS").repair = True
        case "models":
            fetch = side.operator("dreamflow.fetch_model", text="Fetch", icon="IMPORT")
            fetch.model = str(check.get("name", ""))
        case fix if check.get("state") == "problem":
            todo = MENDS.get(str(fix)) or words.without_commands(str(check.get("todo", "")))
            if todo:
                ui_parts.paragraph(layout, context, todo)


def draw_models(layout: Layout, context: bpy.types.Context, preferences: Any) -> None:
    header, body = layout.panel("dreamflow_prefs_models", default_closed=False)
    header.label(text="Models")
    if not body:
        return
    row = body.row()
    row.label(text="Built-in", icon="CHECKMARK")
    row.label(text="included")
    row.operator("dreamflow.open_credits", icon="COMMUNITY")
    for model in findings.models:
        draw_model(body, model)
    if tasks.current is None:
        row = body.row()
        row.operator("dreamflow.list_models", icon="FILE_REFRESH")
        row.operator("dreamflow.find_models", icon="VIEWZOOM")
    for found in findings.in_folder:
        draw_use(body, str(found.get("path", "")), str(found.get("option", "")))
        ui_parts.paragraph(body, bpy.context, str(found.get("what", "")), "BLANK1")
    column = _column(body)
    _field(column, preferences, "models_folder")
    for name in ("prior_folder", "refiner_folder"):
        row = column.row(align=True)
        _field(row, preferences, name)
        row.operator("dreamflow.choose_model", text="", icon="FILE_FOLDER").setting = name


def draw_model(layout: Layout, model: dict[str, Any]) -> None:
    row = layout.row()
    here = bool(model.get("folder"))
    row.label(text=str(model.get("title", "")), translate=False, icon="CHECKMARK" if here else "BLANK1")
    about = f"{translated('about')} " if model.get("approximate") else ""
    size = f"{about}{float(model.get('size', 0)) / 1e9:.1f} GB"
    if not here:
        row.operator("dreamflow.fetch_model", icon="IMPORT").model = str(model.get("name", ""))
    about_it = f"{size}, {translated('License')}: {model.get('licence', '')}"
    if cards := model.get("cards"):
        about_it += f", {translated('fits graphics cards from {size} GB').format(size=cards[0])}"
    ui_parts.paragraph(layout, bpy.context, about_it, "BLANK1")
    option = str(model.get("option", ""))
    if purpose := PURPOSES.get(str(model.get("name", "")), ADDED.get(option)):
        ui_parts.paragraph(layout, bpy.context, purpose, "BLANK1")
    for path in model.get("given", ()):
        draw_use(layout, str(path), option)


def draw_use(layout: Layout, path: str, option: str) -> None:
    """A file or folder that is here, and the button that takes it into the settings."""
    row = layout.row()
    row.label(text=words.shorten_start(path, 60), translate=False, icon="BLANK1")
    row.operator_context = "EXEC_DEFAULT"  # the path is known: no file browser
    if option in TAKES:
        button = row.operator("dreamflow.choose_model", text="Use", icon="CHECKMARK")
        button.setting = TAKES[option]
    else:
        button = row.operator("dreamflow.add_lora", icon="ADD")
    button.filepath = path


def _column(layout: Layout) -> Layout:
    column = layout.column()
    column.use_property_split = True
    column.use_property_decorate = False
    return column


def _field(layout: Layout, preferences: Any, name: str) -> None:
    layout.prop(preferences, name, placeholder=translated(PLACEHOLDERS.get(name, "")))
