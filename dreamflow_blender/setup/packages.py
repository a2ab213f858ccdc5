"""The locked packages into an environment, torch first and in the build that fits the card. No `bpy`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..client.background import Stop
from ..client.steps import CommandFailed, Log, SetupError, ask, run
from . import torch_build
from .torch_build import Choice, Way

SETTING = "Torch from (in the preferences)"
PIP_WITH_BYTES = (24, 1)  # the first pip that reports its progress in bytes


@dataclass(frozen=True)
class Installer:
    """uv or pip, for one environment."""

    python: str  # the environment's
    uv: Path | None  # None: the environment's own pip
    cache: Path  # for uv
    variables: dict[str, str]  # the environment variables of every command
    bytes_told: bool = False  # pip's progress comes in bytes

    def install(self, *what: str) -> list[str]:
        """The command that installs."""
        if self.uv:
            places = ["--python", self.python, "--cache-dir", str(self.cache)]
            return [str(self.uv), "pip", "install", "--no-config", "--no-progress", *places, *what]
        bar = "raw" if self.bytes_told else "off"
        quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar", bar]
        return [self.python, "-m", "pip", "install", *quiet, *what]

    def from_index(self, way: Way, pin: str) -> list[str]:
        """What to tell `install` for torch alone: what it needs comes with the rest, which is fixed."""
        name = "--default-index" if self.uv else "--index-url"
        return ["--no-deps", *([name, way.address] if way.address else []), pin + way.version]


def pins(requirements: Path) -> list[str]:
    """The lines of a requirements file that name a package."""
    lines = (line.split("#")[0].strip() for line in requirements.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("-")]


def torch_pin(requirements: Path) -> str | None:
    """ "torch==2.13.0", without conditions; None where torch is not wanted."""
    return next(
        (pin.split(";")[0].strip() for pin in pins(requirements) if re.match(r"torch\s*==", pin)), None
    )


def install_torch(
    installer: Installer, requirements: Path, choice: Choice, stop: Stop, log: Log
) -> Iterator[tuple[float, str]]:
    """torch in the build that was chosen, and in no other, yielding (fraction, line). SetupError, CommandFailed."""
    pin = torch_pin(requirements)
    assert pin is not None
    log.write(f"torch: {choice.sentence}")
    name = pin.replace("==", " ")
    for way in torch_build.ways(choice):
        yield 0.0, f"{name}: {choice.sentence}"
        if way.only and would_bring(installer, pin, stop, log) != way.only:
            log.write(f"{way.place} has torch in another build, or not at all.")
            continue
        try:
            command = installer.install(*installer.from_index(way, pin))
            yield from _told(run(command, stop, log, installer.variables), 1, pin)
            return
        except CommandFailed as failed:
            log.write(f"{way.place}: {failed.last}")
            if is_full(log.tail().lower()):  # no other place would do better
                raise
    todo = "Then press Set up again: it goes on where it was."
    raise SetupError(torch_build.failure(choice, SETTING), todo, log.tail())


def would_bring(installer: Installer, pin: str, stop: Stop, log: Log) -> str:
    """The kind of torch that the user's own sources have, as `torch_build.brought` says it; empty if none."""
    if installer.uv is None:
        report = ["--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--report", "-", pin]
        return torch_build.brought(ask(installer.install(*report), stop, 90, installer.variables) or "")
    try:
        said = list(run(installer.install("--dry-run", pin), stop, log, installer.variables))
    except CommandFailed:
        return ""
    return torch_build.kind([line.strip()[2:] for line in said if line.startswith(" + ")])


def is_full(said: str) -> bool:
    """Whether a program has told that the disk is full; `said` in lower case."""
    return any(word in said for word in ("no space left", "errno 28", "os error 28", "os error 112"))


def install_rest(
    installer: Installer, requirements: Path, stop: Stop, log: Log
) -> Iterator[tuple[float, str]]:
    """Everything else, yielding (fraction, line). Raises CommandFailed."""
    command = installer.install("-r", str(requirements))
    yield from _told(run(command, stop, log, installer.variables), len(pins(requirements)), "packages")


def bring_pip(python: str, stop: Stop, log: Log, variables: dict[str, str]) -> Iterator[str]:
    """pip into an environment that was made without it, and a newer one where that can be had. CommandFailed."""
    yield from run([python, "-m", "ensurepip", "--upgrade", "--default-pip"], stop, log, variables)
    newer = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--upgrade", "pip"]
    try:
        yield from run([*newer, "--progress-bar", "off"], stop, log, variables)
    except CommandFailed:
        yield "the pip that Python brings"


def pip_tells_bytes(python: str, stop: Stop) -> bool:
    """Whether this pip can say how many bytes it has fetched."""
    found = re.match(r"pip (\d+)\.(\d+)", ask([python, "-m", "pip", "--version"], stop, 60) or "")
    return found is not None and (int(found[1]), int(found[2])) >= PIP_WITH_BYTES


def _told(lines: Iterator[str], count: int, what: str) -> Iterator[tuple[float, str]]:
    """Lines of uv's or pip's as (fraction, what a person wants to read). `count` packages are expected."""
    meter = Meter(count, what.replace("==", " "))
    for line in lines:
        meter.hear(line)
        yield meter.fraction, meter.line


class Meter:
    """Guesses how far an installer is from what it says."""

    def __init__(self, count: int, what: str) -> None:
        self.fraction, self.line = 0.0, what
        self._count, self._seen = max(count, 1), 0
        self._sizes: dict[str, float] = {}  # uv: what is on its way, MB
        self._fetched = 0.0

    def hear(self, line: str) -> None:
        """One line; "" is silence."""
        words = line.split()
        if len(words) < 2:
            return
        first = words[0]
        if first in ("Collecting", "Processing"):
            self._seen += 1
            self._reach(0.8 * min(self._seen / self._count, 1), words[1].split("=")[0])
        elif first in ("Downloading", "Downloaded") and (
            size := re.search(r"\(([\d.]+) ?([kKMG])i?B\)", line)
        ):
            megabytes = float(size[1]) * {"k": 1e-3, "K": 1e-3, "M": 1.0, "G": 1e3}[size[2]]
            name = Path(words[1]).name.split("-")[0]
            self._sizes[name] = megabytes
            self.line = f"{name}, {megabytes:,.0f} MB" if megabytes >= 10 else name
        elif first == "Downloaded" and words[1] in self._sizes:
            self._fetched += self._sizes[words[1]]
            self._reach(0.8 * self._fetched / sum(self._sizes.values()), f"{words[1]} is here")
        elif first == "Progress" and len(words) == 4 and words[1].isdigit() and words[3].isdigit():
            done, total = int(words[1]) / 1e6, max(int(words[3]), 1) / 1e6
            name = self.line.split(",")[0]
            self.line = f"{name}, {done:,.0f} of {total:,.0f} MB" if total >= 10 else name
            within = 0.8 * min((max(self._seen - 1, 0) + done / total) / self._count, 1)
            self.fraction = max(self.fraction, within)
        elif line.startswith(("Installing collected packages", "Prepared ")):
            self._reach(0.85, "writing files")
        elif first == "Resolved":
            self._reach(0.02, f"{words[1]} packages")
        elif first in ("Successfully", "Installed", "Audited", "Requirement"):
            self._reach(1.0 if first != "Requirement" else self.fraction, self.line)
        elif first == "Building" or "Building wheel" in line:
            self.line = f"building {words[-1] if first == 'Building' else line.split('for ')[-1].split()[0]}"

    def _reach(self, fraction: float, line: str) -> None:
        self.fraction, self.line = max(self.fraction, fraction), line
