"""Starts Warp, once and in silence: every module of ours that uses it imports `wp` from here.

Its native loader writes to the process's own output, past sys.stdout and sys.stderr, while standard
output may carry a protocol and standard error a display. On a machine without a card that is a warning
which `kernels.select` words better; all other output goes to stderr.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
import warp as wp

__all__ = ["launch", "wp"]  # started, below

NO_CARD = "Could not find or load the NVIDIA CUDA driver"  # and what Warp does about it, in the same line


@contextmanager
def kept_from_output(ignore: str) -> Iterator[None]:
    """What the block writes to file descriptors 1 and 2 goes to sys.stderr afterwards, less the lines that
    hold `ignore`. Does nothing where one of the two is closed, as under pythonw."""
    _flush()
    try:
        ours = [os.dup(1), os.dup(2)]
    except OSError:
        yield
        return
    with tempfile.TemporaryFile() as said:
        try:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            yield
        finally:
            _flush()  # what Python wrote meanwhile belongs to the block
            for number, copy in enumerate(ours, 1):
                os.dup2(copy, number)
                os.close(copy)
            said.seek(0)
            for line in said.read().decode("utf-8", errors="replace").splitlines():
                if line.strip() and ignore not in line and sys.stderr is not None:
                    sys.stderr.write(line + "\n")


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):  # None, closed, or a pipe without a reader
            stream.flush()


def launch(
    kernel: wp.Kernel, dim: int | tuple[int, ...], inputs: Sequence[Any], device: torch.device
) -> None:
    """On torch's current stream, so that neither waits for the other."""
    stream = wp.stream_from_torch(device) if device.type == "cuda" else None
    wp.launch(kernel, dim, inputs, device=wp.device_from_torch(device), stream=stream)


wp.config.log_level = wp.LOG_WARNING  # Warp greets on standard output
with kept_from_output(NO_CARD):
    wp.init()
