"""From an object and its settings to a refine job in the queue."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import bpy

from ..backlog import work
from ..backlog.entries import PLACE
from ..contract import meshfile
from ..contract import protocol as p
from ..gather import bake
from ..gather.bake import Baked
from ..gather.gather import gather, needs_bake
from ..gather.material import CannotRefine
from ..gather.object import front_of
from ..settings import addon
from ..settings import refine as refine_settings
from ..settings.generate import read_extra
from . import jobs, models, tasks

OLD = 86_400.0  # seconds: no bake takes so long


def make(
    context: bpy.types.Context,
    made: bpy.types.Object,
    settings: Any,
    front: float,
    baked: Baked | None = None,
) -> tuple[p.Job, dict[str, Any]]:
    """The job, with its object written to a file, and the entry's place.

    Raises ValueError (CannotRefine is one) and OSError.
    """
    model = models.choose(settings)
    gathered = gather(context, made, settings.faces, settings.keep, baked)
    number = work.new_id()
    path = objects_folder() / f"{number}.npz"
    folder = work.new_folder(addon.jobs_folder(), settings.prompt, settings.seed)
    job = work.new_job(
        folder,
        settings.prompt,
        settings.negative,
        kind="refine",
        mesh=str(path),
        seed=settings.seed,
        preset=settings.preset,
        stages=("texture", "refine") if settings.anew else ("refine",),
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
        **model,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(meshfile.to_bytes(gathered.arrays))
    temporary.replace(path)
    return job, {PLACE: {**gathered.place, "notes": list(gathered.notes)}}


def begin(context: bpy.types.Context, made: bpy.types.Object, settings: Any, add: Callable[..., None]) -> str:
    """Put it in the queue by `add(job, place)`; where colours must be baked, as soon as they are.

    What happens now, for a person. Raises ValueError and OSError.
    """
    settings = refine_settings.frozen(
        settings
    )  # as they are now, whatever is changed while colours are baked
    models.choose(settings)
    front = front_of(made, settings.front, context)
    slots = needs_bake(made)
    if not slots:
        job, place = make(context, made, settings, front)
        add(job, place)
        notes = place[PLACE]["notes"]
        return " ".join(notes)
    if tasks.current is not None:
        raise CannotRefine(f"Its colours have to be baked first: wait until “{tasks.current.title}” is done.")
    folder = bake_folder()
    bake.write_copy(made, folder, context.scene.frame_current, slots)
    uid = made.session_uid

    def then(said: list[Any]) -> None:
        _go_on(uid, settings, front, folder, add)

    tasks.begin("bake", "Baking its colours", bake.bake(folder, bake.command(folder)), then)
    jobs.wake()
    names = ", ".join(sorted({made.material_slots[n].material.name for n in slots}))
    return f"The colours of {names} are baked first."


def _go_on(uid: int, settings: Any, front: float, folder: Path, add: Callable[..., None]) -> None:
    """On the main thread, when the bake is done."""
    try:
        made = next((o for o in bpy.data.objects if o.session_uid == uid), None)
        if made is None or made.name not in bpy.context.view_layer.objects:
            raise CannotRefine("The object is not there any more.")
        job, place = make(bpy.context, made, settings, front, bake.read(folder))
        add(job, place)
    except (ValueError, OSError) as error:
        tasks.trouble = tasks.Trouble("bake", str(error), "Press Refine again.", "")
    finally:
        bake.throw_away(folder)


def bake_now(made: bpy.types.Object, frame: int) -> Baked | None:
    """Blocking, for scripts; None where nothing has to be baked. Raises ValueError, OSError and SetupError."""
    slots = needs_bake(made)
    if not slots:
        return None
    folder = bake_folder()
    try:
        bake.write_copy(made, folder, frame, slots)
        for _ in bake.bake(folder, bake.command(folder))(bake.Stop()):
            pass
        return bake.read(folder)
    finally:
        bake.throw_away(folder)


def objects_folder() -> Path:
    """What the jobs begin with; a job at work has a copy of its own."""
    return addon.user_folder() / "objects"


def bake_folder() -> Path:
    return addon.user_folder() / "bake" / work.new_id()


def tidy() -> None:
    """Away with the objects that no job names any more, and with what killed Blenders were baking."""
    wanted = {Path(entry.job.mesh).name for entry in jobs.need_store().entries() if entry.job.mesh}
    with suppress(OSError):
        for path in objects_folder().iterdir():
            if path.suffix == ".npz" and path.name not in wanted:
                path.unlink()
    with suppress(OSError):
        for path in (addon.user_folder() / "bake").iterdir():
            if time.time() - path.stat().st_mtime > OLD:
                bake.throw_away(path)
