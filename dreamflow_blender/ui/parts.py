"""Small pieces that the panels are drawn from. They draw, and decide nothing."""

from __future__ import annotations

import time
from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as translated

from ..backlog.running import Running
from ..contract import words
from ..session import jobs, tasks
from ..settings import addon

Layout = Any  # bpy.types.UILayout, or a fake one in tests

STAGE_NAMES = {
    "": "Starting",
    "fit": "Learning the colours",
    "nerf": "Outline",
    "geometry": "Shape",
    "texture": "Texture",
    "refine": "Refine",
    "deliver": "Finishing",
}


def columns(context: bpy.types.Context) -> int:
    """How many characters fit into a line of this region."""
    return max(20, int((_width(context) - 40) / 6.4))


def picture_size(context: bpy.types.Context) -> float:
    """As wide as a box of this region has room for, in units of a button's height."""
    return min(max((_width(context) - 60) / 20, 5.0), 16.0)


def _width(context: bpy.types.Context) -> float:
    """Of the region, in pixels of a screen without scaling."""
    region = getattr(context, "region", None)
    scale = context.preferences.system.ui_scale or 1.0  # 0 without a window
    return float(region.width) / scale if region is not None else 260.0


def paragraph(layout: Layout, context: bpy.types.Context, text: str, icon: str = "NONE") -> None:
    """Text in as many lines as it needs."""
    column = layout.column(align=True)
    column.scale_y = 0.8
    room = columns(context) - (3 if icon != "NONE" else 0)
    for number, line in enumerate(words.wrap(translated(text), room)):
        if icon == "NONE":
            column.label(text=line, translate=False)
        else:
            column.label(text=line, translate=False, icon=icon if number == 0 else "BLANK1")


def big_button(layout: Layout, operator: str, text: str, icon: str) -> Any:
    """The one thing to do next."""
    row = layout.row()
    row.scale_y = 1.5
    return row.operator(operator, text=text, icon=icon)


def set_up_button(layout: Layout, context: bpy.types.Context, repair: bool) -> None:
    """The one thing to do next: where Blender is offline, to allow what Set up needs."""
    offline = addon.offline_reason()
    if offline and bpy.app.online_access_override:
        paragraph(layout, context, f"{translated(offline)}.", "INTERNET_OFFLINE")
    elif offline:
        paragraph(
            layout, context, "Set-up downloads files, which needs Blender's permission.", "INTERNET_OFFLINE"
        )
        big_button(layout, "extensions.userpref_allow_online", "Allow online access", "INTERNET")
    else:
        text = "Repair" if repair else "Set up DreamFlow"
        big_button(layout, "dreamflow.set_up", text, "IMPORT").repair = repair


def bar(layout: Layout, fraction: float, text: str) -> None:
    layout.progress(factor=min(max(fraction, 0.0), 1.0), type="BAR", text=text)


def task(layout: Layout, context: bpy.types.Context) -> None:
    """The running task: set-up, check or download."""
    now = tasks.current
    if now is None:
        return
    box = layout.box()
    box.label(text=now.title)
    room = columns(context)
    line = translated("Stopping") if now.cancelling else now.line
    bar(box, now.fraction, f"{100 * now.fraction:.0f} %")
    if line:
        row = box.row()
        row.scale_y = 0.8
        row.label(text=words.shorten(line, room), translate=False)
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
    box = _problem_box(layout, context, wrong.failed.message, wrong.failed.todo)
    entry = wrong.entry
    if entry is not None:
        column = box.column(align=True)
        retry = column.row(align=True)
        retry.operator("dreamflow.resume_job", text="Retry", icon="FILE_REFRESH").job_id = entry.job.id
        retry.operator("dreamflow.copy_report", icon="COPYDOWN")
        if wrong.failed.kind == "memory" and wrong.stage:
            smaller = column.operator("dreamflow.retry_smaller", icon="MOD_DECIM")
            smaller.job_id, smaller.stage = entry.job.id, wrong.stage
        if entry.so_far:
            partial = column.operator("dreamflow.import_result", text="Import partial result", icon="IMPORT")
            partial.job_id, partial.partial = entry.job.id, True
            paragraph(box, context, "Everything made so far is kept.")
    else:
        box.operator("dreamflow.copy_report", icon="COPYDOWN")


def _problem_box(layout: Layout, context: bpy.types.Context, message: str, todo: str) -> Layout:
    box = layout.box()
    head = box.row()
    said = head.column()
    said.alert = True
    paragraph(said, context, message, "ERROR")
    head.operator("dreamflow.dismiss", text="", icon="X", emboss=False)
    if todo:
        paragraph(box, context, todo)
    return box


def stage_line(now: Running) -> str:
    """ "Texture  3 of 4" """
    shown = [stage for stage in now.stages if stage != "deliver"]
    name = translated(STAGE_NAMES.get(now.stage, now.stage))
    if now.stage in shown:
        return f"{name}  {shown.index(now.stage) + 1} {translated('of')} {len(shown)}"
    return name


def time_left(now: Running) -> str:
    if now.asked == "finish":
        return translated("Stopping here")
    if now.asked == "discard":
        return translated("Discarding")
    if now.paused:
        return translated("Paused")
    if now.asked == "pause":
        return translated("Pausing")
    if not now.stage:  # a network is loaded, a kernel compiled: the clock shows that it is running
        return words.clock(time.monotonic() - now.began)
    if now.seconds_left is None:
        return ""
    return f"{words.clock(now.seconds_left)} {translated('left')}"


def prompt_field(layout: Layout, settings: Any) -> None:
    """The prompt of Generate and of Refine, under its label."""
    column = layout.column(align=True)
    column.label(text="Prompt")
    if hasattr(column, "textbox"):  # from Blender 5.2: several lines
        column.textbox(settings, "prompt")
    else:
        column.prop(settings, "prompt", text="")
