"""Which build of torch fits this machine's NVIDIA card, and where it comes from. Standard library only, no `bpy`.

Set up and build.py take torch by it, doctor sees with it what the driver says. Which builds there are of
torch 2.13, and for which cards: pytorch/pytorch, RELEASE.md, "PyTorch CUDA Support Matrix". Which drivers run
them: NVIDIA, CUDA Toolkit Release Notes, table 2; every build of CUDA 12 runs on every driver of CUDA 12.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ..contract.words import hide

TORCH_INDEX = "https://download.pytorch.org/whl"  # PyTorch's own wheels, one folder a build
SMI_SECONDS = 30  # a driver that is broken can keep nvidia-smi for long
CPU_GB, CUDA_GB = 2, 6  # on the disk, the whole environment
DOWNLOAD_GB = 2.6  # torch for CUDA with its libraries


class Build(NamedTuple):
    """A build of torch for CUDA."""

    name: str  # its folder at TORCH_INDEX, and the end of its version: 2.13.0+cu130
    cuda: tuple[int, int]  # the CUDA that the driver has to be able to do
    driver: tuple[int, ...]  # the first driver that can, on Linux
    driver_windows: tuple[int, ...]
    kernels: tuple[tuple[int, int], ...]  # the compute capabilities that it was compiled for


BUILDS = (  # the best first; a test holds the first one's kernels against the real build
    Build("cu130", (13, 0), (580,), (580,), ((7, 5), (8, 0), (8, 6), (9, 0), (10, 0), (12, 0))),
    Build(
        "cu126", (12, 0), (525, 60, 13), (528, 33),
        ((5, 0), (6, 0), (7, 0), (7, 5), (8, 0), (8, 6), (9, 0)),
    ),
)  # fmt: skip
NAMES = ("cpu", *(build.name for build in BUILDS))  # what can be asked for by name


class Card(NamedTuple):
    name: str
    capability: tuple[int, int] | None  # None: the driver does not say


class Seen(NamedTuple):
    """What the NVIDIA driver says. `trouble`: why it says nothing although it is there."""

    cards: tuple[Card, ...] = ()
    driver: str = ""  # its version
    cuda: tuple[int, int] | None = None  # the newest that it can do
    trouble: str = ""


class Choice(NamedTuple):
    build: str  # one of NAMES, or "address"
    why: str  # a clause: "NVIDIA GeForce RTX 4090, driver 610.43.02"
    todo: str = ""  # a sentence, where the card could be used and is not
    card: bool = False  # an NVIDIA card was seen
    address: str = ""

    @property
    def sentence(self) -> str:
        """What is chosen and why, to be shown."""
        names = {"cpu": "the build for the processor", "address": f"from {hide(self.address)}"}
        cuda = f"the build for CUDA {self.build[2:-1]}.{self.build[-1:]} (about {DOWNLOAD_GB} GB)"
        return f"{names.get(self.build, cuda)}: {self.why}"


class Way(NamedTuple):
    """One place to take torch from."""

    place: str  # in words
    address: str  # of a package index for torch alone; empty: the user's own sources
    version: str  # the end of the version to ask for: "+cu130"
    only: str = ""  # take it only if that is what it brings: "cpu" or "cuda 13", see `kind`


# What is there


def programs() -> Iterator[str]:
    """Every nvidia-smi that may be on this machine, the likeliest first."""
    found = shutil.which("nvidia-smi")
    if found:
        yield found
    if sys.platform == "win32":  # the driver's folder is not always on the path
        folders = [(os.environ.get("SYSTEMROOT", "C:\\Windows"), "System32")]
        for name in ("PROGRAMW6432", "PROGRAMFILES"):
            folders.append((os.environ.get(name, "C:\\Program Files"), "NVIDIA Corporation\\NVSMI"))
        paths = [os.path.join(*parts, "nvidia-smi.exe") for parts in folders]  # noqa: PTH118
    else:  # WSL puts it on the path of login shells alone
        paths = ["/usr/lib/wsl/lib/nvidia-smi", "/usr/bin/nvidia-smi", "/usr/local/bin/nvidia-smi"]
    for path in paths:
        if path != found and os.path.isfile(path):  # noqa: PTH113
            yield path


@cache
def expected_gb(proc: Path = Path("/proc/driver/nvidia")) -> int:
    """What an environment takes on the disk here: with torch's build for CUDA where NVIDIA's driver is installed."""
    return CUDA_GB if sys.platform != "darwin" and (next(programs(), None) or proc.is_dir()) else CPU_GB


def look(
    watch: Callable[[subprocess.Popen[bytes] | None], None] = lambda _: None,
    proc: Path = Path("/proc/driver/nvidia"),
) -> Seen:
    """What the NVIDIA driver says, within a minute.

    watch  is told every child that is started, and None after it: so that a caller can end it
    proc   what Linux's kernel module says, for a machine without nvidia-smi
    """
    if sys.platform == "darwin":
        return Seen()
    seen = Seen()
    for program in programs():
        seen = read(lambda *options: _ask([program, *options], watch))  # noqa: B023 - asked at once
        if seen.cards:
            return seen
    if seen.trouble:
        return seen
    return read_proc(proc)


def read(ask: Callable[..., tuple[int | None, str]]) -> Seen:
    """The same from one nvidia-smi: `ask(*options)` gives its exit code, None where it hangs, and what it says."""
    code, banner = ask()
    lines = [line.strip() for line in banner.splitlines() if line.strip()]
    if "No devices were found" in banner:
        return Seen()
    if code is None:
        return Seen(trouble=f"nvidia-smi did not answer within {SMI_SECONDS} s")
    if code != 0:
        return Seen(
            trouble=f'nvidia-smi says "{lines[0][:160]}"' if lines else f"nvidia-smi ended with {code}"
        )
    driver = _found(r"(?:Driver|KMD) Version:\s*(\d+(?:\.\d+)+)", banner)
    cuda = re.search(r"CUDA (?:UMD )?Version:\s*(\d+)\.(\d+)", banner)
    cards: list[Card] = []
    # the capability is new since driver 510
    for fields in ("name,driver_version,compute_cap", "name,driver_version"):
        code, said = ask(f"--query-gpu={fields}", "--format=csv,noheader")
        rows = [[part.strip() for part in line.split(",")] for line in said.splitlines()]
        rows = [row for row in rows if len(row) == fields.count(",") + 1]
        if code == 0 and rows:
            driver = _found(r"(\d+(?:\.\d+)+)", rows[0][1]) or driver
            cards = [Card(row[0], _pair(row[2]) if len(row) > 2 else None) for row in rows]
            break
    cards = cards or [Card("an NVIDIA card", None)]
    return Seen(tuple(cards), driver, (int(cuda[1]), int(cuda[2])) if cuda else None)


def read_proc(proc: Path) -> Seen:
    """The same from Linux's kernel module: Debian has nvidia-smi in a package of its own."""
    try:
        said = (proc / "version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Seen()
    driver = _found(r"Kernel Module\s+(?:for \S+\s+)?(\d+(?:\.\d+)+)", said)
    cards = []
    for path in sorted(proc.glob("gpus/*/information")):
        try:
            name = re.search(r"Model:\s*(.+)", path.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue
        cards.append(Card(name[1].strip() if name else "an NVIDIA card", None))
    return Seen(tuple(cards), driver) if driver and cards else Seen()


def _ask(
    command: list[str], watch: Callable[[subprocess.Popen[bytes] | None], None]
) -> tuple[int | None, str]:
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    if sys.platform == "win32":
        options["creationflags"] = subprocess.CREATE_NO_WINDOW
    else:
        options["start_new_session"] = True
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)
    except OSError as error:
        return 1, f"{error.strerror or error}"
    watch(child)
    try:
        out = child.communicate(timeout=SMI_SECONDS)[0]
    except subprocess.TimeoutExpired:
        if sys.platform == "win32":
            child.kill()
        else:
            os.killpg(child.pid, signal.SIGKILL)  # what it has started would hold its output open
        with suppress(subprocess.TimeoutExpired):  # stuck inside a broken driver it cannot even be killed
            child.wait(2)
        return None, ""
    finally:
        watch(None)
    return child.returncode, out.decode("utf-8", errors="replace")


# What to take


def decide(setting: str, seen: Seen, windows: bool = sys.platform == "win32") -> Choice:
    """The build to install.

    setting  what the user asks for: empty, one of NAMES, or the address of a package index
    Raises ValueError for the name of a build that there is not.
    """
    card = bool(seen.cards)
    if setting in NAMES:
        return Choice(setting, "asked for", card=card)
    if re.fullmatch(r"\w+", setting):
        raise ValueError(f"There is no build {setting!r} of torch: name {', '.join(NAMES)}, or an address.")
    if setting:
        return Choice("address", "asked for", card=card, address=setting)
    return choose(seen, windows)


def choose(seen: Seen, windows: bool = False) -> Choice:
    """The build that the newest card can use at once: a download of gigabytes that does not run serves no-one."""
    if seen.trouble:
        mend = "Restart the computer" if "mismatch" in seen.trouble else "Mend NVIDIA's driver"
        return Choice(
            "cpu", f"an NVIDIA driver is there, but {seen.trouble}",
            f"{mend} until nvidia-smi lists the card, then set up again: the processor computes until then.",
        )  # fmt: skip
    if not seen.cards:
        return Choice("cpu", "no NVIDIA card was found")
    todo = ""
    cards = sorted(seen.cards, key=lambda card: card.capability or (0, 0), reverse=True)
    version = seen.driver or "of an unknown version"
    for card in cards:
        able = [build for build in BUILDS if serves(build, card.capability)]
        for build in able:
            if runs(build, seen, windows):
                others = [other for other in cards if not serves(build, other.capability)]
                unused = f"; not for {', '.join(map(_told, others))}" if others else ""
                return Choice(build.name, f"{_told(card)}, driver {version}{unused}", todo, card=True)
        if able and not todo:
            first = able[0].driver_windows if windows else able[0].driver
            todo = f"Update NVIDIA's driver to {first[0]} or newer for {card.name}, then set up again."
    if todo:
        why = f"driver {version} is too old for {_told(cards[0])}"
    else:
        why = f"torch has no kernels for {', '.join(map(_told, cards))}"
    return Choice("cpu", why, todo, card=True)


def serves(build: Build, capability: tuple[int, int] | None) -> bool:
    """Whether this build has kernels for a card: those of the same major and no newer minor version run."""
    if capability is None:
        return True
    return any(k[0] == capability[0] and k[1] <= capability[1] for k in build.kernels)


def runs(build: Build, seen: Seen, windows: bool) -> bool:
    """Whether the driver can do this build's CUDA, by its own version or, with NVIDIA's `cuda-compat`, by its word."""
    first = build.driver_windows if windows else build.driver
    return _numbers(seen.driver) >= first or (seen.cuda is not None and seen.cuda >= build.cuda)


def ways(choice: Choice, system: str = sys.platform) -> list[Way]:
    """Where to take that build from, in this order; the first that has it.

    The registry has the build for CUDA 13.0 on Linux, and the processor's on Windows and macOS; a source of the
    user's own may have any.
    """
    own = "your own package source"
    if choice.build == "address":
        return [Way("that index", choice.address, "")]
    index = Way("PyTorch's index", f"{TORCH_INDEX}/{choice.build}", f"+{choice.build}")
    if choice.build == "cpu":
        return [Way(own, "", "", "cpu"), index] if system == "linux" else [Way(own, "", "")]
    if choice.build == "cu130" and system == "linux":
        return [Way(own, "", "", "cuda 13"), index]
    return [index]


def failure(choice: Choice, variable: str) -> str:
    """What to tell, and what to do, where no way brings the build. variable: the setting's name."""
    if choice.build == "address":
        return f"torch cannot be had from {hide(choice.address)}: look at {variable}."
    place = f"{TORCH_INDEX}/{choice.build}"
    said = f"The build {choice.build} of torch cannot be had: {place} does not answer, and no other source has it."
    mirror = f"Look at the network, or set {variable} to the address of a mirror of it"
    if choice.build == "cpu":
        return f"{said} {mirror}; {variable}={BUILDS[0].name} takes the build for CUDA, {DOWNLOAD_GB} GB."
    return f"{said} {mirror}; {variable}=cpu takes the build for the processor."


def kind(packages: list[str]) -> str:
    """ "cpu" or "cuda 13", by the names of the packages that come with torch."""
    majors = [found[1] for need in packages if (found := re.match(r"nvidia-[a-z-]+-cu(\d+)", need.strip()))]
    if majors:
        return f"cuda {majors[0]}"
    return "cuda" if any(need.strip().startswith("nvidia-") for need in packages) else "cpu"


# What has become of it

PROBE = (  # run by the Python that torch is in
    "import json, torch; c = torch.cuda; usable = c.is_available(); "
    "print(json.dumps([torch.__version__, torch.version.cuda or '', usable, "
    "[[c.get_device_name(n), *c.get_device_capability(n)] for n in range(c.device_count())] if usable else [], "
    "c.get_arch_list() if usable else []]))"
)


def verdict(choice: Choice, said: str, variable: str) -> tuple[str, str]:
    """(torch's version, a sentence where the card is not used although it could be, else "").

    said      what PROBE has printed; ValueError where it is something else
    variable  the name of the setting that names a build
    """
    version, cuda, usable, cards, kernels = json.loads(said)
    is_for = f"torch {version} is built for {'CUDA ' + cuda if cuda else 'the processor alone'}"
    wanted = choice.build.startswith("cu")
    if wanted and not cuda:
        return version, f"{is_for}, and {choice.build} was wanted: the NVIDIA card is not used. Set up again."
    if wanted and f"cu{cuda.replace('.', '')}" != choice.build:
        return version, f"{is_for}, and {choice.build} was wanted: set up again if the card is not used."
    if cuda and not usable:
        then = "see whether nvidia-smi lists it, restart if the driver was updated, then set up again"
        return version, f"{is_for} and finds no NVIDIA card: {then}."
    unserved = [name for name, *pair in cards if not _compiled_for(kernels, pair)]
    if cards and len(unserved) == len(cards):
        other = next((b.name for b in BUILDS if serves(b, tuple(cards[0][1:3]))), "cpu")
        note = f"{is_for} and has no kernels for {unserved[0]}: set {variable} to {other} and set up again."
        return version, note
    if choice.todo:
        return version, choice.todo
    if choice.card and not cuda and choice.build == "address":
        return version, f"{is_for}: the NVIDIA card is not used."
    return version, ""


def _compiled_for(kernels: list[str], pair: list[int]) -> bool:
    """Whether torch's list, as in ["sm_75", "sm_120", "compute_120"], holds kernels for this capability."""
    for name in kernels:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)a?", name)
        if found and found[1] == "compute" and [int(found[2]), int(found[3])] <= pair:
            return True
        if found and int(found[2]) == pair[0] and int(found[3]) <= pair[1]:
            return True
    return not kernels


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")) if version else ()


def _pair(text: str) -> tuple[int, int] | None:
    found = re.fullmatch(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _told(card: Card) -> str:
    return card.name + (" ({}.{})".format(*card.capability) if card.capability else "")
