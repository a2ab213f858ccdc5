"""Texture coordinates for a mesh: charts from a process of its own, or single triangles."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backend.texture.charts import single_triangles

CHILD = Path(__file__).with_name("unwrap_child.py")
POLL = 0.05  # seconds
PADDING = 4  # texels of gutter round a chart


class Unwrapped(NamedTuple):
    """Texture coordinates; face f's corners are t_tex_idx[f], in the order of t_pos_idx[f].

    v_tex      [T,2] float32 in [0,1], v upwards; no chart is mirrored
    t_tex_idx  [F,3] int64, rows of v_tex
    method     "charts" or "per-triangle"
    reason     why there are no charts, "" where there are
    """

    v_tex: NDArray[np.float32]
    t_tex_idx: NDArray[np.int64]
    method: str
    reason: str


def unwrap(
    v_pos: NDArray[np.float32],
    t_pos_idx: NDArray[np.int64],
    texture_size: int,
    padding: int = PADDING,
    timeout: float = 180,
    cancelled: Callable[[], bool] | None = None,
    weight: NDArray[np.float32] | None = None,
) -> Unwrapped:
    """Flatten a mesh into the unit square without overlap.

    v_pos         [V,3] float32, finite
    t_pos_idx     [F,3] int64; the mesh may be open, non-manifold, in pieces, and have degenerate faces
    texture_size  texels across, a hint for packing
    padding       texels between charts, about
    timeout       seconds; after that each triangle gets a place of its own, as where packing fails
    cancelled     called every 50 ms; True ends the search for charts
    weight        [F,3] what a seam costs along each side of a face, the first from corner 0 to corner 1; None: 1
    """
    if len(t_pos_idx) == 0:
        return Unwrapped(np.zeros((0, 2), np.float32), np.zeros((0, 3), np.int64), "charts", "")
    given = io.BytesIO()
    np.savez(
        given,
        v_pos=v_pos.astype(np.float32),
        t_pos_idx=t_pos_idx.astype(np.int64),
        texture_size=texture_size,
        padding=padding,
        timeout=timeout,
        **({} if weight is None else {"weight": weight.astype(np.float32)}),
    )
    content, reason = _run(given.getvalue(), timeout, cancelled)
    if not reason:
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as made:
                return Unwrapped(made["v_tex"], made["t_tex_idx"], "charts", "")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            reason = f"the unwrapping process left no result ({error})"
    return Unwrapped(*single_triangles(len(t_pos_idx), texture_size, padding), "per-triangle", reason)


def _run(given: bytes, timeout: float, cancelled: Callable[[], bool] | None) -> tuple[bytes, str]:
    """Run the child on its input: its output, and why it failed, or "". No file is made that could be left."""
    deadline = time.monotonic() + timeout
    child = subprocess.Popen(
        [sys.executable, str(CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdin is not None and child.stdout is not None and child.stderr is not None
    said: dict[str, bytes] = {}
    threads = [
        threading.Thread(target=_feed, args=(child.stdin, given)),
        threading.Thread(target=_collect, args=(child.stdout, said, "output")),
        threading.Thread(target=_collect, args=(child.stderr, said, "errors")),
    ]
    for thread in threads:
        thread.start()
    try:
        while True:
            try:
                code = child.wait(POLL)
                break
            except subprocess.TimeoutExpired:
                if cancelled is not None and cancelled():
                    return b"", "unwrapping was cancelled"
                if time.monotonic() > deadline:
                    return b"", f"unwrapping took longer than {timeout:g} s"
    finally:
        child.kill()
        child.wait()
        for thread in threads:
            thread.join()
        with suppress(OSError):
            child.stdin.close()  # open until now: its end would tell the child that this process is gone
    if code == 0:
        return said["output"], ""
    lines = said["errors"].decode("utf-8", errors="replace").strip().splitlines()
    return b"", f"the unwrapping process ended with code {code}: {lines[-1] if lines else 'no message'}"


def _feed(stream: IO[bytes], given: bytes) -> None:
    """Its size in eight bytes, and then the input."""
    rest = memoryview(struct.pack("<Q", len(given)) + given)
    with suppress(OSError):  # the child has ended
        while rest:
            rest = rest[os.write(stream.fileno(), rest) :]


def _collect(stream: IO[bytes], said: dict[str, bytes], name: str) -> None:
    with stream:
        said[name] = stream.read()
