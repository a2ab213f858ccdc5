"""The few operations that need a kernel, and the choice of who does them.

Chosen once a run: `select(device)` gives the fastest implementation that this machine has, what it is
called, and a sentence on why nothing faster is in use. Callers never branch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from backend.kernels import hashgrid


@dataclass(frozen=True)
class Kernels:
    hash_encode: Callable  # hashgrid.hash_encode
    rasterize_ids: Callable  # raster.rasterize_ids
    names: dict[str, str]  # "hash grid", "rasteriser" -> "torch", "warp", "tcnn", "nvdiffrast"
    why: dict[str, str]  # the same keys -> why nothing faster is in use, "" where nothing is


def select(device: torch.device | str, override: str | None = None) -> Kernels:
    """The kernels for tensors on `device`."""
    from backend.kernels import raster

    names = {"hash grid": "torch", "rasteriser": "torch"}
    return Kernels(hashgrid.hash_encode, raster.rasterize_ids, names, {key: "" for key in names})
