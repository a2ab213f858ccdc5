"""From an object and its settings to a refine job in the queue."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bpy

from ..backlog import work
from ..backlog.entries import PLACE
from ..client.background import Stop
from ..contract import meshfile
from ..contract import protocol as p
from ..contract.jobfolder import JobFolder
from ..gather import bake
from ..gather.bake import Baked
from ..gather.gather import gather, needs_bake
from ..gather.material import CannotRefine
from ..gather.object import cannot_refine_reason, front_of
from ..gather.unwrap import can_unwrap, modifiers_make_faces, unwrap
from ..scene import decide
from ..settings import addon
from ..settings import refine as refine_settings
from ..settings.generate import read_extra
from . import jobs, models, tasks

OLD = 86_400.0  # seconds: no bake takes so long


def make(
    context: bpy.types.Context,
    obj: bpy.types.Object,
    settings: SimpleNamespace,
    front: float,
    baked: Baked | None = None,
) -> tuple[p.Job, dict[str, Any]]:
    """The job, with its object written to a file, and the entry's place; settings are frozen ones.

    Raises ValueError (CannotRefine is one) and OSError.
    """
    model = models.choose(settings)
    gathered = gather(context, obj, settings.faces, settings.keep, baked)
    folder = work.new_folder(addon.jobs_folder(), settings.prompt, settings.seed)
    path = JobFolder(folder).object_npz
    job = work.new_job(
        folder,
        settings.prompt,
        settings.negative,
        kind="refine",
        mesh=str(path),
        seed=settings.seed,
        preset=settings.preset,
        stages=("texture", "refine") if settings.from_scratch else ("refine",),
        strength=round(settings.strength, 4),
        keep_uvs=settings.keep_uvs,
        texture_size=0 if settings.texture_size == "OWN" else int(settings.texture_size),
        front=round(front, 3),
        overrides=read_extra(settings.extra),
        device=addon.setting("device", "auto"),
        threads=addon.setting("threads", 0),
        checkpoint_seconds=float(addon.setting("checkpoint_seconds", 60.0)),
        snapshot_seconds=4.0,
        snapshot_faces=5_000 if addon.setting("live_mesh", True) else 0,
        **settings.beside,
        **model,
    )
    jobs.write_mesh(path, meshfile.to_bytes(gathered.arrays))
    return job, {PLACE: {**gathered.place, "notes": list(gathered.notes)}}


def must_choose(obj: bpy.types.Object | None) -> bool:
    """Whether the result of this object would be a copy because it has no UVs: the dialog asks first."""
    return obj is not None and obj.type == "MESH" and can_unwrap(obj) and modifiers_make_faces(obj)


def prepare_uvs(context: bpy.types.Context, obj: bpy.types.Object, settings: Any) -> None:
    """Unwrap the object where that was chosen: an undo step of its own. Raises CannotRefine."""
    if settings.without_uvs == "UNWRAP" and must_choose(obj):
        unwrap(obj, context)
        bpy.ops.ed.undo_push(message="Unwrap for Refine")


def chosen(context: bpy.types.Context) -> list[bpy.types.Object]:
    """The objects that Refine means: the active one, and the other selected ones that can be refined with it."""
    others = context.selected_objects if context.mode == "OBJECT" else []
    able = [
        obj
        for obj in others
        if obj != context.object and not cannot_refine_reason(obj) and decide.state_of(obj) is None
    ]
    return [context.object, *sorted(able, key=lambda obj: obj.name)]


def begin_all(context: bpy.types.Context, settings: Any) -> str:
    """A job for each of `chosen`; what happens now, for a person. Raises what `begin` does, for the first object."""
    said = []
    for number, obj in enumerate(chosen(context)):
        try:
            said.append(begin(context, obj, settings))
        except (ValueError, OSError) as error:
            if number == 0:
                raise
            said.append(f"{obj.name}: {error}")
    return " ".join(filter(None, said))


def begin(context: bpy.types.Context, obj: bpy.types.Object, settings: Any) -> str:
    """Put it in the queue; where colours must be baked, as soon as they are.

    What happens now, for a person. Raises ValueError and OSError.
    """
    settings = refine_settings.frozen(settings)  # they may be changed while colours are baked
    models.choose(settings)
    prepare_uvs(context, obj, settings)
    front = front_of(obj, settings.front, context)
    slots = needs_bake(obj)
    if not slots:
        job, place = make(context, obj, settings, front)
        jobs.add(job, place)
        notes = place[PLACE]["notes"]
        return " ".join(notes)
    if tasks.current is not None:
        raise CannotRefine(
            f"Its colours must be baked first: wait until “{tasks.current.title}” has finished."
        )
    folder = bake_folder()
    bake.write_copy(obj, folder, context.scene.frame_current, slots)
    uid = obj.session_uid

    def then(said: list[Any]) -> None:
        _after_bake(uid, settings, front, folder)

    tasks.begin("bake", "Baking colours", bake.bake(folder, bake.command(folder)), then)
    jobs.wake()
    names = ", ".join(sorted({obj.material_slots[n].material.name for n in slots}))
    return f"The colours of {names} are baked first."


def _after_bake(uid: int, settings: SimpleNamespace, front: float, folder: Path) -> None:
    """On the main thread, when the bake is done."""
    try:
        obj = next((o for o in bpy.data.objects if o.session_uid == uid), None)
        if obj is None or obj.name not in bpy.context.view_layer.objects:
            raise CannotRefine("The object has been deleted.")
        job, place = make(bpy.context, obj, settings, front, bake.read(folder))
        jobs.add(job, place)
    except (ValueError, OSError) as error:
        tasks.problem = tasks.Problem("bake", str(error), "Press Refine again.", "")
    finally:
        bake.throw_away(folder)


def bake_now(obj: bpy.types.Object, frame: int) -> Baked | None:
    """Blocking, for scripts; None where nothing has to be baked. Raises ValueError, OSError and SetupError."""
    slots = needs_bake(obj)
    if not slots:
        return None
    folder = bake_folder()
    try:
        bake.write_copy(obj, folder, frame, slots)
        for _ in bake.bake(folder, bake.command(folder))(Stop()):
            pass
        return bake.read(folder)
    finally:
        bake.throw_away(folder)


def bake_folder() -> Path:
    return addon.user_folder() / "bake" / work.new_id()


def tidy() -> None:
    """Delete what Blenders that crashed were baking."""
    with suppress(OSError):
        for path in (addon.user_folder() / "bake").iterdir():
            if time.time() - path.stat().st_mtime > OLD:
                bake.throw_away(path)
