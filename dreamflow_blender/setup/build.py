"""The steps that make an environment of the backend's: uv, a Python, the packages, a try. No `bpy`."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..client.background import Stop
from ..client.process import WINDOWS
from ..client.steps import CommandFailed, Log, Progress, SetupError
from ..client.worker import IN_USE
from ..contract.files import read_json, write_json
from ..contract.locks import is_held
from ..contract.words import hide
from . import packages, sources, torch_build, uv
from .folder import environments, fingerprint, python_in, read_record, size_gb
from .torch_build import Choice

T = TypeVar("T")
Steps = Generator[Progress, None, tuple[str, str]]
SPANS = {  # of the bar, by stage
    "look": (0.0, 0.01), "python": (0.01, 0.05), "environment": (0.05, 0.08), "torch": (0.08, 0.60),
    "packages": (0.60, 0.94), "check": (0.94, 1.0),
}  # fmt: skip
SPACE_GB = 4.0  # free on the disk, for an environment of 2.1 GB and what is fetched for it
SPACE_CUDA_GB = 14.0  # with torch's build for CUDA
LONGEST_PATH = 185  # characters of a file inside an environment, beyond which 259 are Windows's limit


@dataclass(frozen=True)
class Options:
    """What the preferences say about setting up. Empty strings: find out."""

    python: str = ""  # a Python 3.11 to 3.13 to build on
    torch_index: str = ""  # where torch comes from, as torch_build.decide takes it: always used when given
    proxy: str = ""  # "http://user:word@host:port"; empty: as the system has it
    # Blender's own Python: brings uv, and is the base where no other can be had
    fallback: str = sys.executable


def build(
    folder: Path, requirements: Path, options: Options, stop: Stop, log: Log, repair: bool
) -> Generator[Progress, None, None]:
    """An environment with these packages in the place of the one in use, which is removed then.

    Raises SetupError, OSError and Stopped; the environment in use is as it was.
    """
    record = read_record(folder)
    yield _at("look", 0.0, "looking at the card")
    choice = _choose(requirements, options, stop)
    wanted = {
        "requirements": fingerprint(requirements), "torch_index": options.torch_index,
        "build": choice.build if choice else "",
    }  # fmt: skip
    same = record is not None and {k: record.get(k) for k in wanted} == wanted
    in_use = folder / str(record.get("folder")) if record else None
    if same and not repair and in_use and python_in(in_use).is_file():
        yield Progress(1.0, "everything is there", "check")
        return
    yield _at("look", 0.5, "looking at the disk")
    target = _place(folder, in_use, wanted, repair)
    _check_place(folder, target, choice)

    torch, note = yield from make(
        target, folder / "tools", folder / "cache", requirements, options, choice, stop, log,
        begun=lambda: write_json(target / "building.json", wanted),
    )  # fmt: skip
    base = uv.base_of(python_in(target), stop)
    size = size_gb(target)
    (target / "building.json").unlink(missing_ok=True)
    made = {**wanted, "folder": target.name, "torch": torch, "base": base, "note": note, "size_gb": size}
    write_json(folder / "environment.json", made)
    for old in environments(folder):
        if old != target:
            _remove(old)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    yield Progress(1.0, note or (f"ready: torch {torch}" if torch else "ready"), "check")


def make(
    target: Path,
    tools: Path,
    cache: Path,
    requirements: Path,
    options: Options,
    choice: Choice | None,
    stop: Stop,
    log: Log,
    setting: str = packages.SETTING,
    begun: Callable[[], None] = lambda: None,
) -> Steps:
    """An environment in `target`, or more of one that was begun there; everything in it was imported at the end.

    tools, cache  where uv and the Pythons that it fetches are kept, and what it has fetched
    begun         called once the environment is there, without packages
    Returns torch's version and a sentence where the card is not used. Raises SetupError, OSError and Stopped.
    """
    yield _at("python", 0.0, "looking for uv")
    settings, pip = uv.ask_pip(options.fallback, stop)
    try:
        lines = uv.bring(tools, cache, settings, pip, options.proxy, stop, log)
        installer = yield from _shown_as("python", 0.5, "bringing uv", lines)
        python = python_in(target)
        if uv.version_of(str(python), stop) not in uv.VERSIONS:
            yield _at("environment", 0.0, "making the environment")
            making = uv.make_environment(installer, target, options.python, options.fallback, stop, log)
            yield from _shown_as("environment", 0.5, "making it, with a Python 3.11 to 3.13", making)
            begun()
        pin = packages.torch_pin(requirements)
        if choice and pin:
            for fraction, line in packages.install_torch(installer, python, pin, choice, setting, stop, log):
                yield _at("torch", fraction, line)
        for fraction, line in packages.install_rest(installer, python, requirements, stop, log):
            yield _at("packages", fraction, line)
    except CommandFailed as error:
        raise explained(error, log, sources.as_text(settings)) from error
    yield _at("check", 0.0, "trying it")
    return packages.try_out(python, requirements, choice, setting, stop, log)


def _shown_as(
    stage: str, fraction: float, line: str, lines: Generator[str, None, T]
) -> Generator[Progress, None, T]:
    while True:
        try:
            next(lines)
        except StopIteration as end:
            value: T = end.value
            return value
        yield _at(stage, fraction, line)


def _choose(requirements: Path, options: Options, stop: Stop) -> Choice | None:
    """The build of torch for this machine; None where torch is not wanted."""
    if packages.torch_pin(requirements) is None:
        return None
    stop.check()
    seen = torch_build.look(stop.watch)
    stop.check()
    try:
        return torch_build.decide(options.torch_index, seen)
    except ValueError as error:
        raise SetupError(str(error), "Change Torch from in the preferences, or leave it empty.") from error


def _place(folder: Path, in_use: Path | None, wanted: dict[str, str], repair: bool) -> Path:
    """Where to build: what was begun and is still wanted, or a new folder. Removes what nobody needs."""
    kept: Path | None = None
    for path in environments(folder):
        if path == in_use:
            continue
        if kept is None and not repair and read_json(path / "building.json") == wanted:
            kept = path
        else:
            _remove(path)
    taken = {path.name for path in environments(folder)}
    return kept or folder / next(name for n in range(1, 1000) if (name := f"env-{n}") not in taken)


def _remove(environment: Path) -> None:
    """Unless a worker runs from it: then it stays until the next time."""
    if not is_held(environment / IN_USE):
        shutil.rmtree(environment, ignore_errors=True)


def _check_place(folder: Path, target: Path, choice: Choice | None) -> None:
    """SetupError where the disk is too small or the path too long; OSError where nothing can be written."""
    probe = folder / ".probe"
    try:
        probe.write_bytes(b"a byte that a full disk has no place for")
    finally:
        probe.unlink(missing_ok=True)
    free = shutil.disk_usage(folder).free / 1e9
    large = choice and (choice.build.startswith("cu") or (choice.build == "address" and choice.card))
    needed = SPACE_CUDA_GB if large else SPACE_GB
    if free < needed:
        raise SetupError(
            f"Setting up needs {needed:.0f} GB, and {free:.1f} GB are free on the disk of {folder}.",
            "Free some space, or choose a folder on another disk in the preferences.",
        )
    if WINDOWS and len(str(target)) + LONGEST_PATH > 259 and not _long_paths():
        raise SetupError(
            f"The path {folder} is too long for Windows, which stops at 259 characters a file.",
            "Choose a shorter folder for the backend in the preferences, such as C:\\DreamFlow.",
        )


def _long_paths() -> bool:
    """Whether Windows has been told to allow long paths."""
    if sys.platform != "win32":
        return True
    import winreg

    with suppress(OSError):
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SYSTEM\CurrentControlSet\Control\FileSystem") as key:
            return winreg.QueryValueEx(key, "LongPathsEnabled")[0] == 1
    return False


def explained(error: CommandFailed, log: Log, told: str) -> SetupError:
    """What to tell the user about the failure of uv, or of the pip that brings it. told: their own settings, if any."""
    tail = log.tail()
    said = tail.lower()
    network = (
        "name resolution", "failed to resolve", "connection", "timed out", "proxy", "certificate", "ssl",
        "could not find a version", "dns error", "error sending request", "failed to fetch", "no solution found",
        "not found in", "offline",
    )  # fmt: skip
    if packages.is_full(said):
        return SetupError("The disk is full.", "Free some space, then set up again: it goes on.", tail)
    settings = f" Your own settings were used: {told}." if told else ""
    if any(word in said for word in network):
        return SetupError(
            f"The packages could not be fetched ({hide(error.last)[:200]}).{settings}",
            "Look at these settings, the network and the proxy; then set up again: it goes on where it was."
            if told
            else "Look at the network and the proxy; then set up again: it goes on where it was.",
            tail,
        )
    return SetupError(
        f"A package could not be installed ({hide(error.last)[:200]}).{settings}",
        "Set up again; if it fails again, copy the report.",
        tail,
    )


def shown(steps: Generator[Progress, None, T]) -> Generator[Progress, None, T]:
    """Never backwards, with the time where a line stays for long, and not the same twice."""
    highest, before, line, since = 0.0, None, "", time.monotonic()
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            value: T = end.value
            return value
        if step.line != line:
            line, since = step.line, time.monotonic()
        waited = int(time.monotonic() - since)
        text = f"{line}  {waited // 60}:{waited % 60:02d}" if waited >= 5 else line
        highest = max(highest, step.fraction)
        now = Progress(highest, text, step.stage)
        if now != before:
            before = now
            yield now


def _at(stage: str, fraction: float, line: str) -> Progress:
    low, high = SPANS[stage]
    return Progress(low + (high - low) * fraction, line, stage)
