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
    """As a user who has made room: the default cube would stand where the result does."""
    bpy.context.preferences.view.show_splash = False
    cube = bpy.data.objects.get("Cube")
    if cube is not None:
        bpy.data.objects.remove(cube)
        bpy.ops.ed.undo_push(message="No cube")
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                area.spaces.active.show_region_ui = True
                area.spaces.active.region_3d.view_distance = 5.0
                area.spaces.active.shading.type = os.environ.get("DREAMFLOW_SHADING", "SOLID")


def tell() -> float:
    jobs = importlib.import_module(f"{MODULE}.jobs")
    preview = importlib.import_module(f"{MODULE}.preview")
    running = jobs.running
    told = {
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


bpy.app.timers.register(prepare, first_interval=0.2)
bpy.app.timers.register(tell, first_interval=1.0, persistent=True)
