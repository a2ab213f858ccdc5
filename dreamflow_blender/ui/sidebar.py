"""The sidebar: View3D > Sidebar > DreamFlow. It draws and decides nothing."""

# ruff: noqa: N801  Blender's own naming

from __future__ import annotations

import bpy
from bpy.app.translations import pgettext_iface as translated

from ..contract import words
from ..scene import objects, pictures
from ..session import estimates, importing, jobs, models, service, tasks
from ..settings import addon
from ..setup import torch_build
from . import candidates as ui_candidates
from . import loras as ui_loras
from . import parts as ui_parts
from . import problems as ui_problems
from . import prompt as ui_prompt
from .parts import Layout


class _Sidebar:
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "DreamFlow"


class DREAMFLOW_PT_main(_Sidebar, bpy.types.Panel):
    bl_label = "DreamFlow"

    def draw_header_preset(self, context: bpy.types.Context) -> None:
        self.layout.operator("dreamflow.open_preferences", text="", icon="PREFERENCES", emboss=False)

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        state = service.state()
        ui_problems.task(layout, context)
        ui_problems.problems(layout, context)
        if state.python is None:
            if tasks.current is None:
                draw_not_set_up(layout, context)
            return
        if state.state == "outdated" and tasks.current is None:
            box = layout.box()
            ui_parts.paragraph(box, context, state.why, "INFO")
            box.operator("dreamflow.set_up", icon="IMPORT")
        if jobs.running is not None:
            draw_running(layout, context)
        else:
            draw_offer(layout, context)
        draw_queue(layout, context)
        ui_candidates.draw_candidates(layout, context)
        draw_waiting_import(layout, context)
        draw_form(layout, context)


def draw_not_set_up(layout: Layout, context: bpy.types.Context) -> None:
    state = service.state()
    broken = state.state == "broken"
    ui_parts.paragraph(
        layout,
        context,
        state.why
        if broken
        else translated(
            "DreamFlow needs its own Python: about {size} GB on disk, nothing to compile, no administrator rights."
            " Works offline afterwards."
        ).format(size=torch_build.expected_gb()),
    )
    ui_parts.set_up_button(layout, context, repair=broken)
    row = layout.row()
    folder = addon.environment_folder()
    if folder.is_relative_to(addon.user_folder()):
        ui_parts.paragraph(row, context, "Installed in Blender's user folder", less=ui_parts.UNIT)
    else:
        room = ui_parts.columns(context) - 4
        row.label(text=words.shorten_start(str(folder), room), translate=False)
    row.operator("dreamflow.open_preferences", text="", icon="FILE_FOLDER", emboss=False)


def draw_running(layout: Layout, context: bpy.types.Context) -> None:
    now = jobs.running
    assert now is not None
    box = layout.box()
    head = box.row()
    head.label(text=words.shorten(now.entry.title, ui_parts.columns(context) - 4), translate=False)
    head.operator("dreamflow.discard_job", text="", icon="X", emboss=False)
    line = box.column(align=True)
    line.label(text=ui_parts.stage_line(now), translate=False)
    ui_parts.bar(line, now.whole(), f"{now.share()}  {ui_parts.time_left(now)}".rstrip())
    if context.preferences.view.show_developer_ui and len(now.losses) > 1:
        line.label(text=f"{translated('Loss')}  {words.sparkline(now.losses, 24)}", translate=False)
    buttons = ui_parts.button_row(box, context, "Resume" if now.paused else "Pause", "Stop here")
    if now.paused:
        buttons.operator("dreamflow.pause_job", text="Resume", icon="PLAY")
    else:
        buttons.operator("dreamflow.pause_job", icon="PAUSE")
    buttons.operator("dreamflow.finish_job", icon="CHECKMARK")
    icon = pictures.icon(pictures.LIVE)
    size = ui_parts.picture_size(context)
    if size:  # its place is kept before it comes, so that no button moves
        box.template_icon(icon_value=icon, scale=size)
    if now.warnings:
        ui_parts.paragraph(box, context, now.warnings[-1], "INFO")


def draw_queue(layout: Layout, context: bpy.types.Context) -> None:
    """The waiting jobs, directly under the running one."""
    waiting = jobs.get_store().waiting()
    if not waiting:
        return
    header, body = layout.panel("dreamflow_queue")
    header.label(text=f"{translated('Queue')} ({len(waiting)})", translate=False)
    if jobs.queue_paused and jobs.running is None:
        layout.operator("dreamflow.resume_queue", icon="PLAY")
    if not body:
        return
    column = body.column(align=True)
    for index, entry in enumerate(waiting):
        row = column.row(align=True)
        row.label(text=words.shorten(entry.title, ui_parts.columns(context) - 11), translate=False)
        for by, icon, able in ((-1, "TRIA_UP", index > 0), (1, "TRIA_DOWN", index < len(waiting) - 1)):
            cell = row.row(align=True)
            cell.enabled = able
            move = cell.operator("dreamflow.move_queued", text="", icon=icon, emboss=False)
            move.job_id, move.by = entry.job.id, by
        row.operator("dreamflow.remove_queued", text="", icon="X", emboss=False).job_id = entry.job.id


