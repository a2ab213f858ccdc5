"""Run by .ci/window inside the real Blender (-P): opens the sidebar, tells what goes on, does what it is told.

The file that DREAMFLOW_WATCH names holds one JSON object, renewed twice a second; window_drive.py waits for what it
says. What cannot be clicked at a fixed place comes the other way, as a list in DREAMFLOW_WATCH.do: a function of DEEDS
and its arguments.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpy
from mathutils import Vector

WATCH = Path(os.environ["DREAMFLOW_WATCH"])
ORDER = WATCH.with_suffix(".do")
EXTENSION = "bl_ext.user_default.dreamflow"
TOOK: dict[
    str, list[tuple[float, float]]
] = {}  # of the main thread: ms, and ms of the processor; by what was done

done = ""  # the last order, or why it failed


def ours(name: str) -> Any:
    """A module of the extension."""
    return importlib.import_module(f"{EXTENSION}.dreamflow_blender.{name}")


def prepare() -> None:
    """The sidebar is open, and the cursor where the result will be seen well."""
    for area in sidebars():
        area.spaces.active.show_region_ui = True
    stage()
    measure()


def stage(keep: bool = False) -> None:
    """A place for the result: the default cube would hide it."""
    if not keep and "Cube" in bpy.data.objects:
        bpy.data.meshes.remove(bpy.data.objects["Cube"].data)
    bpy.context.scene.cursor.location = (0.0, 0.0, 0.0)
    for area in sidebars():
        view = area.spaces.active.region_3d
        view.view_location, view.view_distance = (0.0, 0.0, 0.42), 3.6
    with bpy.context.temp_override(window=bpy.context.window_manager.windows[0]):
        bpy.ops.ed.undo_push(message="A place for the result")


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


def sidebar() -> list[int]:
    """Where it begins, from the left, and its width; pixels."""
    regions = [region for area in sidebars() for region in area.regions if region.type == "UI"]
    return [regions[0].x, regions[0].width] if regions else [0, 0]


# how long our timer holds the main thread


def measure() -> None:
    """Every tick is counted as what it did: nothing but listening, a new live mesh, a picture, the import."""
    jobs, importing, pictures = ours("session.jobs"), ours("session.importing"), ours("scene.pictures")
    if hasattr(jobs._tick, "measured"):
        return
    did: list[str] = []

    def named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **more: Any) -> Any:
            did.append(name)
            return function(*arguments, **more)

        return called

    importing.import_due = named("import", importing.import_due)
    importing.show_preview = named("live mesh", importing.show_preview)
    pictures.show = named("picture", pictures.show)
    tick = jobs._tick

    def timed() -> Any:
        did.clear()
        began, worked = time.perf_counter(), time.thread_time()
        answer = tick()
        took = 1000 * (time.perf_counter() - began), 1000 * (time.thread_time() - worked)
        TOOK.setdefault(did[0] if did else "listening", []).append(took)
        return answer

    timed.measured = True  # type: ignore[attr-defined]
    jobs._tick = timed


def figures() -> dict[str, str]:
    """By what was done: how often and how long."""
    said = {}
    for name, took in TOOK.items():
        walls, works = (sorted(times) for times in zip(*took, strict=True))
        middle = len(took) // 2
        said[name] = (
            f"{len(took)} times, median {walls[middle]:.1f} ms, longest {walls[-1]:.1f} ms"
            f" (of the processor {works[middle]:.1f} and {works[-1]:.1f} ms)"
        )
    return said


# what is told, and what is done


def tell() -> float:
    with contextlib.suppress(OSError, ValueError):
        order = json.loads(ORDER.read_text())
        ORDER.unlink()
        obey(*order)
    told: dict[str, Any] = {
        "tab": tab(),
        "enabled": EXTENSION in bpy.context.preferences.addons,
        "objects": sorted(o.name for o in bpy.data.objects),
        "sidebar": sidebar(),
        "boxes": {o.name: box(o) for o in bpy.context.scene.objects if o.type == "MESH"},
        "rendered": sorted(
            o.name for o in bpy.context.scene.objects if o.type == "MESH" and not o.hide_render
        ),
        "meshes": len(bpy.data.meshes),
        "selected": sorted(o.name for o in bpy.context.view_layer.objects.selected),
        "file": Path(bpy.data.filepath).name,
        "took": figures(),
        "done": done,
    }
    if told["enabled"]:
        told |= tell_of_jobs()
    temporary = WATCH.with_suffix(".part")
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(told))
        temporary.replace(WATCH)
    return 0.5


def tell_of_jobs() -> dict[str, Any]:
    jobs, preview, service, tasks = map(
        ours, ("session.jobs", "scene.preview", "session.service", "session.tasks")
    )
    running, store = jobs.running, jobs.get_store()
    trouble = jobs.problem.failed.message if jobs.problem else tasks.problem.message if tasks.problem else ""
    return {
        "set up": service.state().python is not None,
        "task": tasks.current.line if tasks.current else "",
        "task share": tasks.current.fraction if tasks.current else 0.0,
        "stage": running.stage if running else "",
        "share": running.share() if running else "",
        "asked": running.asked if running else "",
        "trouble": trouble,
        "preview": preview.shown() is not None,
        "history": [[entry.job.prompt, entry.state] for entry in store.history()],
        "waiting": len(store.waiting()),
        "to choose": [[entry.job.id, entry.candidate_of] for group in store.to_choose() for entry in group],
        "folders": sorted(path.name for path in ours("settings.addon").jobs_folder().glob("[!.]*")),
        "checks": len(ours("session.findings").checks),
        "models": len(ours("session.findings").models),
        "assets": sorted(o.name for o in bpy.data.objects if o.asset_data),
    }


def obey(deed: str, *arguments: Any) -> None:
    global done
    try:
        DEEDS[deed](*arguments)
        done = deed
    except Exception as error:  # noqa: BLE001  window_drive.py waits for the answer
        done = f"{deed}: {error}"


def settings(**values: Any) -> None:
    for name, value in values.items():
        setattr(bpy.context.scene.dreamflow, name, value)
    for area in sidebars():
        area.tag_redraw()


def shading(kind: str, colour: str) -> None:
    for area in sidebars():
        area.spaces.active.shading.type = kind
        area.spaces.active.shading.color_type = colour


def operator(name: str, values: dict[str, Any] | None = None) -> None:
    """One of ours, as if its button had been pressed in the viewport."""
    area = sidebars()[0]
    region = next(region for region in area.regions if region.type == "WINDOW")
    window = bpy.context.window_manager.windows[0]
    with bpy.context.temp_override(window=window, area=area, region=region):
        getattr(bpy.ops.dreamflow, name)("INVOKE_DEFAULT", True, **(values or {}))  # with its undo step


def search() -> None:
    """What F3 opens."""
    area = sidebars()[0]
    region = next(region for region in area.regions if region.type == "WINDOW")
    with bpy.context.temp_override(window=bpy.context.window_manager.windows[0], area=area, region=region):
        bpy.ops.wm.search_menu("INVOKE_DEFAULT")


def close_preferences() -> None:
    _, *more = bpy.context.window_manager.windows
    for window in more:
        with bpy.context.temp_override(window=window):
            bpy.ops.wm.window_close()


def scale(factor: float) -> None:
    bpy.context.preferences.view.ui_scale = factor


def language(name: str) -> None:
    """Of the interface, as "de_DE"."""
    view = bpy.context.preferences.view
    view.language = name
    view.use_translate_interface = view.use_translate_tooltips = True


def redraw() -> None:
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            area.tag_redraw()


def remove(name: str) -> None:
    for made in [o for o in bpy.data.objects if o.name.startswith(name)]:
        bpy.data.objects.remove(made)
    bpy.context.view_layer.update()


def box(obj: bpy.types.Object) -> list[list[float]]:
    """The corners with the smallest and the largest coordinates, in the world."""
    corners = [obj.matrix_world @ Vector(corner) for corner in obj.bound_box]
    return [[reach(corner[i] for corner in corners) for i in range(3)] for reach in (min, max)]


def cube() -> None:
    """The default one, and nothing else."""
    for made in list(bpy.data.objects):
        if made.type == "MESH":
            bpy.data.objects.remove(made)
    bpy.ops.mesh.primitive_cube_add(size=2)
    bpy.context.object.name = "Cube"


def without_uvs(name: str) -> None:
    """This object, selected, without UVs and under a modifier that makes faces."""
    made = bpy.data.objects[name]
    while made.data.uv_layers:
        made.data.uv_layers.remove(made.data.uv_layers[0])
    made.modifiers.new("Bevel", "BEVEL")
    for other in bpy.context.view_layer.objects:
        other.select_set(other == made)
    bpy.context.view_layer.objects.active = made
    settings = bpy.context.scene.dreamflow_refine
    settings.prompt, settings.model, settings.without_uvs = "a red mug", "BUILT_IN", "COPY"
    settings.prompt_of = str(made.session_uid)


def render(path: str) -> None:
    scene = bpy.context.scene
    scene.render.engine, scene.render.filepath = "BLENDER_WORKBENCH", path
    scene.render.resolution_x, scene.render.resolution_y = 480, 320
    bpy.ops.render.render(write_still=True)


DEEDS: dict[str, Callable[..., Any]] = {
    "scale": scale,
    "redraw": redraw,
    "language": language,
    "remove": remove,
    "open": lambda path: bpy.ops.wm.open_mainfile(filepath=path, load_ui=False),
    "save": lambda path: bpy.ops.wm.save_as_mainfile(filepath=path, copy=True),
    "disable": lambda: bpy.ops.preferences.addon_disable(module=EXTENSION),
    "enable": lambda: (bpy.ops.preferences.addon_enable(module=EXTENSION), measure()),
    "settings": lambda values: settings(**values),
    "shading": shading,
    "operator": operator,
    "stage": stage,
    "cube": cube,
    "search": search,
    "without uvs": without_uvs,
    "render": render,
    "export": lambda path: bpy.ops.export_scene.gltf(filepath=path),
    "close preferences": close_preferences,
    "quit": lambda: bpy.ops.wm.quit_blender(),
}

bpy.context.preferences.view.show_splash = False
bpy.app.timers.register(prepare, first_interval=0.5)
bpy.app.timers.register(tell, first_interval=1.0, persistent=True)
