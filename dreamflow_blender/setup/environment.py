"""The backend's own Python: make it, look at it, repair it, remove it. No `bpy`.

    FOLDER/environment.json   which of the environments below is in use; replaced by a rename when a new one is whole
    FOLDER/env-1              a virtual environment with the locked packages
    FOLDER/tools              uv, where it was brought, and the Pythons that it fetched
    FOLDER/cache              what uv has fetched for an environment that is not finished
    FOLDER/setup.log          everything that uv has said the last time

An environment is built beside the one in use, which goes on working until the new one is whole, and for ever
if that fails: what is swapped is environment.json, so that no system minds a worker that is running from the
old one. `install` and `remove` are generators of `Progress`, to be run by `background.Background`.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from ..client.background import Stop
from ..client.steps import Log, Progress, SetupError
from .build import Options as Options
from .build import build, shown
from .folder import alone, environments, fingerprint, python_in, read_record

LOG = "setup.log"


@dataclass(frozen=True)
class State:
    """What there is. state: "absent", "ready", "outdated" (its packages are another version's) or "broken"."""

    state: str
    python: Path | None  # the interpreter to start the worker with, if there is one
    why: str = ""  # one sentence, unless it is ready
    size_gb: float = 0.0
    torch: str = ""  # as it was installed, "2.13.0+cpu"
    base: str = ""  # the Python that it is built on
    note: str = ""  # a sentence about the device that this torch gives, where that may surprise


def look(folder: Path, requirements: Path) -> State:
    """What there is in `folder`, from its files alone: quick enough for drawing a panel now and then."""
    record = read_record(folder)
    if record is None:
        return State("absent", None, "DreamFlow's own Python has not been set up yet.")
    python = python_in(folder / str(record.get("folder")))
    if not python.is_file():  # nor where it leads to, if it is a link
        return State("broken", None, "The Python that DreamFlow was set up with has gone: press Repair.")
    known = {k: str(record.get(k, "")) for k in ("torch", "base", "note")}
    size = record.get("size_gb")
    state = State("ready", python, size_gb=size if isinstance(size, float) else 0.0, **known)
    try:
        current = fingerprint(requirements)
    except OSError:
        return state
    if record.get("requirements") != current:
        why = "This version of DreamFlow needs other packages: press Set up."
        return State("outdated", python, why, state.size_gb, **known)
    return state


def install(
    folder: Path, requirements: Path, options: Options, stop: Stop, repair: bool = False
) -> Generator[Progress, None, State]:
    """Make an environment with these packages, and put it in the place of the one in use. Returns a State.

    Interrupted, it goes on where it was. `repair` builds anew even where everything seems to be there.
    Raises SetupError, and Stopped after `stop.ask()`; then the environment in use is as it was.
    """
    log: Log | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder), closing(Log(folder / LOG)) as log:
            yield from shown(build(folder, requirements, options, stop, log, repair))
        return look(folder, requirements)
    except OSError as error:
        raise SetupError(
            f"{error.filename or folder} cannot be written or read: {error.strerror or error}.",
            "Choose another folder for the backend in the preferences, one of your own with enough space.",
            log.tail() if log else "",
        ) from error


def remove(folder: Path, stop: Stop) -> Iterator[Progress]:
    """Remove everything that `install` has made. Raises SetupError where a file is in use."""
    try:
        if not folder.is_dir():
            return
        with alone(folder):
            (folder / "environment.json").unlink(missing_ok=True)
            parts = [*environments(folder), folder / "tools", folder / "cache"]
            for number, part in enumerate(parts):
                stop.check()
                yield Progress(number / len(parts), f"removing {part.name}", "look")
                if part.exists():
                    shutil.rmtree(part)
            (folder / LOG).unlink(missing_ok=True)
        with suppress(OSError):
            (folder / "lock").unlink(missing_ok=True)
            folder.rmdir()  # only if nothing else is in it
    except OSError as error:
        raise SetupError(
            f"{error.filename or folder} cannot be removed: {error.strerror or error}.",
            "Close other Blender windows that use DreamFlow, then try again.",
        ) from error
    yield Progress(1.0, "removed", "look")
