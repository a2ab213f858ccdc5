"""A Python 3.11 to 3.13 to build on: found on this machine, or brought by uv; and uv itself, by pip. No `bpy`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from ..client.background import Stop
from ..client.process import WINDOWS, clean_environment
from ..client.steps import CommandFailed, Log, ask, run

VERSIONS = ((3, 11), (3, 12), (3, 13))  # the best tested first
UV = "uv>=0.9"  # whichever is newest knows the newest cards' builds of torch
PROBE = "import sys, venv, ssl; print(*sys.version_info[:2], sys.maxsize > 2**32, sys.executable)"
BUNDLED_PIP = (
    "import ensurepip, pathlib; print(*pathlib.Path(ensurepip.__file__).parent.glob('_bundled/pip-*.whl'))"
)


def find_python(asked: str, stop: Stop) -> str | None:
    """The path of a 64-bit Python that can make environments, None where there is none.

    asked  the only one to look at, if not empty; else Blender's own is passed over, since the next Blender
           replaces it
    """
    if asked:
        found = probe([asked], stop)
        return found[1] if found and found[0] in VERSIONS else None
    for version in VERSIONS:
        for command in _candidates(version):
            found = probe(command, stop)
            if found and found[0] == version and not is_blenders(found[1]):
                return found[1]
    return None


def probe(command: list[str], stop: Stop) -> tuple[tuple[int, int], str] | None:
    """The version and the path of a Python; None where it does not run, or has no venv and ssl."""
    said = ask([*command, "-I", "-c", PROBE], stop, 20)
    words = said.split(maxsplit=3) if said else []
    if len(words) != 4 or words[2] != "True" or not (words[0] + words[1]).isdigit():
        return None
    return (int(words[0]), int(words[1])), words[3]


def _candidates(version: tuple[int, int]) -> Iterator[list[str]]:
    """Commands that may start this Python, the likeliest first; those of `PATH` only where they are there."""
    name = f"{version[0]}.{version[1]}"
    for word in (f"python{name}", "python3", "python"):
        if shutil.which(word):
            yield [word]
    if WINDOWS and shutil.which("py"):
        yield ["py", f"-{name}"]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path("~/.pyenv").expanduser())
    data = Path(os.environ.get("APPDATA", ".")) if WINDOWS else Path("~/.local/share").expanduser()
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or data / "uv" / "python")
    inside = ("python.exe",) if WINDOWS else ("bin", f"python{name}")
    places = [
        *sorted((pyenv / "versions").glob(f"{name}.*"), reverse=True),
        *sorted((pyenv / "pyenv-win" / "versions").glob(f"{name}.*"), reverse=True),
        *sorted(uv.glob(f"cpython-{name}*"), reverse=True),
    ]
    if sys.platform == "darwin":
        places += [
            Path("/opt/homebrew"), Path("/usr/local"),
            Path("/Library/Frameworks/Python.framework/Versions") / name,
        ]  # fmt: skip
    if WINDOWS:
        local = Path(os.environ.get("LOCALAPPDATA", "."))
        places.append(local / "Programs" / "Python" / f"Python{version[0]}{version[1]}")
    for place in places:
        if place.joinpath(*inside).is_file():
            yield [str(place.joinpath(*inside))]


def is_blenders(python: str) -> bool:
    """Whether this Python is part of a Blender: 4.5/python/bin/python3.11 beside 4.5/scripts."""
    parents = Path(os.path.realpath(python)).parents
    return any(place.name == "python" and (place.parent / "scripts").is_dir() for place in parents)


# uv


def find_uv(tools: Path) -> Path | None:
    """The uv that `bring_uv` has put there."""
    name = "uv.exe" if WINDOWS else "uv"
    return next(
        (p for p in (tools / "uv" / "bin" / name, tools / "uv" / "Scripts" / name) if p.is_file()), None
    )


def bring_uv(
    tools: Path, pythons: list[str], stop: Stop, log: Log, environment: dict[str, str]
) -> Iterator[str]:
    """Put uv into tools/uv with the pip of the first of these Pythons that can. Yields lines.

    Raises CommandFailed where none can: no pip, no network.
    """
    failure = CommandFailed(1, "There is no pip on this machine.")
    for python in pythons:
        pip = pip_of(python, stop)
        if pip is None:
            continue
        beside = tools / "uv.new"
        shutil.rmtree(beside, ignore_errors=True)
        options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
        try:
            yield from run([*pip, "install", *options, "--target", str(beside), UV], stop, log, environment)
        except CommandFailed as failed:
            failure = failed
        else:
            shutil.rmtree(tools / "uv", ignore_errors=True)
            beside.replace(tools / "uv")
            return
    raise failure


def pip_of(python: str, stop: Stop) -> list[str] | None:
    """The command of this Python's pip, or of the wheel of pip that it carries for new environments."""
    if ask([python, "-m", "pip", "--version"], stop, 60):
        return [python, "-m", "pip"]
    wheel = ask([python, "-I", "-c", BUNDLED_PIP], stop, 20)
    return [python, f"{wheel}/pip"] if wheel and Path(wheel).is_file() else None


def bring_python(uv: Path, tools: Path, stop: Stop, log: Log, environment: dict[str, str]) -> Iterator[str]:
    """Have uv bring a Python into tools/python; `brought_python` then finds it. Yields lines; CommandFailed."""
    name = ".".join(map(str, VERSIONS[0]))
    places = {"UV_PYTHON_INSTALL_DIR": str(tools / "python"), "UV_PYTHON_INSTALL_BIN": "0"}
    options = {"UV_PYTHON_INSTALL_REGISTRY": "0", "UV_NO_CONFIG": "1"}
    command = [str(uv), "python", "install", "--managed-python", name]
    yield from run(command, stop, log, {**environment, **places, **options})


def brought_python(tools: Path, stop: Stop) -> str | None:
    """A Python that uv has brought."""
    for version in VERSIONS:
        name = f"{version[0]}.{version[1]}"
        inside = ("python.exe",) if WINDOWS else ("bin", f"python{name}")
        for place in sorted((tools / "python").glob(f"cpython-{name}*"), reverse=True):
            found = probe([str(place.joinpath(*inside))], stop)
            if found:
                return found[1]
    return None


def pip_settings(python: str | None, stop: Stop) -> dict[str, str]:
    """What the user has told pip about indexes, as uv's environment variables: uv does not read pip's files."""
    pip = pip_of(python, stop) if python else None
    said = ask([*pip, "config", "list"], stop, 60, clean_environment()) if pip else None
    told: dict[str, str] = {}
    for line in (said or "").splitlines():
        name, _, value = line.partition("=")
        told[name.rpartition(".")[2]] = value.strip().strip("'\"").replace("\\n", " ").strip()
    links = [place for place in told.get("find-links", "").split() if "://" in place or Path(place).exists()]
    told["find-links"] = ",".join(
        links
    )  # uv separates them so; it fails where pip passes over a folder that is gone
    names = {
        "index-url": "UV_DEFAULT_INDEX",
        "extra-index-url": "UV_INDEX",
        "find-links": "UV_FIND_LINKS",
        "trusted-host": "UV_INSECURE_HOST",
        "cert": "SSL_CERT_FILE",
        "proxy": "ALL_PROXY",
    }
    settings = {
        theirs: told[name] for name, theirs in names.items() if told.get(name) and theirs not in os.environ
    }
    if "UV_INDEX" in settings:  # pip takes the best version of all indexes, so uv shall do so too
        settings["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return settings
