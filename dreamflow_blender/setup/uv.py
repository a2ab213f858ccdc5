"""uv: found or brought, and the environment with a Python of its own that it makes. No `bpy`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from ..client.background import Stop
from ..client.process import WINDOWS, clean_environment, proxy_variables
from ..client.steps import CommandFailed, Log, SetupError, ask, run
from . import sources
from .folder import python_in
from .sources import Setting

WANTED = ">=3.11,<3.14"  # the Pythons that the packages are fixed for
VERSIONS = ("3.11", "3.12", "3.13")
OLDEST = (0, 9)  # of uv
BUNDLED_PIP = (
    "import ensurepip, pathlib; print(*pathlib.Path(ensurepip.__file__).parent.glob('_bundled/pip-*.whl'))"
)


@dataclass(frozen=True)
class Uv:
    """One uv, and everything that it is told beside a command's own words."""

    program: str
    cache: Path
    variables: dict[str, str]  # its environment

    def install(self, python: Path, *what: str) -> list[str]:
        """The command that installs into the environment of this Python."""
        places = ["--python", str(python), "--cache-dir", str(self.cache)]
        return [self.program, "pip", "install", "--no-config", "--no-progress", *places, *what]


def ask_pip(python: str, stop: Stop) -> tuple[list[Setting], list[str] | None]:
    """What the user has told pip and uv, and this Python's pip, which may be the wheel that it carries for others."""
    pip = [python, "-m", "pip"]
    if not python or ask([*pip, "--version"], stop, 60) is None:
        wheel = ask([python, "-I", "-c", BUNDLED_PIP], stop, 20) if python else None
        if not wheel or not Path(wheel).is_file():
            return sources.read_uv(), None
        pip = [python, f"{wheel}/pip"]
    # or `user = true` narrows `config` too
    whole = clean_environment(PIP_USER="0", PIP_GLOBAL="0", PIP_SITE="0")
    debug = ask([*pip, "config", "debug"], stop, 60, whole) or ""
    return [*sources.read_pip(debug), *sources.read_uv()], pip


def bring(
    tools: Path,
    cache: Path,
    settings: list[Setting],
    pip: list[str] | None,
    proxy: str,
    stop: Stop,
    log: Log,
) -> Generator[str, None, Uv]:
    """The uv in `tools`, else one on PATH, else brought there by pip. Yields lines. SetupError, CommandFailed.

    settings, pip  as `ask_pip` gives them
    """
    base = sources.without_theirs(clean_environment(**proxy_variables(proxy)))
    program = _usable(tools, stop)
    if program is None:
        if pip is None:
            raise SetupError(
                "There is neither uv nor pip on this machine, which fetch the packages.",
                "Install uv (docs.astral.sh/uv) or pip, then set up again.",
            )
        yield from _bring_by_pip(tools, pip, stop, log, {**base, **sources.for_pip(settings)})
        program = _usable(tools, stop)
    if program is None:
        raise SetupError("uv was brought and does not start.", "Copy the report.", log.tail())
    own = {
        "UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "automatic", "UV_PYTHON_INSTALL_DIR": str(tools / "python"),
        "UV_PYTHON_INSTALL_BIN": "0", "UV_PYTHON_INSTALL_REGISTRY": "0", "UV_SYSTEM_CERTS": "1",
    }  # fmt: skip
    log.write(f"uv: {program}. From your settings: {sources.as_text(settings) or 'nothing'}.")
    return Uv(program, cache, {**base, **sources.for_uv(settings), **own})


def make_environment(
    uv: Uv, target: Path, asked: str, fallback: str, stop: Stop, log: Log
) -> Generator[str, None, None]:
    """A new environment in `target`, in the place of whatever is there. Yields lines.

    asked     a Python to build on, its path or version; empty: any that uv finds here, else one that it fetches
    fallback  a Python for where that fails too: Blender's own, which goes with this Blender
    Raises SetupError.
    """
    for wanted in [asked] if asked else filter(None, [WANTED, fallback]):
        options = ["--no-project", "--no-config", "--clear", "--python", wanted]
        try:
            yield from run([uv.program, "venv", *options, str(target)], stop, log, uv.variables)
        except CommandFailed as failed:
            log.write(f"No environment with {wanted}: {failed.last}")
        if version_of(str(python_in(target)), stop) in VERSIONS:
            return
    if asked:
        raise SetupError(
            f"{asked} is no Python 3.11 to 3.13 that can make environments.",
            "Name another one in the preferences, or leave the field empty.",
            log.tail(),
        )
    raise SetupError(
        "There is no Python 3.11, 3.12 or 3.13 on this machine, and none could be fetched.",
        "Get Python 3.11 from python.org or your system's package manager, then set up again.",
        log.tail(),
    )


def version_of(python: str, stop: Stop) -> str:
    """ "3.11" of a 64-bit Python; empty where it does not run."""
    code = "import sys, ssl; print('%d.%d' % sys.version_info[:2] if sys.maxsize > 2**32 else '')"
    return ask([python, "-I", "-c", code], stop, 20) or ""


def base_of(python: Path, stop: Stop) -> str:
    """The Python that an environment is built on."""
    return ask([str(python), "-I", "-c", "import sys; print(sys._base_executable)"], stop, 20) or ""


def _usable(tools: Path, stop: Stop) -> str | None:
    """The uv in `tools`, or on PATH, that is new enough."""
    name = "uv.exe" if WINDOWS else "uv"
    brought = [tools / "uv" / folder / name for folder in ("bin", "Scripts")]
    for program in [*(str(path) for path in brought if path.is_file()), shutil.which("uv")]:
        found = re.match(r"uv (\d+)\.(\d+)", (ask([program, "--version"], stop, 30) if program else "") or "")
        if found and (int(found[1]), int(found[2])) >= OLDEST:
            return program
    return None


def _bring_by_pip(
    tools: Path, pip: list[str], stop: Stop, log: Log, variables: dict[str, str]
) -> Generator[str, None, None]:
    """Put uv into tools/uv. Yields lines."""
    beside = tools / "uv.new"
    shutil.rmtree(beside, ignore_errors=True)
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    wanted = f"uv>={OLDEST[0]}.{OLDEST[1]}"
    yield from run([*pip, "install", *options, "--target", str(beside), wanted], stop, log, variables)
    shutil.rmtree(tools / "uv", ignore_errors=True)
    beside.replace(tools / "uv")
