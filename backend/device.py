"""Which device a run uses, and how it is made to give the same bytes again."""

from __future__ import annotations

import ctypes
import math
import os
import platform

import torch

from backend.errors import DeviceError, InputError

MEMORY_LIMIT = "DREAMFLOW_MEMORY_GB"  # an environment variable: of a card's memory, this process takes no more


def pick_device(name: str) -> torch.device:
    """ "auto" takes an NVIDIA card if torch can use one, else the processor.

    A card has its index: some of torch.cuda's functions want one. Raises DeviceError where the device asked
    for is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        built = "this torch was built without CUDA" if torch.version.cuda is None else "torch sees no card"
        raise DeviceError(
            f"There is no usable NVIDIA card: {built}.",
            "Use --device cpu, or install the card's driver and a CUDA build of torch.",
        )
    if name == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("There is no Apple GPU that torch can use.", "Use --device cpu.")
    return torch.device(name, torch.cuda.current_device()) if name == "cuda" else torch.device(name)


def prepare_device(device: torch.device, threads: int) -> int:
    """Everything of this process that a run on `device` depends on, whatever ran before it.

    Deterministic algorithms on the processor alone: torch's sums and enlargements have none on a card and
    would raise. `threads` of the processor (0: torch's choice). Returns the number in use.
    """
    if threads:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(device.type == "cpu")
    if device.type == "cpu":
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, and we read none
    elif device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory / 1e9
        torch.cuda.set_per_process_memory_fraction(min(1.0, memory_limit_gb() / whole), device)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # TF32 keeps 10 bits: enough for a network's convolutions, half a pixel off for a vertex times a matrix.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = True
    return torch.get_num_threads()


def give_back_blocks() -> None:
    """From now on, blocks of a megabyte and more go back to the system when they are freed, where glibc allocates.

    It raises its own limit to 32 MB when such a block is freed, and keeps what is smaller. A large network's
    activations are just that small on a CPU, and 6 GB of them came to lie about, free and unusable.
    """
    if platform.libc_ver()[0] == "glibc":
        M_MMAP_THRESHOLD = -3
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)


def memory_limit_gb() -> float:
    """Of a card's memory, as the user's environment says; infinity without a limit. Raises InputError."""
    said = os.environ.get(MEMORY_LIMIT, "").strip()
    if not said:
        return math.inf
    try:
        limit = float(said)
    except ValueError:
        limit = math.nan
    if not limit > 0:
        raise InputError(f"{MEMORY_LIMIT} has to be a number of GB above 0, got {said!r}.", "Change or unset it.")
    return limit
