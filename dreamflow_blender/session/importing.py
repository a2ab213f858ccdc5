"""When and where results come into the scene: at once in the file they were begun in, never into another.

An import waits for Object Mode and for the end of a stroke, a transform or a render, whose undo steps it would
break. What is not imported by itself stays in the history, with its button.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy

from ..backlog.store import Entry, Store
from ..scene import preview, windows
from ..settings import addon

PLACE = ("height", "location", "collection", "asset", "refine")  # what `place` says
Selection = tuple[str, frozenset[str]]


@dataclass(frozen=True)
class _Begun:
    """In this Blender, since the file was opened."""

    scene: str


_begun: dict[str, _Begun] = {}  # by the job's id
_ready: list[str] = []  # ids of finished jobs, in order
_selection: Selection | None = None  # when Generate was pressed, or as we left it


def import_target(context: bpy.types.Context) -> dict[str, Any]:
    """Where the next result goes, as the settings say now. JSON."""
    settings = context.scene.dreamflow
    at_cursor = settings.place == "CURSOR"
    return {
        "height": settings.height,
        "location": list(context.scene.cursor.location) if at_cursor else [0.0, 0.0, 0.0],
        "collection": addon.setting("collection", "DreamFlow"),
        "asset": addon.setting("mark_asset", False),
    }


def register_started(job_id: str) -> None:
    """A job was begun in the file and scene that are open now."""
    global _selection
    _begun[job_id] = _Begun(bpy.context.scene.name)
    _selection = selection_of(bpy.context.view_layer)


def ready(job_id: str) -> None:
    """It is finished: import it as soon as nothing is in the way."""
    if job_id in _begun and addon.setting("auto_import", True):
        _ready.append(job_id)


def forget(job_id: str) -> None:
    _begun.pop(job_id, None)
    if job_id in _ready:
        _ready.remove(job_id)


def file_opened() -> None:
    """Nothing that was begun before belongs to this file."""
    _begun.clear()
    _ready.clear()


def import_blocker() -> str:
    """What a finished result waits for; "" where it can be imported now."""
    window = windows.first()
    if window is not None and len(window.modal_operators):
        return "the running tool to end"
    if bpy.app.is_job_running("RENDER") or bpy.app.is_job_running("OBJECT_BAKE"):
        return "the render to end"
    layer = window.view_layer if window is not None else bpy.context.view_layer
    active = layer.objects.active
    if active is not None and active.mode != "OBJECT":
        return "Object Mode"
    return ""


def pending() -> bool:
    return bool(_ready)


def due() -> bool:
    """Whether something can be brought in now."""
    return bool(_ready) and not import_blocker()


def import_due(store: Store) -> bool:
    """Bring in the first one that is ready. Raises RuntimeError with what the operator reports."""
    job_id = _ready.pop(0)
    entry = store.find(job_id)
    begun = _begun.get(job_id)
    if entry is None or begun is None:
        return False
    window = windows.first()
    over = {"window": window} if window is not None else {}
    if entry.job.kind == "refine":
        with bpy.context.temp_override(**over):
            bpy.ops.dreamflow.show_refined("EXEC_DEFAULT", True, job_id=job_id)
        return True
    with bpy.context.temp_override(**over):
        bpy.ops.dreamflow.import_result(
            "EXEC_DEFAULT",
            True,  # an undo step of its own, though Python calls it
            job_id=job_id,
            scene=begun.scene,
            select=selection_unchanged(bpy.context.view_layer),
        )
    return True


def selection_of(layer: bpy.types.ViewLayer) -> Selection:
    active = layer.objects.active
    return (active.name if active else "", frozenset(o.name for o in layer.objects.selected))


def selection_unchanged(layer: bpy.types.ViewLayer) -> bool:
    """Whether the user has selected nothing else since Generate, or since our last import."""
    return _selection is None or selection_of(layer) == _selection


def remember_selection(layer: bpy.types.ViewLayer) -> None:
    global _selection
    _selection = selection_of(layer)


def show_preview(entry: Entry, path: Path) -> None:
    """The growing mesh where the result will stand, in the scene that it was asked for."""
    begun = _begun.get(entry.job.id)
    scene = bpy.data.scenes.get(begun.scene) if begun else None
    if entry.job.kind == "refine":
        from ..scene import refined_preview  # which needs the jobs, and so this module

        if scene is not None:
            refined_preview.show(entry, path, scene)
        return
    arrays = preview.read(path) if scene is not None else None
    if arrays is not None:
        preview.show(
            arrays, float(entry.place.get("height", 0)), entry.place.get("location", (0, 0, 0)), scene
        )
