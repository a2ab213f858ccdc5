"""Child processes that leave Blender alone: their environment, their start and their end. No `bpy`."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

GUARD = str(Path(__file__).with_name("guard.py"))
WINDOWS = os.name == "nt"
MISLEADING = {  # variables that would misdirect another Python
    "PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONEXECUTABLE", "PYTHONPLATLIBDIR", "PYTHONINSPECT",
    "PYTHONDONTWRITEBYTECODE",  # with it every start would compile torch again: 11 s of processor
    "VIRTUAL_ENV", "CONDA_PREFIX", "__PYVENV_LAUNCHER__", "PIP_TARGET", "PIP_PREFIX", "PIP_USER",
    "PIP_REQUIRE_VIRTUALENV", "UV_PROJECT_ENVIRONMENT", "UV_SYSTEM_PYTHON",
}  # fmt: skip


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment for a Python that is not ours, with `more` on top."""
    kept = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    return {**kept, "PYTHONUTF8": "1", "PYTHONNOUSERSITE": "1", **more}


def proxy_variables(proxy: str) -> dict[str, str]:
    """The environment variables that make programs go through `proxy`, or, if it is empty, as the system says."""
    kinds = ("http", "https", "all")
    proxies = {kind: url for kind, url in urllib.request.getproxies().items() if kind in kinds}
    named = {
        f"{kind}_proxy": url for kind, url in (dict.fromkeys(kinds, proxy) if proxy else proxies).items()
    }
    return named | {name.upper(): url for name, url in named.items()}


def pycache_of(python: Path, root: Path) -> Path:
    """Where the backend's Python keeps its compiled files: in its virtual environment, whose set-up begins to fill it
    (packages.try_out), or in `root` for a Python without one."""
    environment = python.parent.parent
    return environment / "pycache" if (environment / "pyvenv.cfg").is_file() else root / ".pycache"


def backend_environment(code: Path, pycache: Path) -> dict[str, str]:
    """The environment of a process that runs `python -P -m backend`.

    code     the folder that holds both packages: the extension's or the repository's; nothing is written there
    pycache  where Python keeps its compiled files instead
    """
    return clean_environment(PYTHONPATH=str(code), PYTHONPYCACHEPREFIX=str(pycache))


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a child in a group of its own and without a console. Raises OSError.

    In a group of its own a Ctrl-C in Blender's terminal (on Windows: a break sent to the child) stays where
    it belongs, and `kill` reaches the child's own children.
    """
    if WINDOWS:
        flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW  # type: ignore[attr-defined]
        return subprocess.Popen(command, creationflags=flags, **options)
    return subprocess.Popen(command, start_new_session=True, **options)


def start_bound(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """As `start`, of a child without an input that ends with this process, even where that is killed."""
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(errno.ENOENT, "no such program", command[0])
    guard = [sys.executable, "-I", "-S", GUARD]
    return start([*guard, *command], stdin=subprocess.PIPE, **options)


def terminate(child: subprocess.Popen[bytes]) -> None:
    """Ask a child and its children to end; on Windows there is no asking."""
    _signal(child, signal.SIGTERM)


def kill(child: subprocess.Popen[bytes]) -> None:
    """End a child and its children at once."""
    _signal(child, signal.SIGTERM if WINDOWS else signal.SIGKILL)


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    if child.poll() is not None:  # its number may be another process's by now
        return
    with suppress(OSError):  # it has just ended
        if WINDOWS:
            if GUARD in child.args and child.stdin is not None:  # type: ignore[operator]
                child.stdin.close()  # it ends what it guards
                with suppress(subprocess.TimeoutExpired):
                    child.wait(2.0)
            child.terminate()
        else:
            os.killpg(child.pid, number)


def how_it_ended(code: int | None) -> str:
    """An exit code in words."""
    if code is None:
        return "it stopped answering"
    if WINDOWS and code & 0xFFFFFFFF >= 0xC0000000:
        return f"it crashed with code 0x{code & 0xFFFFFFFF:08X}"
    if code >= 0:
        return f"it ended with code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        if name == "SIGKILL":
            return "the system ended it (SIGKILL), as it does when memory runs out"
        return f"it was ended by {name}"
    return f"it was ended by signal {-code}"
