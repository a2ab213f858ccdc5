"""Everything that Blender has to know of us, in order, and taken back in the reverse one."""

from __future__ import annotations

import atexit
from typing import Any

import bpy

from . import (
    batch,
    jobs,
    ops_history,
    ops_import,
    ops_refine,
    ops_run,
    ops_setup,
    pictures,
    preferences,
    preview,
    props,
    refine_props,
    ui,
    ui_refine,
)

CLASSES = (
    *ops_run.CLASSES,
    *ops_import.CLASSES,
    *ops_history.CLASSES,
    *ops_setup.CLASSES,
    *ops_refine.CLASSES,
    *ui.CLASSES,
    *ui_refine.CLASSES,
)

_command: Any = None


def register() -> None:
    global _command
    for module in (props, refine_props, preferences, pictures):
        module.register()
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    bpy.types.STATUSBAR_HT_header.append(ui.draw_status)
    _command = bpy.utils.register_cli_command("dreamflow", batch.command)
    preview.register()
    jobs.register()
    atexit.register(jobs.unregister)  # a Blender that ends without a word to its add-ons


def unregister() -> None:
    """The worker first: nothing of it may be at work when the extension's files go."""
    global _command
    atexit.unregister(jobs.unregister)
    jobs.unregister()
    preview.unregister()
    if _command is not None:
        bpy.utils.unregister_cli_command(_command)
        _command = None
    bpy.types.STATUSBAR_HT_header.remove(ui.draw_status)
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
    for module in (pictures, preferences, refine_props, props):
        module.unregister()
