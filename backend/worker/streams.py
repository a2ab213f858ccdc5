"""Standard input and output for one owner alone, and everybody else's words to a log.

On Windows `os.dup2` sets the process's standard handles, too, so this holds for libraries that use those.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from backend.errors import InputError
from backend.files import disk_errors
from dreamflow_blender.contract.files import open_handle
from dreamflow_blender.contract.protocol import MAX_LINE


def take_streams() -> tuple[int, int]:
    """What are descriptors 0 and 1 now, for the caller alone. 0 is empty from here on, and 1 is where 2 goes.

    No child process inherits them. InputError where they are closed.
    """
    try:
        inward, outward = os.dup(0), os.dup(1)
    except OSError as error:
        message = "A worker needs its standard input and output."
        raise InputError(message, "Start it with a pipe for each.") from error
    try:
        os.fstat(2)
    except OSError:  # a client without a console has given none
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)  # what is said last must not be lost
    return inward, outward


def lines(source: int) -> Iterator[bytes]:
    """Lines without their ends, until the end of input. Of a longer one than MAX_LINE its first MAX_LINE + 1
    bytes, of which no message can be made; of a torn last one nothing."""
    buffer, skipping = bytearray(), False
    with suppress(OSError):  # as good as the end
        while chunk := os.read(source, 1 << 16):
            *whole, rest = chunk.split(b"\n")
            for end in whole:
                if not skipping:
                    yield bytes(buffer + end)
                buffer, skipping = bytearray(), False
            buffer += rest
            if len(buffer) > MAX_LINE and not skipping:
                yield bytes(buffer)
                skipping = True
            if skipping:
                buffer.clear()


class Output:
    """What is written to standard output and error, by Python or by libraries in C, goes to this file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        with disk_errors(self._path):
            log = open_handle(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._before = os.dup(2)
        _point(log)

    def __exit__(self, *_: object) -> None:
        _point(self._before)


def _point(target: int) -> None:
    """1 and 2 to this, which is closed."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError):  # a full disk
                stream.flush()
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
