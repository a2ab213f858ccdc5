"""The backend's own Python: make it, look at it, repair it, remove it. No `bpy`.

    FOLDER/environment.json   which of the environments below is in use; replaced by a rename when a new one is whole
    FOLDER/env-1              a virtual environment with the locked packages
    FOLDER/tools              uv, brought by pip, and the Pythons that uv brought
    FOLDER/setup.log          everything that pip and uv have said the last time

An environment is built beside the one in use, which goes on working until the new one is whole, and for ever
if that fails. Everything here is a generator of `Progress`, to be run by `background.Background`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .background import Stop

STAGES = ("look", "python", "environment", "torch", "packages", "check")


@dataclass(frozen=True)
class Progress:
    fraction: float  # of the whole, 0 to 1; never less than before
    line: str  # for the panel: "torch 2.13, 590 MB"
    stage: str  # one of STAGES


class SetupError(Exception):
    """`message` says what happened, `todo` what to do; `log` is the end of setup.log."""

    def __init__(self, message: str, todo: str, log: str = "") -> None:
        super().__init__(f"{message} {todo}".strip())
        self.message, self.todo, self.log = message, todo, log


@dataclass(frozen=True)
class Options:
    """What the preferences say about setting up. Empty strings: find out."""

    python: str = ""  # a Python 3.11 to 3.13 to build on
    torch_index: str = ""  # where torch comes from, a URL of wheels: always used when given
    proxy: str = ""  # "http://user:word@host:port"; empty: as the system has it
    fallback: str = ""  # Blender's own Python: brings uv, and is the base where no other can be had


@dataclass(frozen=True)
class State:
    """What there is. state: "absent", "ready", "outdated" (its packages are another version's) or "broken"."""

    state: str
    python: Path | None  # the interpreter to start the worker with, if there is one
    why: str = ""  # one sentence, unless it is ready
    size_gb: float = 0.0
    torch: str = ""  # as it was installed, "2.13.0+cpu"


def look(folder: Path, requirements: Path) -> State:
    """What there is in `folder`, from its files alone: quick enough for drawing a panel now and then."""
    raise NotImplementedError


def python_of(folder: Path) -> Path | None:
    """The interpreter of the environment in use; None where there is none."""
    raise NotImplementedError


def install(
    folder: Path, requirements: Path, options: Options, stop: Stop, repair: bool = False
) -> Iterator[Progress]:
    """Make an environment with these packages, and put it in the place of the one in use.

    Interrupted, it goes on where it was. `repair` builds anew even where everything seems to be there.
    Raises SetupError, and Stopped after `stop.ask()`; then the environment in use is as it was.
    """
    raise NotImplementedError


def remove(folder: Path, stop: Stop) -> Iterator[Progress]:
    """Remove everything that `install` has made. Raises SetupError where a file is in use."""
    raise NotImplementedError
