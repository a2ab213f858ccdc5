"""The few operations that need a kernel: each chooses its implementation by the device of its tensors.

`hash_encode`, `rasterize_ids` and `march_rays` take tensors on any device and call the fastest implementation that
this machine has for it; callers never branch. Every implementation of an operation has one signature, and a plain
torch twin that runs on every device. `select(device)` says which were chosen and why nothing faster is in use;
`with using("torch"):` asks for others.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from backend.errors import CardFailed, DeviceError, InputError
from backend.kernels.hashgrid import GridLayout
from backend.kernels.march import Samples

# by operation, fastest first: name, module of backend.kernels, devices it runs on
CANDIDATES: dict[str, tuple[tuple[str, str, tuple[str, ...] | None], ...]] = {
    "hash grid": (
        ("tcnn", "hashgrid_tcnn", ("cuda",)),
        ("warp", "hashgrid_warp", ("cuda", "cpu")),
        ("torch", "hashgrid", None),
    ),
    "rasteriser": (
        ("nvdiffrast", "raster_nvdiffrast", ("cuda",)),
        ("warp", "raster_warp", ("cuda", "cpu")),
        ("torch", "raster", None),
    ),
    "marching": (("warp", "march_warp", ("cuda", "cpu")), ("torch", "march", None)),
}
FUNCTIONS = {"hash grid": "hash_encode", "rasteriser": "rasterize_ids", "marching": "march"}  # of the modules
INSTALL = {
    "tcnn": "It takes an NVIDIA card and tiny-cuda-nn (github.com/NVlabs/tiny-cuda-nn), see docs/kernels.md.",
    "nvdiffrast": "It takes an NVIDIA card and nvdiffrast (github.com/NVlabs/nvdiffrast), see docs/kernels.md.",
    "warp": "It takes the package warp-lang (pip install warp-lang), on the CPU or with an NVIDIA driver.",
}
NAMES = ("torch", "warp", "tcnn", "nvdiffrast")
# for one kind of card, on the machine or elsewhere
COMPILED = {"tcnn": "tiny-cuda-nn", "nvdiffrast": "nvdiffrast"}

_asked: ContextVar[str | None] = ContextVar("kernels", default=None)


@dataclass(frozen=True)
class Kernels:
    """The implementations for one kind of device; all three dicts have the keys "hash grid", "rasteriser", "marching".

    names   "torch", "warp", "tcnn" or "nvdiffrast"
    why     why nothing faster; "" where nothing is faster
    broken  sentences about accelerators that are installed and do not run on this card
    """

    hash_encode: Callable[..., Tensor]  # see hashgrid.hash_encode
    rasterize_ids: Callable[..., Tensor]  # see raster.rasterize_ids
    march: Callable[..., Samples]  # see march.march
    names: dict[str, str]
    why: dict[str, str]
    broken: tuple[str, ...] = ()

    def slow(self, device: torch.device) -> str:
        """A sentence where an NVIDIA card has to do with the torch twins, which are many times slower; else ""."""
        slow = [what for what, name in self.names.items() if name == "torch"]
        if device.type != "cuda" or torch.version.hip or not slow:
            return ""
        why = min((self.why[what] for what in slow), key=len)  # about Warp alone, which can do all of them
        return f"In plain torch, many times slower: {', '.join(slow)}. {why}"

    def notes(self, device: torch.device) -> tuple[str, ...]:
        """What the user should know before a run on `device`."""
        return (*filter(None, [self.slow(device)]), *self.broken)


def hash_encode(x: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    """[N, levels * features], the grid's values at x [N,3] in [0,1]; see hashgrid.hash_encode."""
    return select(x.device).hash_encode(x, table, layout)


def rasterize_ids(pos_clip: Tensor, tri: Tensor, height: int, width: int) -> Tensor:
    """[H,W] int32: the triangle of tri [F,3] that covers each pixel, or -1; see raster.rasterize_ids."""
    return select(pos_clip.device).rasterize_ids(pos_clip, tri, height, width)


def march_rays(
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor,
    half: float,
    near: float,
    n_samples: int,
    generator: torch.Generator | None = None,
    budget: int | None = None,
) -> Samples:
    """Samples along R rays in occupied cells of the box [-half, half]^3; see march.march."""
    march = select(origins.device).march
    return march(origins, directions, occupancy, half, near, n_samples, generator, budget)


