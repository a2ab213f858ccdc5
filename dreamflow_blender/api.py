"""For pipelines: from bl_ext.user_default.dreamflow.dreamflow_blender import generate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bpy

from .backlog import work
from .contract.jobfolder import JobFolder
from .contract.protocol import Event
from .scene import assets, objects
from .session import service
from .settings import addon


def generate(
    prompt: str,
    *,
    out: str | Path | None = None,
    height: float = 1.0,
    location: Sequence[float] = (0.0, 0.0, 0.0),
    collection: str = "DreamFlow",
    mark_asset: bool = False,
    heard: Callable[[Event], None] = lambda event: None,
    **fields: Any,
) -> bpy.types.Object:
    """Make an object from a prompt, blocking, and return it.

    out       the job's folder (default: one of its own among the add-on's jobs)
    height    metres; 0 leaves it as it was made
    location  of its base's centre, metres
    heard     is called with every event: dreamflow_blender.contract.protocol
    fields    of protocol.Job: negative, seed, preset, prior, texturer, refiner, phi, lora, stages, device, threads,
              overrides

    Where `out` already holds this very job it is not run again, and is resumed if it was interrupted. Raises
    ValueError on a bad field, work.JobFailed, objects.CannotImport, and RuntimeError before Set up.
    """
    interpreter = service.python()
    if interpreter is None:
        raise RuntimeError("DreamFlow is not set up: press Set up in its preferences first.")
    if bpy.context.scene.library is not None:
        raise objects.CannotImport("This scene is linked from another file: switch to a scene of this file.")
    objects.check_height(height)
    folder = (
        Path(out).resolve() if out else work.new_folder(addon.jobs_folder(), prompt, fields.get("seed", 42))
    )
    job, how = work.in_folder(work.new_job(folder, prompt, **fields), folder)
    if how != "done":
        client = service.make_client(interpreter, Path(job.folder).parent)
        try:
            work.run_job(client, job, how, heard)
        finally:
            client.close()
    result = objects.read_result(Path(job.folder))
    obj = objects.add_result(result, prompt, height, location, collection, bpy.context.scene)
    if mark_asset:
        assets.mark(obj, prompt, JobFolder(job.folder).preview)
    return obj
