"""Small pieces that the panels are drawn from. They draw, and decide nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import blf
import bpy
from bpy.app.translations import pgettext_iface as translated

from ..backlog.running import Running
from ..contract import words
from ..settings import addon
from ..translations import OWN

Layout = Any  # bpy.types.UILayout, or a fake one in tests

STAGE_NAMES = {
    "": "Starting up",
    "fit": "Learning the colours",
    "nerf": "Outline",
    "geometry": "Shape",
    "texture": "Texture",
    "refine": "Refine",
    "deliver": "Finishing",
}


FONT = 11  # pixels of Blender's own letters on a screen without scaling
MARGINS = 64.0  # pixels: the tabs of the sidebar, a panel's edges, a box's edges and a label's own
ICON, UNIT = 20.0, 20.0
DIALOG = 340  # pixels: how wide our dialogs are, on a screen without scaling
_dialog: float | None = None  # the width of the dialog that is being drawn


@contextmanager
def in_dialog(width: float) -> Iterator[None]:
    """Its `context.region` is the one below the pointer: the dialog has a width of its own."""
    global _dialog
    _dialog = width
    try:
        yield
    finally:
        _dialog = None


def measure(text: str) -> float:
    """Pixels of a line in Blender's letters, on a screen without scaling."""
    blf.size(0, FONT)
    return float(blf.dimensions(0, text)[0])


def room(context: bpy.types.Context, less: float = 0.0) -> float:
    """Pixels for a line of text in a box of this region; `less` is what stands beside it."""
    return max(60.0, _width(context) - MARGINS - less)


def columns(context: bpy.types.Context) -> int:
    """How many characters of a name fit into a line of this region."""
    return max(12, int(room(context) / 6.4))


def picture_size(context: bpy.types.Context) -> float:
    """As wide as a box of this region has room for and no larger than is set, in units of a button's height."""
    return min(max((_width(context) - 60) / UNIT, 5.0), float(addon.setting("picture_size", 10.0)))


def _width(context: bpy.types.Context) -> float:
    """Of the dialog or the region, in pixels of a screen without scaling."""
    if _dialog is not None:
        return _dialog
    region = getattr(context, "region", None)
    scale = context.preferences.system.ui_scale or 1.0  # 0 without a window
    return float(region.width) / scale if region is not None else 260.0


def paragraph(
    layout: Layout, context: bpy.types.Context, text: str, icon: str = "NONE", less: float = 0.0
) -> None:
    """Text in as many lines as it needs."""
    column = layout.column(align=True)
    column.scale_y = 0.8
    width = room(context, less + (ICON if icon != "NONE" else 0.0))
    for number, line in enumerate(words.wrap(translated(text), width, measure)):
        if icon == "NONE":
            column.label(text=line, translate=False)
        else:
            column.label(text=line, translate=False, icon=icon if number == 0 else "BLANK1")


def button_row(layout: Layout, context: bpy.types.Context, *texts: str, icons: int = 0) -> Layout:
    """A row for buttons with these texts and icons, and `icons` without text; a column where a text would be cut."""
    side = icons * UNIT
    fit = all(fits(context, translated(text), len(texts), side) for text in texts)
    return layout.row(align=True) if fit else layout.column(align=True)


def fits(context: bpy.types.Context, text: str, beside: int = 1, less: float = 0.0) -> bool:
    """Whether a button's text is whole, with an icon, as one of `beside` in a row; `less` pixels are taken."""
    return measure(text) + ICON + 10 <= (room(context) - less) / beside


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


def stage_line(now: Running) -> str:
    """ "Texture  3 of 4" """
    shown = [stage for stage in now.stages if stage != "deliver"]
    name = translated(STAGE_NAMES.get(now.stage, now.stage), OWN)
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
    left = now.whole_seconds_left()
    return translated("{time} left").format(time=words.clock(left)) if left is not None else ""