@contextmanager
def using(name: str) -> Iterator[None]:
    """In this block, the kernels of this name, as `select` takes it. Raises InputError for another word."""
    _check_name(name)
    before = _asked.set(name)
    try:
        yield
    finally:
        _asked.reset(before)


def select(device: torch.device | str, name: str | None = None) -> Kernels:
    """The fastest kernels for tensors on `device`, chosen once a process and kind of device.

    name  "torch" or "warp" for every operation, "tcnn" for the hash grid, "nvdiffrast" for the rasteriser; None: as
          `using` says. Raises InputError for another word and DeviceError where it cannot be had.
    """
    if name is not None:
        _check_name(name)
    kind = torch.device(device).type
    if kind == "cuda" and torch.version.hip:
        kind = "rocm"  # torch calls AMD's cards cuda; nothing below the torch twin runs on them
    return _select(kind, name or _asked.get())


def _check_name(name: str) -> None:
    if name not in NAMES:
        raise InputError(f"There are no kernels called {name!r}.", f"Choose one of {', '.join(NAMES)}.")


@cache
def _select(kind: str, asked: str | None) -> Kernels:
    broken: list[str] = []
    functions, names, why = zip(*(_choose(what, kind, asked, broken) for what in CANDIDATES), strict=True)
    by_name, by_why = (dict(zip(CANDIDATES, values, strict=True)) for values in (names, why))
    hash_encode, rasterize_ids, march = functions
    return Kernels(hash_encode, rasterize_ids, march, by_name, by_why, tuple(broken))


def _choose(what: str, kind: str, asked: str | None, broken: list[str]) -> tuple[Callable, str, str]:
    """(function, name, why nothing faster) of the first candidate that can be had; adds to `broken`."""
    wanted = asked if asked in [name for name, _, _ in CANDIDATES[what]] else None
    reasons: list[str] = []
    for name, module, kinds in CANDIDATES[what]:
        if wanted not in (None, name):
            reasons.append(f"{wanted} was asked for instead of {name}.")
            continue
        found = _load(name, module, kinds, kind)
        if isinstance(found, ModuleType) and name in COMPILED and (why := _try(name, found)):
            broken.append(why)
            found = why
        if isinstance(found, ModuleType):
            return getattr(found, FUNCTIONS[what]), name, " ".join(reasons)
        if wanted == name:
            raise DeviceError(f"The kernels asked for cannot be used: {found}", INSTALL[name])
        reasons.append(found)
    raise AssertionError("the torch twin can always be had")


def _load(name: str, module: str, kinds: tuple[str, ...] | None, kind: str) -> ModuleType | str:
    """The implementation's module, or the sentence that says why it cannot be used."""
    if kinds is not None and kind not in kinds:
        return f"{name} runs on {' and '.join(kinds)}, not on {kind}."
    try:
        found = importlib.import_module(f"backend.kernels.{module}")
    # what tinycudann and warp raise without a card or with a library that does not load
    except (ImportError, OSError, RuntimeError) as error:
        return f"{name} could not be loaded ({_first_line(error)})."
    if name == "warp" and kind == "cuda" and not found.wp.is_cuda_available():
        return _too_old(found.wp)
    return found


def _try(name: str, found: ModuleType) -> str:
    """One tiny launch on the current card: a library can be imported that was compiled for another card.

    Returns "", or the sentence that says what happened and what to do. Raises CardFailed where the launch has ended
    all use of the card in this process.
    """
    device = torch.device("cuda", torch.cuda.current_device())
    try:
        found.probe(device)
        return ""
    except (RuntimeError, OSError, ImportError, DeviceError) as error:
        said = _first_line(error)
    library, card = COMPILED[name], torch.cuda.get_device_name(device)
    # CUDA keeps the error of a failed launch until it is read, which torch does after its next launch
    for last in (False, True):
        try:
            torch.ones(1, device=device).item()
            break
        except RuntimeError as error:
            if last:
                raise CardFailed(
                    f"{library} has ended all use of the {card} in this process: {said}",
                    f"Uninstall {library}, or build it again on this machine (docs/kernels.md).",
                ) from error
    return (
        f"{library} is installed and does not run on the {card} ({said}): other kernels are used."
        f" Build it again on this machine (docs/kernels.md), or uninstall it."
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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
