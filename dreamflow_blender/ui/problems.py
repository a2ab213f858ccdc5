"""The running task, and what went wrong: what happened, what to do, what was kept. They draw, and decide nothing."""

from __future__ import annotations

import bpy
from bpy.app.translations import pgettext_iface as translated

from ..contract import words
from ..session import jobs, models, tasks
from . import parts as ui_parts
from . import prompt as ui_prompt
from .parts import Layout


def task(layout: Layout, context: bpy.types.Context) -> None:
    """The running task: set-up, check or download."""
    now = tasks.current
    if now is None:
        return
    box = layout.box()
    ui_parts.paragraph(box, context, now.title)
    if now.held and not now.cancelling:
        ui_parts.paragraph(box, context, now.held, "CHECKMARK")
        box.operator("dreamflow.import_now", icon="IMPORT")
        box.operator("dreamflow.cancel_task", icon="X")
        return
    line = translated("Stopping") if now.cancelling else now.line
    ui_parts.bar(box, now.fraction, f"{100 * now.fraction:.0f} %")
    if line:
        row = box.row()
        row.scale_y = 0.8
        row.label(text=words.shorten(line, ui_parts.columns(context)), translate=False)
    box.operator("dreamflow.cancel_task", icon="X")


def problems(layout: Layout, context: bpy.types.Context) -> None:
    """Error messages: what happened, what to do, what was kept."""
    if tasks.problem is not None:
        box = _problem_box(layout, context, tasks.problem.message, tasks.problem.todo)
        row = box.row(align=True)
        if tasks.problem.name in ("setup", "repair"):
            row.operator("dreamflow.set_up", text="Retry", icon="FILE_REFRESH")
            row.operator("dreamflow.open_log", text="Open log", icon="TEXT")
        row.operator("dreamflow.copy_report", text="Copy report", icon="COPYDOWN")
    wrong = jobs.problem
    if wrong is None:
        return
    if wrong.folded:  # all of it stands in the history
        row = layout.row()
        said = words.shorten(wrong.failed.message, ui_parts.columns(context) - 6)
        row.label(text=said, icon="ERROR", translate=False)
        row.operator("dreamflow.dismiss", text="", icon="X", emboss=False)
        return
    box = _problem_box(layout, context, wrong.failed.message, wrong.failed.todo)
    entry = wrong.entry
    if entry is not None:
        column = box.column(align=True)
        first = "Change the prompt" if wrong.failed.kind == "input" else "Retry"
        retry = ui_parts.button_row(column, context, first, "Copy report")
        if wrong.failed.kind == "input":  # it would fail again: the prompt or a setting has to change
            retry.operator(
                "dreamflow.use_settings", text="Change the prompt", icon="EYEDROPPER"
            ).job_id = entry.job.id
        else:
            retry.operator("dreamflow.resume_job", text="Retry", icon="FILE_REFRESH").job_id = entry.job.id
        retry.operator("dreamflow.copy_report", icon="COPYDOWN")
        if wrong.failed.kind == "memory" and wrong.stage:
            smaller = column.operator("dreamflow.retry_smaller", icon="MOD_DECIM")
            smaller.job_id, smaller.stage = entry.job.id, wrong.stage
        lacking = models.lacking(entry.job)
        if lacking:
            ui_prompt.draw_fetch(box, context, lacking)
        if entry.so_far:
            partial = column.operator("dreamflow.import_result", text="Import partial result", icon="IMPORT")
            partial.job_id, partial.partial = entry.job.id, True
            ui_parts.paragraph(box, context, "Everything made so far is kept.")
    else:
        box.operator("dreamflow.copy_report", icon="COPYDOWN")


def _problem_box(layout: Layout, context: bpy.types.Context, message: str, todo: str) -> Layout:
    box = layout.box()
    head = box.row()
    said = head.column()
    said.alert = True
    ui_parts.paragraph(said, context, message, "ERROR", ui_parts.UNIT)
    head.operator("dreamflow.dismiss", text="", icon="X", emboss=False)
    todo = words.without_commands(todo)
    if todo:
        ui_parts.paragraph(box, context, todo)
    return box
