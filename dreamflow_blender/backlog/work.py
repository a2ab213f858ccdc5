"""From words to a Job, its folder, and its run from beginning to end. No `bpy`: the button and batch share it."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..client.client import Client
from ..contract.files import is_file, read_json
from ..contract.jobfolder import JobFolder, slug
from ..contract.protocol import BadMessage, Cancelled, Event, Failed, Finished, Job, clean_text

BUILT_IN = "mini"  # the prior that needs no download
# names of `python -m backend models`
STABLE_DIFFUSION, SDXL, SDXL_REFINER, MVDREAM = "sd", "sdxl", "sdxl-refiner", "mvdream"
STATED = {  # title, gigabytes and licence, as backend/weights/catalogue.py has them
    SDXL_REFINER: ("Stable Diffusion XL refiner 1.0", 6.1, "CreativeML Open RAIL++-M"),
    STABLE_DIFFUSION: ("Stable Diffusion 2.1-base", 2.6, "CreativeML Open RAIL++-M"),
    SDXL: ("Stable Diffusion XL base 1.0", 6.9, "CreativeML Open RAIL++-M"),
    MVDREAM: ("MVDream for Stable Diffusion 2.1", 2.6, "CreativeML Open RAIL-M"),
}


class JobFailed(Exception):
    """A job that ended without a result: what happened, what to do, and the details for a report."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(f"{failed.message} {failed.todo}".strip())
        self.failed = failed


class JobCancelled(Exception):
    """Somebody else stopped it."""


def new_folder(root: Path, prompt: str, seed: int) -> Path:
    """A folder for one job alone; the backend makes it."""
    return root / f"{slug(prompt)}-{seed}-{new_id()[:5]}"


def new_id() -> str:
    return uuid.uuid4().hex[:12]


def new_job(folder: Path, prompt: str, negative: str = "", **fields: Any) -> Job:
    """A job in this folder. Raises BadMessage (a ValueError) on a bad field."""
    fields = {"kind": "generate", "prior": BUILT_IN, **fields}
    return Job(
        id=new_id(), prompt=clean_text(prompt), negative=clean_text(negative), folder=str(folder), **fields
    )


def read_job(folder: Path) -> Job | None:
    """The job in this folder; None where there is none that can be read."""
    try:
        return JobFolder(folder).read_job()
    except (OSError, BadMessage):
        return None


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings in job.json, by stage; empty where it has none."""
    settings = (read_json(JobFolder(folder).job) or {}).get("settings")
    return settings if isinstance(settings, dict) else {}


def has_result(folder: Path) -> bool:
    files = JobFolder(folder)
    return is_file(files.mesh_npz) and is_file(files.albedo)


def can_resume(folder: Path) -> bool:
    return is_file(JobFolder(folder).job) and not has_result(folder)


def in_folder(job: Job, folder: Path) -> tuple[Job, str]:
    """This job in `folder` (or one beside it if another job is there), and "done", "resume" or "new"."""
    for attempt in range(1, 1000):
        place = folder if attempt == 1 else folder.with_name(f"{folder.name}-{attempt}")
        there = read_job(place)
        if there is None and (not place.exists() or not any(place.iterdir())):
            return replace(job, folder=str(place)), "new"
        if there is not None and there.is_same(job):
            return there, "done" if has_result(place) else "resume"
    raise OSError(f"{folder} and a thousand folders beside it are taken")


def run_job(client: Client, job: Job, how: str, heard: Callable[[Event], None]) -> Finished:
    """Run a job to its end ("new", or "resume": from its newest checkpoint), telling `heard` every event.

    Raises JobFailed, and JobCancelled.
    """
    if how == "resume":
        client.resume(job.folder)
    else:
        client.submit(job)
    for event in client.events():
        heard(event)
        if isinstance(event, Finished):
            return event
        if isinstance(event, Failed):
            raise JobFailed(event)
        if isinstance(event, Cancelled):
            raise JobCancelled
    raise JobFailed(Failed("worker", "The backend ended without a word.", "Try again."))


def discard(folder: Path, root: Path) -> None:
    """Delete a job's folder, but only one below `root` with a job or its mesh in it. Raises OSError."""
    inside = root.resolve() in folder.resolve().parents and not folder.is_symlink()
    files = JobFolder(folder)
    if inside and any(is_file(path) for path in (files.job, files.log, files.object_npz)):
        shutil.rmtree(folder)


def discard_soon(folder: Path, root: Path) -> None:
    """The same in a thread, since it may be gigabytes; what cannot be deleted stays."""

    def delete() -> None:
        with suppress(OSError):
            discard(folder, root)

    threading.Thread(target=delete, name="dreamflow deletes").start()
