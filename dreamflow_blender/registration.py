"""Everything that Blender has to know of us, in order, and taken back in the reverse one."""

from __future__ import annotations

import atexit
from typing import Any

import bpy

from . import batch, preferences, translations
from .ops import candidates as ops_candidates
from .ops import game as ops_game
from .ops import generate as ops_generate
from .ops import history as ops_history
from .ops import importing as ops_importing
from .ops import loras as ops_loras
from .ops import refine as ops_refine
from .ops import setup as ops_setup
from .scene import pictures, preview
from .session import jobs
from .settings import generate as generate_settings
from .settings import history as history_settings
from .settings import refine as refine_settings
from .ui import history as ui_history
from .ui import loras as ui_loras
from .ui import menus as ui_menus
from .ui import prompt as ui_prompt
from .ui import refine as ui_refine
from .ui import sidebar

CLASSES = (
    *ops_generate.CLASSES,
    *ops_candidates.CLASSES,
    *ops_game.CLASSES,
    *ops_importing.CLASSES,
    *ops_loras.CLASSES,
    *ops_history.CLASSES,
    *ops_setup.CLASSES,
    *ops_refine.CLASSES,
    *ui_prompt.CLASSES,
    *ui_loras.CLASSES,
    *ui_menus.CLASSES,
    *sidebar.CLASSES,
    *ui_history.CLASSES,
    *ui_refine.CLASSES,
)

_command: Any = None


def register() -> None:
    global _command
    for module in (translations, generate_settings, refine_settings, history_settings, preferences, pictures):
        module.register()
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    bpy.types.STATUSBAR_HT_header.append(sidebar.draw_status)
    ui_menus.register()
    _command = bpy.utils.register_cli_command("dreamflow", batch.command)
    preview.register()
    jobs.register()
    atexit.register(jobs.unregister)  # Blender may exit without unregistering its add-ons


def unregister() -> None:
    """The worker ends first: it must not run when the extension's files are removed."""
    global _command
    atexit.unregister(jobs.unregister)
    jobs.unregister()
    preview.unregister()
    if _command is not None:
        bpy.utils.unregister_cli_command(_command)
        _command = None
    ui_menus.unregister()
    bpy.types.STATUSBAR_HT_header.remove(sidebar.draw_status)
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
    for module in (pictures, preferences, history_settings, refine_settings, generate_settings, translations):
        module.unregister()
