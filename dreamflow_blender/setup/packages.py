"""The fixed packages into an environment, torch first and in the build that fits the card, then tried. No `bpy`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from ..client.background import Stop
from ..client.process import clean_environment, pycache_of
from ..client.steps import CommandFailed, Log, SetupError, run
from . import torch_build
from .torch_build import Choice
from .uv import Uv

SETTING = "Torch from (in the preferences)"
TRIED = {"diffusers": "diffusers", "transformers": "transformers", "warp-lang": "warp"}  # package: module
UNITS = {"k": 1e-3, "K": 1e-3, "M": 1.0, "G": 1e3}


def pins(requirements: Path) -> list[str]:
    """The lines of a requirements file that name a package, and of those that it takes in with -r."""
    found = []
    for text in requirements.read_text(encoding="utf-8").splitlines():
        line = text.split("#")[0].strip()
        if line.startswith("-r "):
            found += pins(requirements.parent / line[3:].strip())
        elif line and not line.startswith("-"):
            found.append(line)
    return found


def torch_pin(requirements: Path) -> str | None:
    """ "torch==2.13.0", without conditions; None where torch is not wanted."""
    return next(
        (pin.split(";")[0].strip() for pin in pins(requirements) if re.match(r"torch\s*==", pin)), None
    )


def install_torch(
    uv: Uv, python: Path, pin: str, choice: Choice, setting: str, stop: Stop, log: Log
) -> Iterator[tuple[float, str]]:
    """torch in the build that was chosen, and in no other, yielding (fraction, line). SetupError, CommandFailed.

    setting  the name of the setting that names a build, for what is told where it cannot be had
    """
    log.write(f"torch: {choice.sentence}")
    name = pin.replace("==", " ")
    for way in torch_build.ways(choice):
        yield 0.0, f"{name}: {choice.sentence}"
        if way.only and would_bring(uv, python, pin, stop, log) != way.only:
            log.write(f"{way.place} has torch in another build, or not at all.")
            continue
        index = ["--default-index", way.address] if way.address else []
        try:
            # without what it needs, which comes with the rest and is fixed
            command = uv.install(python, "--no-deps", *index, pin + way.version)
            yield from _told(run(command, stop, log, uv.variables), name)
            return
        except CommandFailed as failed:
            log.write(f"{way.place}: {failed.last}")
            if is_full(log.tail().lower()):  # no other place would do better
                raise
    todo = "Then set up again: it goes on where it was."
    raise SetupError(torch_build.failure(choice, setting), todo, log.tail())


def would_bring(uv: Uv, python: Path, pin: str, stop: Stop, log: Log) -> str:
    """The kind of torch that the user's own sources have: "cpu", "cuda 13"; empty if none."""
    try:
        said = list(run(uv.install(python, "--dry-run", pin), stop, log, uv.variables))
    except CommandFailed:
        return ""
    return torch_build.kind([line.strip()[2:] for line in said if line.startswith(" + ")])


def is_full(said: str) -> bool:
    """Whether a program has told that the disk is full; `said` in lower case."""
    return any(word in said for word in ("no space left", "errno 28", "os error 28", "os error 112"))


def install_rest(
    uv: Uv, python: Path, requirements: Path, stop: Stop, log: Log
) -> Iterator[tuple[float, str]]:
    """Everything else, yielding (fraction, line). Raises CommandFailed."""
    command = uv.install(python, "-r", str(requirements))
    yield from _told(run(command, stop, log, uv.variables), "packages")


def try_out(
    python: Path, requirements: Path, choice: Choice | None, setting: str, stop: Stop, log: Log
) -> tuple[str, str]:
    """torch's version, and a sentence where the card is not used. Raises SetupError where something does not import.

    Tried are torch, the large packages and, where they lie beside `requirements`, our own kernels.
    """
    names = {re.split(r"[=<>; ]", pin)[0] for pin in pins(requirements)}
    modules = [module for package, module in TRIED.items() if package in names]
    code = requirements.parent
    if choice and (code / "backend" / "kernels" / "__init__.py").is_file():
        modules.append("backend.kernels")
    lines = [f"import sys; sys.path.insert(0, {str(code)!r})"]
    lines += [torch_build.PROBE] if choice else []
    lines += [f"import {module}" for module in modules]
    command = [
        str(python),
        "-I",
        "-X",
        f"pycache_prefix={pycache_of(python, python.parent.parent)}",
        "-u",
        "-c",
    ]
    last = ""
    try:
        for line in run([*command, "\n".join(lines)], stop, log, clean_environment()):
            last = line if line.startswith("[") else last
        version, note = torch_build.verdict(choice, last, setting) if choice else ("", "")
    except (CommandFailed, json.JSONDecodeError) as error:
        raise SetupError(
            f"The packages were installed and cannot be used ({error}).",
            "Press Repair (of a clone: remove .venv and set up again). On Windows torch needs Microsoft's Visual C++ "
            "Redistributable.",
            log.tail(),
        ) from error
    if note:
        log.write(note)
    return version, note


def _told(lines: Iterator[str], what: str) -> Iterator[tuple[float, str]]:
    """Lines of uv's as (fraction, what a person wants to read)."""
    meter = Meter(what)
    for line in lines:
        meter.hear(line)
        yield meter.fraction, meter.line


class Meter:
    """Guesses how far uv is from what it says."""

    def __init__(self, what: str) -> None:
        self.fraction, self.line = 0.0, what
        self._sizes: dict[str, float] = {}  # what is on its way, MB
        self._fetched = 0.0

    def hear(self, line: str) -> None:
        """One line; "" is silence."""
        words = line.split()
        if len(words) < 2:
            return
        if words[0] == "Downloading" and (size := re.search(r"\(([\d.]+) ?([kKMG])i?B\)", line)):
            megabytes = self._sizes[words[1]] = float(size[1]) * UNITS[size[2]]
            self.line = f"{words[1]}, {megabytes:,.0f} MB" if megabytes >= 10 else words[1]
        elif words[0] == "Downloaded" and words[1] in self._sizes:
            self._fetched += self._sizes[words[1]]
            self._reach(0.8 * self._fetched / sum(self._sizes.values()), f"{words[1]} is here")
        elif words[0] == "Prepared":
            self._reach(0.85, "writing files")
        elif words[0] == "Resolved":
            self._reach(0.02, f"{words[1]} packages")
        elif words[0] in ("Installed", "Audited"):
            self._reach(1.0, self.line)
        elif words[0] == "Building":
            self.line = f"building {words[-1]}"

    def _reach(self, fraction: float, line: str) -> None:
        self.fraction, self.line = max(self.fraction, fraction), line
