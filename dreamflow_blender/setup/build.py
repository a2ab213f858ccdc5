"""The steps that make an environment of the backend's: a Python, uv, the packages, a try. No `bpy`."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..client.background import Stop
from ..client.process import WINDOWS, clean_environment, proxy_variables
from ..client.steps import CommandFailed, Log, Progress, SetupError, ask, hide, run
from ..client.worker import IN_USE
from ..contract.files import read_json, write_json
from ..contract.locks import is_held
from . import packages, pythons, torch_build
from .folder import environments, fingerprint, python_in, read_record, size_gb
from .torch_build import Choice

T = TypeVar("T")
STAGES = ("look", "python", "environment", "torch", "packages", "check")
SPANS = {  # of the bar
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
    fallback: str = (
        sys.executable
    )  # Blender's own Python: brings uv, and is the base where no other can be had


def build(
    folder: Path, requirements: Path, options: Options, stop: Stop, log: Log, repair: bool
) -> Generator[Progress, None, None]:
    """An environment with these packages in the place of the one in use, which is removed then.

    Raises SetupError, CommandFailed, OSError and Stopped; the environment in use is as it was.
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

    variables = _variables(options)
    tools = folder / "tools"
    uv, base = yield from _tools(tools, options, stop, log, variables)
    variables |= pythons.pip_settings(base, stop) if uv else {}

    yield _at("environment", 0.0, "making the environment")
    python = python_in(target)
    if pythons.probe([str(python)], stop) is None:
        shutil.rmtree(target, ignore_errors=True)
        for _ in run([base, "-I", "-m", "venv", "--without-pip", str(target)], stop, log, variables):
            yield _at("environment", 0.5, "making the environment")
        write_json(target / "building.json", wanted)
    if uv is None and ask([str(python), "-m", "pip", "--version"], stop, 60) is None:
        for _ in packages.bring_pip(str(python), stop, log, variables):
            yield _at("environment", 0.7, "bringing pip")
    bytes_told = uv is None and packages.pip_tells_bytes(str(python), stop)
    installer = packages.Installer(str(python), uv, folder / "cache", variables, bytes_told)

    if choice:
        for fraction, line in packages.install_torch(installer, requirements, choice, stop, log):
            yield _at("torch", fraction, line)
    for fraction, line in packages.install_rest(installer, requirements, stop, log):
        yield _at("packages", fraction, line)

    yield _at("check", 0.0, "trying it")
    torch, note = _try(python, choice, stop, log) if choice else ("", "")
    size = size_gb(target)
    (target / "building.json").unlink(missing_ok=True)
    made = {**wanted, "folder": target.name, "torch": torch, "base": base, "note": note, "size_gb": size}
    write_json(folder / "environment.json", made)
    for old in environments(folder):
        if old != target:
            _remove(old)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    yield Progress(1.0, note or (f"ready: torch {torch}" if torch else "ready"), "check")


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


def _tools(
    tools: Path, options: Options, stop: Stop, log: Log, variables: dict[str, str]
) -> Generator[Progress, None, tuple[Path | None, str]]:
    """Returns (uv or None, the path of the Python to build on)."""
    yield _at("python", 0.0, "looking for Python 3.11 to 3.13")
    base = pythons.find_python(options.python, stop)
    if base is None and options.python:
        raise SetupError(
            f"{options.python} is no Python 3.11 to 3.13 that can make environments.",
            "Name another one in the preferences, or leave the field empty.",
        )
    base = base or pythons.brought_python(tools, stop)
    uv = pythons.find_uv(tools)
    if uv is None or ask([str(uv), "--version"], stop, 30) is None:
        able = list(dict.fromkeys(python for python in (base, options.fallback) if python))
        try:
            for _ in pythons.bring_uv(tools, able, stop, log, variables):
                yield _at("python", 0.3, "bringing uv")
            uv = pythons.find_uv(tools)
        except CommandFailed as failed:  # pip does it as well, with less choice
            log.write(f"uv could not be brought ({failed.last}): going on with pip.")
            uv = None
    if base is None and uv is not None:
        try:
            for _ in pythons.bring_python(uv, tools, stop, log, variables):
                yield _at("python", 0.6, "bringing Python 3.11")
            base = pythons.brought_python(tools, stop)
        except CommandFailed as failed:
            log.write(f"Python could not be brought ({failed.last}).")
    if base is None:  # the last resort
        base = pythons.find_python(options.fallback, stop) if options.fallback else None
    if base is None:
        raise SetupError(
            "There is no Python 3.11, 3.12 or 3.13 on this machine, and none could be fetched.",
            "Get Python 3.11 from python.org or your system's package manager, then press Set up again.",
            log.tail(),
        )
    log.write(f"Python: {base}; {'uv' if uv else 'pip'} installs.")
    return uv, base


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


def _try(python: Path, choice: Choice, stop: Stop, log: Log) -> tuple[str, str]:
    """torch's version, and a sentence where the card is not used. Raises SetupError."""
    last = ""
    try:
        for line in run([str(python), "-I", "-c", torch_build.PROBE], stop, log, clean_environment()):
            last = line if line.startswith("[") else last
        version, note = torch_build.verdict(choice, last, packages.SETTING)
    except (CommandFailed, ValueError) as error:
        raise SetupError(
            f"torch was installed and cannot be used ({error}).",
            "Press Repair. On Windows it needs Microsoft's Visual C++ Redistributable.",
            log.tail(),
        ) from error
    if note:
        log.write(note)
    return version, note


def _variables(options: Options) -> dict[str, str]:
    """The environment variables of pip and uv: certificates and proxies as the system has them."""
    proxies = proxy_variables(options.proxy)
    return clean_environment(UV_SYSTEM_CERTS="1", UV_NO_PROGRESS="1", UV_PYTHON_DOWNLOADS="manual", **proxies)


def explained(error: CommandFailed, log: Log | None) -> SetupError:
    """What to tell the user about pip's or uv's failure."""
    tail = log.tail() if log else ""
    said = tail.lower()
    network = (
        "name resolution", "failed to resolve", "connection", "timed out", "proxy", "certificate", "ssl",
        "could not find a version", "dns error", "error sending request", "failed to fetch",
    )  # fmt: skip
    if packages.is_full(said):
        return SetupError("The disk is full.", "Free some space, then press Set up again: it goes on.", tail)
    if "ensurepip" in said and "no module named" in said:
        return SetupError(
            "This Python cannot make environments with pip.",
            "Install python3-venv with your system's package manager, or name another Python.",
            tail,
        )
    if any(word in said for word in network):
        return SetupError(
            f"The packages could not be fetched ({hide(error.last)[:200]}).",
            "Look at the network, and at the proxy in the preferences; Set up again goes on where it was.",
            tail,
        )
    return SetupError(
        f"A package could not be installed ({hide(error.last)[:200]}).",
        "Press Set up again; if it fails again, copy the report.",
        tail,
    )


def shown(steps: Generator[Progress, None, T]) -> Generator[Progress, None, T]:
    """Never backwards, with the time where a line stays for long, and not the same twice."""
    highest, before, line, since = 0.0, None, "", time.monotonic()
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value
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
