"""Where Blender's menus lead to us: Add > Mesh, Object, the Asset Browser; search (F3) finds what stands in them."""

# ruff: noqa: N801  Blender's own naming

from __future__ import annotations

from typing import Any

import bpy


class DREAMFLOW_MT_object(bpy.types.Menu):
    bl_label = "DreamFlow"
    bl_description = "Refine this object, decide on a refined texture, or keep the object as an asset"

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.operator_context = "INVOKE_DEFAULT"
        layout.operator("dreamflow.refine", icon="BRUSH_DATA")
        layout.separator()
        for name, icon in (
            ("before_after", "ARROW_LEFTRIGHT"),
            ("apply_refined", "CHECKMARK"),
            ("discard_refined", "X"),
        ):
            layout.operator(f"dreamflow.{name}", icon=icon)
        layout.separator()
        layout.operator("dreamflow.mark_asset", icon="ASSET_MANAGER")
        layout.operator("dreamflow.save_textures", icon="FILE_IMAGE")
        layout.operator("dreamflow.deliver", icon="MOD_DECIM")
        layout.separator()
        layout.menu("DREAMFLOW_MT_jobs")
        layout.menu("DREAMFLOW_MT_setup")


class DREAMFLOW_MT_jobs(bpy.types.Menu):
    bl_label = "Jobs"
    bl_description = "The running job and the queue"

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.operator_context = "INVOKE_DEFAULT"
        for name in JOBS:
            layout.operator(f"dreamflow.{name}")


class DREAMFLOW_MT_setup(bpy.types.Menu):
    bl_label = "Set-up"
    bl_description = "DreamFlow's installation, models and documentation"

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.operator_context = "INVOKE_DEFAULT"
        for name in SETUP:
            layout.operator(f"dreamflow.{name}")


JOBS = (
    "generate",
    "pause_job",
    "finish_job",
    "discard_job",
    "import_now",
    "resume_queue",
    "roll_seed",
    "dismiss",
)
SETUP = (
    "set_up", "cancel_task", "check_setup", "list_models", "find_models", "remove_setup", "open_preferences",
    "open_log", "copy_report", "open_documentation", "open_credits",
)  # fmt: skip


def draw_add(self: Any, context: bpy.types.Context) -> None:
    """Add > Mesh."""
    self.layout.separator()
    self.layout.operator_context = "INVOKE_DEFAULT"
    self.layout.operator("dreamflow.add_object", text="DreamFlow", icon="SHADERFX")


def draw_object(self: Any, context: bpy.types.Context) -> None:
    """Object, and the context menu of the Asset Browser."""
    self.layout.separator()
    self.layout.menu("DREAMFLOW_MT_object")


PLACES = (
    ("VIEW3D_MT_mesh_add", draw_add),
    ("VIEW3D_MT_object", draw_object),
    ("VIEW3D_MT_object_context_menu", draw_object),
    ("ASSETBROWSER_MT_context_menu", draw_object),
)
CLASSES = (DREAMFLOW_MT_object, DREAMFLOW_MT_jobs, DREAMFLOW_MT_setup)
_keys: list[tuple[Any, Any]] = []


def register() -> None:
    """Into Blender's menus, and one keymap entry without a key: Preferences > Keymap > 3D View gives it one."""
    for name, draw in PLACES:
        if hasattr(bpy.types, name):
            getattr(bpy.types, name).append(draw)
    configuration = bpy.context.window_manager.keyconfigs.addon
    if configuration is not None:  # there is none without a window
        keymap = configuration.keymaps.new(name="3D View", space_type="VIEW_3D")
        _keys.append((keymap, keymap.keymap_items.new("dreamflow.add_object", "NONE", "PRESS")))


def unregister() -> None:
    for keymap, item in _keys:
        keymap.keymap_items.remove(item)
    _keys.clear()
    for name, draw in PLACES:
        if hasattr(bpy.types, name):
            getattr(bpy.types, name).remove(draw)
