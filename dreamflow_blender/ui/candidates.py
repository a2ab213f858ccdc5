"""Candidates in the sidebar: each from four sides, with a button to go on with it. It draws and decides nothing."""

from __future__ import annotations

import bpy
from bpy.app.translations import pgettext_iface as translated

from ..contract import words
from ..scene import pictures
from ..session import jobs
from . import parts as ui_parts
from .parts import Layout


def draw_candidates(layout: Layout, context: bpy.types.Context) -> None:
    """The newest group that waits to be chosen from."""
    for group in jobs.get_store().to_choose()[:1]:
        box = layout.box()
        head = box.row()
        room = ui_parts.columns(context)
        head.label(text=words.shorten(group[0].job.prompt, room - 4), translate=False)
        head.operator("dreamflow.leave_candidates", text="", icon="X", emboss=False).group = group[
            0
        ].candidate_of
        ui_parts.paragraph(box, context, "Early candidates. Choose one or more to finish.")
        grid = box.grid_flow(row_major=True, columns=2, even_columns=True, align=True)
        size = ui_parts.picture_size(context) / 2
        for entry in group:
            cell = grid.column(align=True)
            icon = pictures.want(entry.job.id, entry.thumbnail)
            cell.template_icon(icon_value=icon, scale=max(size, 2.0))
            text = f"{translated('Seed')} {entry.job.seed}"
            row = cell.row(align=True)
            row.operator("dreamflow.choose_candidate", text=text, translate=False).job_id = entry.job.id
            row.operator("dreamflow.more_like_this", text="", icon="DUPLICATE").job_id = entry.job.id
        if pictures.wanted():
            jobs.wake()
