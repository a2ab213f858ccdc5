"""The few operations that need a kernel, and the choice of who does them.

Chosen once a run: `select(device)` gives the fastest implementation that this machine has, what it is
called, and a sentence on why nothing faster is in use. Callers never branch. Every implementation of an
operation has one signature, and a plain torch twin that runs on every device.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch

from backend.errors import DeviceError, InputError

# fastest first: name, module of backend.kernels, devices it runs on
HASH_GRID = (
    ("tcnn", "hashgrid_tcnn", ("cuda",)),
    ("warp", "hashgrid_warp", ("cuda", "cpu")),
    ("torch", "hashgrid", None),
)
RASTERISER = (
    ("nvdiffrast", "raster_nvdiffrast", ("cuda",)),
    ("warp", "raster_warp", ("cuda", "cpu")),
    ("torch", "raster", None),
)
MARCHING = (
    ("warp", "march_warp", ("cuda", "cpu")),
    ("torch", "march", None),
)
INSTALL = {
    "tcnn": "It takes an NVIDIA card and tiny-cuda-nn (github.com/NVlabs/tiny-cuda-nn), see docs/kernels.md.",
    "nvdiffrast": "It takes an NVIDIA card and nvdiffrast (github.com/NVlabs/nvdiffrast), see docs/kernels.md.",
    "warp": "It takes the package warp-lang (pip install warp-lang), on the CPU or with an NVIDIA driver.",
}
OVERRIDES = ("torch", "warp", "tcnn", "nvdiffrast")


@dataclass(frozen=True)
class Kernels:
    """What a run uses; `names` and `why` have the keys "hash grid", "rasteriser" and "marching"."""

    hash_encode: Callable  # (x, table, layout) -> [N, width], see hashgrid.hash_encode
    rasterize_ids: Callable  # (pos_clip, tri, height, width) -> [H,W], see raster.rasterize_ids
    march: Callable  # (origins, directions, occupancy, half, near, n_samples, generator, budget), see march.march
    names: dict[str, str]  # "torch", "warp", "tcnn" or "nvdiffrast"
    why: dict[str, str]  # why nothing faster is in use; "" where nothing is faster

    def slow(self, device: torch.device) -> str:
        """A sentence where an NVIDIA card has to do with the torch twins, which are many times slower; else ""."""
        slow = [what for what, name in self.names.items() if name == "torch"]
        if device.type != "cuda" or torch.version.hip or not slow:
            return ""
        why = min((self.why[what] for what in slow), key=len)  # about Warp alone, which can do all of them
        return f"In plain torch, many times slower: {', '.join(slow)}. {why}"


def select(device: torch.device | str, override: str | None = None) -> Kernels:
    """The fastest kernels for tensors on `device`; they take tensors on the CPU, too.

    override  "torch" or "warp" for every operation, "tcnn" for the hash grid, "nvdiffrast" for the
              rasteriser. Raises InputError for another word and DeviceError where it cannot be had.
    """
    if override is not None and override not in OVERRIDES:
        raise InputError(
            f"There are no kernels called {override!r}.", f"Choose one of {', '.join(OVERRIDES)}."
        )
    kind = torch.device(device).type
    if kind == "cuda" and torch.version.hip:
        kind = "rocm"  # torch calls AMD's cards cuda; nothing below the torch twin does
    hash_encode, grid_name, grid_why = _choose(HASH_GRID, "hash_encode", kind, override)
    rasterize_ids, raster_name, raster_why = _choose(RASTERISER, "rasterize_ids", kind, override)
    march, march_name, march_why = _choose(MARCHING, "march", kind, override)
    return Kernels(
        hash_encode,
        rasterize_ids,
        march,
        {"hash grid": grid_name, "rasteriser": raster_name, "marching": march_name},
        {"hash grid": grid_why, "rasteriser": raster_why, "marching": march_why},
    )


def _choose(candidates: tuple, function: str, kind: str, override: str | None) -> tuple[Callable, str, str]:
    """(function, name, why nothing faster) of the first candidate that can be had."""
    wanted = override if override in [name for name, _, _ in candidates] else None
    reasons: list[str] = []
    for name, module, kinds in candidates:
        if wanted not in (None, name):
            reasons.append(f"{wanted} was asked for instead of {name}.")
            continue
        found = _load(name, module, kinds, kind)
        if not isinstance(found, str):
            chosen = getattr(found, function)
            if kinds == ("cuda",):
                chosen = _also_on_the_cpu(chosen, _choose(candidates, function, "cpu", None)[0])
            return chosen, name, " ".join(reasons)
        if wanted == name:
            raise DeviceError(f"The kernels asked for cannot be used: {found}", INSTALL[name])
        reasons.append(found)
    raise AssertionError("the torch twin can always be had")


def _also_on_the_cpu(on_card: Callable, on_cpu: Callable) -> Callable:
    """Kernels for a card alone, and the CPU's for tensors there: UVs are looked at before a job is on the card."""

    def run(first: torch.Tensor, *rest: object) -> torch.Tensor:
        return (on_cpu if first.device.type == "cpu" else on_card)(first, *rest)

    return run


def _load(name: str, module: str, kinds: tuple[str, ...] | None, kind: str) -> ModuleType | str:
    """The implementation's module, or the sentence that says why it cannot be used."""
    if kinds is not None and kind not in kinds:
        return f"{name} runs on {' and '.join(kinds)}, not on {kind}."
    try:
        found = importlib.import_module(f"backend.kernels.{module}")
    # what tinycudann and warp raise without a card or with a library that does not load
    except (ImportError, OSError, RuntimeError) as error:
        return f"{name} could not be loaded ({(str(error).splitlines() or [''])[0]})."
    if name == "warp" and kind == "cuda" and not found.wp.is_cuda_available():
        return _too_old(found.wp)
    return found


def _too_old(wp: ModuleType) -> str:
    """Why Warp finds no card where torch has one."""
    built, there = wp.get_cuda_toolkit_version(), wp.get_cuda_driver_version()
    if built is None:
        return "warp was built without CUDA: install warp-lang from the package index."
    has = f", which has {there[0]}.{there[1]}" if there else ""
    return (
        f"warp {wp.__version__} is built with CUDA {built[0]}.{built[1]} and needs a driver for CUDA {built[0]}.0"
        f" or newer: update the card's driver{has}."
    )
