"""Run by .ci/window inside the real Blender (-P): opens the sidebar, and tells a file what goes on.

The file, named by DREAMFLOW_WATCH, holds one JSON object, renewed twice a second; the shell waits for what it says.
"""

import contextlib
import importlib
import json
import os
from pathlib import Path

import bpy

WATCH = Path(os.environ["DREAMFLOW_WATCH"])
MODULE = "bl_ext.user_default.dreamflow.dreamflow_blender"


def prepare() -> None:
    """The sidebar is open, and the cursor beside the default cube, in which the result would be hidden."""
    bpy.context.scene.cursor.location = (1.6, -1.6, -1.0)
    for area in sidebars():
        space = area.spaces.active
        space.show_region_ui = True
        space.shading.type = os.environ.get("DREAMFLOW_SHADING", "SOLID")


def sidebars() -> list[bpy.types.Area]:
    windows = bpy.context.window_manager.windows
    return [area for window in windows for area in window.screen.areas if area.type == "VIEW_3D"]


def tab() -> str:
    """The sidebar's."""
    for area in sidebars():
        for region in area.regions:
            if region.type == "UI":
                return str(region.active_panel_category)
    return ""


def tell() -> float:
    jobs = importlib.import_module(f"{MODULE}.jobs")
    preview = importlib.import_module(f"{MODULE}.preview")
    running = jobs.running
    told = {
        "tab": tab(),
        "stage": running.stage if running else "",
        "share": running.share() if running else "",
        "paused": bool(running and running.paused),
        "trouble": jobs.trouble.failed.message if jobs.trouble else "",
        "objects": sorted(o.name for o in bpy.data.objects),
        "preview": preview.find() is not None,
        "history": [entry.state for entry in jobs.need_store().history()],
        "waiting": len(jobs.need_store().waiting()),
    }
    temporary = WATCH.with_suffix(".part")
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(told))
        temporary.replace(WATCH)
    return 0.5


bpy.context.preferences.view.show_splash = False
bpy.app.timers.register(prepare, first_interval=0.2)
bpy.app.timers.register(tell, first_interval=1.0, persistent=True)