def draw_offer(layout: Layout, context: bpy.types.Context) -> None:
    """Offer to resume the job that was running when Blender or the machine crashed."""
    for entry in jobs.get_store().to_offer()[:1]:
        box = layout.box()
        text = f"{translated('Interrupted')}: {entry.job.prompt}{f', {entry.note}' if entry.note else ''}"
        ui_parts.paragraph(box, context, text, "RECOVER_LAST")
        row = ui_parts.button_row(box, context, "Resume", "Not now")
        row.operator("dreamflow.resume_job", icon="PLAY").job_id = entry.job.id
        row.operator("dreamflow.leave_job", icon="X").job_id = entry.job.id


def draw_waiting_import(layout: Layout, context: bpy.types.Context) -> None:
    if importing.pending() and (text := importing.waiting_line()):
        ui_parts.paragraph(layout, context, text, "CHECKMARK")
        layout.operator("dreamflow.import_now", icon="IMPORT")


def draw_form(layout: Layout, context: bpy.types.Context) -> None:
    settings = context.scene.dreamflow
    ui_prompt.draw_prompt(layout, context, settings, refine=False)
    form = layout.column()
    form.use_property_split = True
    form.use_property_decorate = False
    if settings.model != "BUILT_IN" or settings.negative:  # which knows none
        form.prop(settings, "negative")
    form.prop(settings, "preset")
    form.prop(settings, "model")
    if settings.model == "FOLDER":
        ui_loras.draw_own_model(form, "prior_folder")
    seed = form.row(align=True)
    seed.prop(settings, "seed")
    seed.operator("dreamflow.roll_seed", text="", icon="FILE_REFRESH")
    # its items say what it is, and a narrow sidebar has no room for more
    layout.prop(settings, "candidates", text="")

    if settings.model != "BUILT_IN":
        ui_loras.draw_loras(layout, context, settings)
    header, body = layout.panel("dreamflow_shape", default_closed=True)
    header.label(text="Shape and texture")
    if body:
        body.use_property_split = True
        body.use_property_decorate = False
        body.prop(settings, "height")
        body.prop(settings, "place")
        body.prop(settings, "faces")
        if not settings.faces:
            note = body.row()
            note.active, note.scale_y = False, 0.6
            note.alignment = "RIGHT"
            note.label(text="0 = preset")
        body.prop(settings, "texture_size")
    header, body = layout.panel("dreamflow_advanced", default_closed=True)
    header.label(text="Advanced")
    if body:
        column = body.column(heading="Stages", align=True)
        column.use_property_split = True
        column.use_property_decorate = False
        for name in ("geometry", "texture", "refine"):
            column.prop(settings, name)
        more = body.column()
        more.use_property_split = True
        more.use_property_decorate = False
        more.prop(settings, "extra")

    missing = models.to_fetch(settings)
    if missing:
        ui_parts.paragraph(layout, context, f"{translated(models.cannot_generate_reason(settings))}.", "INFO")
        ui_prompt.draw_fetch(layout, context, missing)
    text = "Generate" if jobs.running is None else "Add to queue"
    ui_parts.big_button(layout, "dreamflow.generate", text, "SHADERFX" if jobs.running is None else "ADD")
    estimate = estimates.sentence(settings)
    if estimate:
        note = layout.row()
        note.active = False
        ui_parts.paragraph(note, context, estimate)


class DREAMFLOW_PT_selected(_Sidebar, bpy.types.Panel):
    bl_label = "Selected"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        obj = context.object
        return obj is not None and ("dreamflow_prompt" in obj or bool(objects.packed_images(obj)))

    def draw(self, context: bpy.types.Context) -> None:
        obj = context.object
        if "dreamflow_prompt" in obj:
            room = ui_parts.columns(context)
            column = self.layout.column(align=True)
            column.label(text=words.shorten(str(obj["dreamflow_prompt"]), room), translate=False)
            column.label(text=f"{translated('Seed')} {obj.get('dreamflow_seed', '')}", translate=False)
            units = context.scene.unit_settings.system
            sizes = [bpy.utils.units.to_string(units, "LENGTH", size, precision=3) for size in obj.dimensions]
            column.label(text=" x ".join(sizes), translate=False)
            text = "Mark as asset" if obj.asset_data is None else "Update asset"
            self.layout.operator("dreamflow.mark_asset", text=text, icon="ASSET_MANAGER")
            self.layout.operator("dreamflow.deliver", icon="MOD_DECIM")
        if objects.packed_images(obj):
            self.layout.operator("dreamflow.save_textures", text="Save textures", icon="FILE_IMAGE")


def draw_status(self: bpy.types.Header, context: bpy.types.Context) -> None:
    """In Blender's status bar, while something runs."""
    now = jobs.running
    if now is not None:
        row = self.layout.row()
        row.ui_units_x = 12
        text = f"{words.shorten(now.entry.title, 24)}: {ui_parts.stage_line(now)}"
        ui_parts.bar(row, now.whole(), text)


CLASSES = (DREAMFLOW_PT_main, DREAMFLOW_PT_selected)
