"""`python -m backend doctor --json` and the like: one JSON object a line, in a process of its own. No `bpy`."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .background import Stop
from .process import backend_environment, how_it_ended, pycache_of, start
from .steps import SetupError

_TAIL = 3000  # bytes of its last words that go into a report


class CommandError(SetupError):
    """The backend says what is wrong, or ended as it should not."""


def run_backend(
    python: Path, code: Path, root: Path, arguments: Sequence[str], stop: Stop, **more: str
) -> Iterator[dict[str, Any]]:
    """The objects that `python -m backend ARGUMENTS` says. Raises CommandError, and Stopped after a Cancel.

    code  the folder that holds both packages     root  the working directory, made if need be
    more  further environment variables
    """
    root.mkdir(parents=True, exist_ok=True)
    environment = {**backend_environment(code, pycache_of(python, root)), **more}
    with tempfile.TemporaryFile() as errors:
        try:
            child = start(
                [str(python), "-P", "-m", "backend", *arguments],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, cwd=root, env=environment,
            )  # fmt: skip
        except OSError as error:
            raise CommandError(
                f"{python} cannot be started ({error.strerror}).", "Set DreamFlow up again."
            ) from error
        stop.watch(child)
        failed: dict[str, Any] = {}
        assert child.stdout is not None
        for line in child.stdout:
            try:
                said = json.loads(line)
            except ValueError:  # a library's print
                continue
            if isinstance(said, dict):
                failed = said if said.get("event") == "failed" else failed
                yield said
        code_at_end = child.wait()
        stop.watch(None)
        stop.check()
        if failed:
            raise CommandError(str(failed.get("message", "")), str(failed.get("todo", "")))
        if code_at_end not in (0, 1):  # 1: it found something, and has said so
            errors.seek(max(0, errors.seek(0, 2) - _TAIL))
            log = errors.read().decode("utf-8", errors="replace").strip()
            raise CommandError(
                f"The backend's {arguments[0]} failed: {how_it_ended(code_at_end)}.", "Repair may help.", log
            )
