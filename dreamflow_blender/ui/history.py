"""The history in the sidebar: the jobs that have ended, a page at a time. It draws and decides nothing."""

# ruff: noqa: N801  Blender's own naming

from __future__ import annotations

import bpy
from bpy.app.translations import pgettext_iface as translated

from ..backlog.entries import CANDIDATE
from ..backlog.store import Entry
from ..contract import words
from ..scene import pictures
from ..session import jobs, service
from ..translations import OWN
from . import parts as ui_parts
from .parts import Layout

ROWS = 8  # of a page


class DREAMFLOW_PT_history(bpy.types.Panel):
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "DreamFlow"
    bl_label = "History"
    bl_translation_context = OWN
    bl_order = 9
    bl_options = {"DEFAULT_CLOSED"}  # noqa: RUF012

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return service.python() is not None and bool(jobs.get_store().history())

    def draw(self, context: bpy.types.Context) -> None:
        shown = context.window_manager.dreamflow_history
        row = self.layout.row(align=True)
        row.prop(shown, "find", text="", icon="VIEWZOOM")
        row.prop(shown, "starred", text="", icon="SOLO_ON")
        entries = [
            entry
            for entry in jobs.get_store().history()
            if entry.matches(shown.find) and (entry.star or not shown.starred)
        ]
        pages = max(1, -(-len(entries) // ROWS))
        page = min(shown.page, pages)
        for entry in entries[(page - 1) * ROWS : page * ROWS]:
            draw_past(self.layout, context, entry)
        if not entries:
            ui_parts.paragraph(self.layout, context, "No job matches.", "INFO")
        if pages > 1:
            row = self.layout.row(align=True)
            row.prop(shown, "page")
            row.label(text=f"{page} {translated('of')} {pages}", translate=False)


def draw_past(layout: Layout, context: bpy.types.Context, entry: Entry) -> None:
    """One job of the history."""
    box = layout.box()
    room = ui_parts.columns(context)
    row = box.row()
    icon = pictures.want(entry.job.id, entry.thumbnail)
    if pictures.wanted():
        jobs.wake()
    if icon:
        row.template_icon(icon_value=icon, scale=4.0)
    lines = row.column(align=True)
    lines.scale_y = 0.9
    lines.label(text=words.shorten(entry.title, room - 13), translate=False)
    for line in words.wrap(what_became(entry), ui_parts.room(context, 4.6 * ui_parts.UNIT), ui_parts.measure):
        lines.label(text=line, translate=False)
    row.operator(
        "dreamflow.star_job", text="", icon="SOLO_ON" if entry.star else "SOLO_OFF", emboss=False
    ).job_id = entry.job.id
    if entry.state == "failed" and entry.error is not None:
        ui_parts.paragraph(box, context, entry.error.message)
    job_id = entry.job.id
    texts = {"resume_job": "Resume"} if entry.can_resume else {}
    if entry.result:
        refined = entry.job.kind == "refine"
        texts |= {"show_refined": "Put on the object"} if refined else {"import_result": "Import"}
    elif entry.so_far:
        texts |= {"import_result": "Import partial"}
    if entry.result or not entry.so_far:
        texts["vary_job"] = "Vary"
        if entry.job.kind == "generate":
            texts["more_like_this"] = "More like this"
    buttons = ui_parts.button_row(box, context, *texts.values())
    for name, text in texts.items():
        button = buttons.operator(f"dreamflow.{name}", text=text)
        button.job_id = job_id
        if text == "Import partial":
            button.partial = True
    buttons = ui_parts.button_row(box, context, "Use this prompt", icons=2)
    buttons.operator("dreamflow.use_settings", icon="EYEDROPPER").job_id = job_id
    side = buttons.row(align=True)
    side.operator("dreamflow.open_folder", text="", icon="FILE_FOLDER").job_id = job_id
    side.operator("dreamflow.delete_job", text="", icon="TRASH").job_id = job_id


def what_became(entry: Entry) -> str:
    """ "seed 42   2 min", "stopped at 61 %" """
    at = f" {translated('at')} {entry.note}" if entry.note else ""
    if entry.state == "finished":
        seconds = entry.seconds or entry.figures.get("seconds", 0)
        took = f"   {words.duration(seconds)}" if seconds else ""
        stopped = f"{translated('stopped early')}{at}   " if entry.note else ""
        return f"{stopped}{translated('seed')} {entry.job.seed}{took}"
    if entry.state == "cancelled" and CANDIDATE in entry.place:
        return f"{translated('candidate, not chosen')}   {translated('seed')} {entry.job.seed}"
    said = {"cancelled": "stopped", "interrupted": "interrupted", "failed": "failed"}[entry.state]
    return f"{translated(said)}{at}"


CLASSES = (DREAMFLOW_PT_history,)
