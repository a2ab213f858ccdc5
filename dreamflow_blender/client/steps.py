"""What every long step of setting up is made of: progress, errors, and commands whose output is a log. No `bpy`."""

from __future__ import annotations

import queue
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .background import Stop
from .process import clean_environment, kill, start

TAIL = 40  # lines of the log that an error brings


@dataclass(frozen=True)
class Progress:
    fraction: float  # of the whole, 0 to 1; never less than before
    line: str  # for the panel: "torch 2.13.0, 590 MB"
    stage: str  # which part of the work this is


class SetupError(Exception):
    """`message` says what happened, `todo` what to do; `log` is the end of what was said, for a report."""

    def __init__(self, message: str, todo: str, log: str = "") -> None:
        super().__init__(f"{message} {todo}".strip())
        self.message, self.todo, self.log = message, todo, log


class CommandFailed(Exception):
    """A command ended with another code than 0; `last` is the last line that says something."""

    def __init__(self, code: int, last: str) -> None:
        super().__init__(f"code {code}: {last}")
        self.code, self.last = code, last


class Log:
    """A file with everything that the commands have printed, emptied first. Raises OSError."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("w", encoding="utf-8", errors="replace", newline="\n")
        self._lines: list[str] = []

    def write(self, line: str) -> None:
        self._lines = [*self._lines[-TAIL:], line]
        with suppress(OSError):  # the disk is full: the running command will report it better
            self._file.write(line + "\n")
            self._file.flush()

    def tail(self) -> str:
        return "\n".join(self._lines[-TAIL:])

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()


def run(command: Sequence[str], stop: Stop, log: Log, environment: dict[str, str]) -> Iterator[str]:
    """The lines that a command says, and "" every half second of silence, so that the caller can show life.

    Raises CommandFailed, OSError where it cannot be started, and Stopped after `stop.ask()`.
    """
    stop.check()
    log.write("$ " + " ".join(hide(part) for part in command))
    child = start(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    stop.watch(child)
    assert child.stdout is not None
    said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(child.stdout, said), daemon=True).start()
    last, telling = "", ""
    try:
        while True:
            try:
                line = said.get(timeout=0.5)
            except queue.Empty:
                stop.check()
                yield ""
                continue
            if line is None:
                break
            if line.strip():
                if not line.startswith("Progress "):  # pip's raw bytes, hundreds of them
                    log.write(line)
                last = line.strip()
                if last.lower().startswith(("error", "fatal", "× ")) or " error" in last.lower():
                    telling = last
            yield line
        code = child.wait()
    finally:
        stop.watch(None)
        if child.poll() is None:
            kill(child)
            child.wait()
    stop.check()
    if code != 0:
        raise CommandFailed(code, telling or last)


def ask(
    command: Sequence[str], stop: Stop, seconds: float, environment: dict[str, str] | None = None
) -> str | None:
    """What a short command says on standard output; None where it fails, or takes longer. Raises Stopped."""
    stop.check()
    try:
        child = start(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=clean_environment() if environment is None else environment,
        )  # fmt: skip
    except OSError:
        return None
    stop.watch(child)
    try:
        out = child.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        kill(child)
        child.communicate()
        return None
    finally:
        stop.watch(None)
    stop.check()
    return out.decode("utf-8", errors="replace").strip() if child.returncode == 0 else None


def hide(text: str) -> str:
    """Without the password of a URL."""
    scheme, separator, rest = text.partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}://***@{place}" if separator and at and "/" not in user else text


def _read(output: IO[bytes], said: queue.SimpleQueue[str | None]) -> None:
    """Lines, also those that a program writes over with a carriage return."""
    rest = b""
    with suppress(OSError, ValueError):
        while chunk := output.read1(1 << 16):  # type: ignore[attr-defined]
            *lines, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
            for line in lines:
                said.put(line.decode("utf-8", errors="replace"))
    said.put(rest.decode("utf-8", errors="replace"))
    said.put(None)
