"""When and where results come into the scene: at once in the file they were begun in, never into another.

An import waits for Object Mode and for the end of a stroke, a transform or a render, whose undo steps it would
break. What is not imported by itself stays in the history, with its button.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as translated
from mathutils import Vector

from ..backlog.store import Entry, Store
from ..gather import identity
from ..scene import placing, preview, windows
from ..settings import addon

PLACE = ("height", "location", "collection", "asset", "refine")  # what `place` says
Selection = tuple[int, frozenset[int]]  # session_uid of the active object, and of all that are selected


# The session_uid of the scene, which no renaming changes, by the id of a job that was begun since the file was opened
_begun: dict[str, int] = {}
_ready: list[str] = []  # ids of finished jobs, in order
_selection: Selection | None = None  # when Generate was pressed, or as we left it


def import_target(context: bpy.types.Context, open_entries: Sequence[Entry] = ()) -> dict[str, Any]:
    """Where the next result goes, as the settings say now. JSON.

    open_entries  of the jobs whose results are still to come: their places are taken
    """
    settings = context.scene.dreamflow
    location = [0.0, 0.0, 0.0]
    if settings.place == "CURSOR":
        targets = [entry.place for entry in open_entries if "location" in entry.place]
        taken = [(Vector(t["location"]), float(t.get("height", 1.0))) for t in targets]
        location = list(placing.free_place(context.scene, settings.height, taken))
    return {
        "height": settings.height,
        "location": location,
        "collection": addon.setting("collection", "DreamFlow"),
        "asset": addon.setting("mark_asset", False),
    }


def register_started(job_id: str) -> None:
    """A job was begun in the file and scene that are open now."""
    global _selection
    _begun[job_id] = bpy.context.scene.session_uid
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
    identity.file_opened()
    _begun.clear()
    _ready.clear()


def import_blocker() -> str:
    """What a finished result waits for; "" where it can be imported now."""
    window = windows.first()
    if window is not None and any(blocks(operator) for operator in window.modal_operators):
        return "the running tool to end"
    if rendering():
        return "the render to end"
    layer = window.view_layer if window is not None else bpy.context.view_layer
    active = layer.objects.active
    if active is not None and active.mode != "OBJECT":
        return "Object Mode"
    return ""


def waiting_line() -> str:
    """import_blocker as a sentence for the panel; "" where nothing is in the way."""
    blocker = import_blocker()
    return f"{translated('Finished. Will be imported after')}: {translated(blocker)}" if blocker else ""


def rendering() -> bool:
    return bool(bpy.app.is_job_running("RENDER") or bpy.app.is_job_running("OBJECT_BAKE"))


def blocks(operator: Any) -> bool:
    """Whether an undo step in the middle of this modal operator would break its own.

    Transforms and strokes hold the mouse; Blender's own tools end with an undo step. An add-on that only watches
    events, and may run for as long as Blender does, is none of these.
    """
    options = operator.bl_options
    if options & {"BLOCKING", "GRAB_CURSOR", "GRAB_CURSOR_X", "GRAB_CURSOR_Y"}:
        return True
    cls = getattr(bpy.types, operator.bl_idname, None)
    of_an_add_on = cls is not None and cls.__module__ != "bpy.types"
    return "UNDO" in options and not of_an_add_on


def pending() -> bool:
    return bool(_ready)


def due() -> bool:
    """Whether something can be imported now."""
    return bool(_ready) and not import_blocker()


def import_due(store: Store) -> bool:
    """Bring in the first one that is ready. Raises RuntimeError with what the operator reports."""
    job_id = _ready.pop(0)
    entry = store.find(job_id)
    if entry is None or job_id not in _begun:
        return False
    if _scene(job_id) is None and entry.job.kind != "refine":
        raise RuntimeError(
            translated(
                "The scene that “{prompt}” was made for has been deleted: import it from History."
            ).format(prompt=entry.job.prompt)
        )
    window = windows.first()
    with bpy.context.temp_override(**({"window": window} if window is not None else {})):
        own = "EXEC_DEFAULT", True  # an undo step of its own, though Python calls it
        if entry.job.kind == "refine":
            bpy.ops.dreamflow.show_refined(*own, job_id=job_id)
        else:
            # has the user selected nothing else since Generate, or since our last import?
            select = _selection is None or selection_of(bpy.context.view_layer) == _selection
            bpy.ops.dreamflow.import_result(*own, job_id=job_id, scene=str(_begun[job_id]), select=select)
    return True


def _scene(job_id: str) -> bpy.types.Scene | None:
    """The one that this job was begun in; None where it was begun elsewhere, and where the scene is gone."""
    return find_scene(str(_begun.get(job_id)))


def find_scene(uid: str) -> bpy.types.Scene | None:
    """By its session_uid; None where it is gone."""
    return next((scene for scene in bpy.data.scenes if str(scene.session_uid) == uid), None)


def selection_of(layer: bpy.types.ViewLayer) -> Selection:
    active = layer.objects.active
    return (active.session_uid if active else 0, frozenset(o.session_uid for o in layer.objects.selected))


def remember_selection(layer: bpy.types.ViewLayer) -> None:
    global _selection
    _selection = selection_of(layer)


def show_preview(entry: Entry, path: Path) -> None:
    """The growing mesh where the result will stand, in the scene that it was asked for."""
    scene = _scene(entry.job.id)
    if entry.job.kind == "refine":
        from ..scene import refined_preview  # which needs the jobs, and so this module

        if scene is not None:
            refined_preview.show(entry, path, scene)
        return
    arrays = preview.read(path) if scene is not None else None
    if arrays is not None:
        height, location = float(entry.place.get("height", 0)), entry.place.get("location", (0, 0, 0))
        preview.show(arrays, height, location, scene, entry.job.id)
