"""Blender's windows, from a timer, which has none of its own."""

from __future__ import annotations

import bpy


def first() -> bpy.types.Window | None:
    """The one that the user began with; None without a screen."""
    windows = bpy.context.window_manager.windows
    return windows[0] if windows else None


def redraw_views() -> None:
    """The viewports: what is drawn into them does not ask for it."""
    manager = bpy.context.window_manager  # None while Blender exits
    for window in manager.windows if manager is not None else ():
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                area.tag_redraw()


def redraw() -> None:
    """The sidebars and the status bar; the scene itself redraws where it has changed."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in ("VIEW_3D", "PREFERENCES"):
                for region in area.regions:
                    if region.type in ("UI", "WINDOW") and (area.type, region.type) != ("VIEW_3D", "WINDOW"):
                        region.tag_redraw()
        if not len(window.modal_operators):  # else that operator's own text is there
            # without a window, as in a timer that has opened a file, Blender would crash here
            with bpy.context.temp_override(window=window):
                window.workspace.status_text_set(None)
