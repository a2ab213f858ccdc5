"""Texture coordinates for a mesh: charts from a process of its own, or single triangles."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

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
    timeout: float = 60,
    cancelled: Callable[[], bool] | None = None,
) -> Unwrapped:
    """Flatten a mesh into the unit square without overlap.

    v_pos         [V,3] float32, finite
    t_pos_idx     [F,3] int64; the mesh may be open, non-manifold, in pieces, and have degenerate faces
    texture_size  texels across, a hint for packing
    padding       texels between charts, about
    timeout       seconds; after that each triangle gets a place of its own, as where packing fails
    cancelled     called every 50 ms; True ends the search for charts
    """
    if len(t_pos_idx) == 0:
        return Unwrapped(np.zeros((0, 2), np.float32), np.zeros((0, 3), np.int64), "charts", "")
    with tempfile.TemporaryDirectory(prefix="unwrap-", ignore_cleanup_errors=True) as folder:
        source, target, log = (Path(folder) / name for name in ("in.npz", "out.npz", "log.txt"))
        np.savez(
            source,
            v_pos=v_pos.astype(np.float32),
            t_pos_idx=t_pos_idx.astype(np.int64),
            texture_size=texture_size,
            padding=padding,
            timeout=timeout,
        )
        reason = _run(source, target, log, timeout, cancelled)
        if not reason:
            try:
                with np.load(target, allow_pickle=False) as made:
                    return Unwrapped(made["v_tex"], made["t_tex_idx"], "charts", "")
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                reason = f"the unwrapping process left no result ({error})"
    return Unwrapped(*single_triangles(len(t_pos_idx), texture_size, padding), "per-triangle", reason)


def _run(source: Path, target: Path, log: Path, timeout: float, cancelled: Callable[[], bool] | None) -> str:
    """Run the child; why it failed, or ""."""
    deadline = time.monotonic() + timeout
    with log.open("wb") as errors:
        # Standard input stays open and empty: its end tells the child that this process is gone.
        child = subprocess.Popen(
            [sys.executable, str(CHILD), str(source), str(target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        try:
            while True:
                try:
                    code = child.wait(POLL)
                    break
                except subprocess.TimeoutExpired:
                    if cancelled is not None and cancelled():
                        return "unwrapping was cancelled"
                    if time.monotonic() > deadline:
                        return f"unwrapping took longer than {timeout:g} s"
        finally:
            child.kill()
            child.wait()
            if child.stdin is not None:
                child.stdin.close()
    if code == 0:
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"the unwrapping process ended with code {code}: {lines[-1] if lines else 'no message'}"
