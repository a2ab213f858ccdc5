"""Which device a run uses, and how it is made to give the same bytes again."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import time
from collections.abc import Callable
from statistics import median

import torch

from backend.errors import CardFailed, DeviceError, InputError

# an environment variable: of a card's memory, this process takes no more
MEMORY_LIMIT = "DREAMFLOW_MEMORY_GB"
# Of a card's memory, where its driver spills: the desktop has the rest. A run that spills gets many times slower and is
# never told; one that meets its limit gets torch's error, and is resumed with less (memory.MemorySavings).
SPILLING = 0.9
TURNS, LONGEST = 75, 1.0  # of choose_threads: turns, and seconds after which none begins
SLOWER = 1.3  # times as long as one thread: idle, several take less than one


def pick_device(name: str) -> torch.device:
    """The device of this name, as `choose_device` gives it, for callers that show no notes."""
    return choose_device(name)[0]


def choose_device(name: str) -> tuple[torch.device, str]:
    """(the device, what the user should know). "auto" takes an NVIDIA card if torch can use one, else the processor.

    A card has its index, since some of torch.cuda's functions want one, and has run one small kernel: a card that
    is there may be older or newer than all that torch was built for, or in a bad state. Then "auto" takes the
    processor and the note says why; "cuda" raises DeviceError, as do devices that are not there.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu"), ""
        try:
            return _card(), ""
        except DeviceError as error:
            return torch.device("cpu"), f"Running on the CPU. {error.message} {error.todo}"
    if name == "cuda":
        if not torch.cuda.is_available():
            built = (
                "this torch was built without CUDA" if torch.version.cuda is None else "torch sees no card"
            )
            raise DeviceError(
                f"There is no usable NVIDIA card: {built}.",
                "Install the card's driver and a CUDA build of torch. Or use --device cpu.",
            )
        return _card(), ""
    if name == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("There is no Apple GPU that torch can use.", "Use --device cpu.")
    return torch.device(name), ""


def _card() -> torch.device:
    """The current one, after it has added two numbers. Raises DeviceError where it cannot, also as CardFailed."""
    try:
        device = torch.device("cuda", torch.cuda.current_device())
        torch.ones(2, device=device).sum().item()
        return device
    except (RuntimeError, AssertionError) as error:  # torch.cuda's own Python says some things by assert
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "no kernel image" in said:
            raise DeviceError(*_without_kernels(device)) from error
        raise CardFailed(
            f"The NVIDIA card cannot be used: {said}",
            "Close other programs that use it, update its driver and restart. Or use --device cpu.",
        ) from error


def _without_kernels(device: torch.device) -> tuple[str, str]:
    """What to say of a card that torch was not built for, and what to do."""
    major, minor = torch.cuda.get_device_capability(device)
    built_for = ", ".join(torch.cuda.get_arch_list()) or "no card"
    message = (
        f"This torch {torch.__version__} has no kernels for the {torch.cuda.get_device_name(device)}"
        f" (sm_{major}{minor}): it was built for {built_for}."
    )
    if major < 8:  # builds for CUDA 12.6 go back to sm_50, later ones do not
        return (
            message,
            "Install torch's build for CUDA 12.6, the last one for older cards. Or use --device cpu.",
        )
    return message, "Install a newer build of torch. Or use --device cpu."


def prepare_device(device: torch.device, threads: int) -> int:
    """Everything of this process that a run on `device` depends on, whatever ran before it.

    Deterministic algorithms on the processor alone: torch's sums and enlargements have none on a card and
    would raise. `threads` of the processor (0: torch's choice). Returns the number in use.
    """
    if threads:
        torch.set_num_threads(threads)
    # what use_deterministic_algorithms sets, without torch's compiler, which takes that two seconds to import
    torch.set_deterministic_debug_mode("error" if device.type == "cpu" else "default")
    if device.type == "cpu":
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, and we read none
    elif device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory / 1e9
        torch.cuda.set_per_process_memory_fraction(card_limit_gb(device) / whole, device)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # TF32 keeps 10 bits: enough for a network's convolutions, half a pixel off for a vertex times a matrix.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = True
    return torch.get_num_threads()


def choose_threads(most: int, now: Callable[[], float] = time.perf_counter) -> int:
    """How many of the processor's threads a run should use: `most`, or 1 where that is clearly faster now.

    Beside other programs' busy threads, each of our operations waits for the thread that has lost its core: two threads
    were ten times slower than one. Half a second of operations like a run's, some with `most` threads and some with
    one, in turns; at most LONGEST, however busy the machine is. On an idle machine the answer is `most` every time,
    which a result's bytes depend on.
    """
    if most < 2:
        return most
    picture, weights = torch.full((2, 16, 64, 64), 0.5), torch.full((16, 16, 3, 3), 0.1)
    spent: dict[int, list[float]] = {most: [], 1: []}
    before = torch.get_num_threads()
    start = now()
    for turn in range(TURNS):
        if turn and now() - start > LONGEST:
            break
        for threads, times in spent.items():
            torch.set_num_threads(threads)
            began = now()
            for _ in range(2):
                found = torch.nn.functional.conv2d(picture, weights, padding=1)
                for _ in range(8):  # many small ones: what waiting costs most
                    found = found.mul(0.5).add(0.1)
            times.append(now() - began)
    torch.set_num_threads(before)
    return 1 if median(spent[most]) > SLOWER * median(spent[1]) else most


def give_back_blocks() -> None:
    """From now on, blocks of a megabyte and more go back to the system when they are freed, where glibc allocates.

    It raises its own limit to 32 MB when such a block is freed, and keeps what is smaller. A large network's
    activations are just that small on a CPU, and 6 GB of them came to lie about, free and unusable.
    """
    if platform.libc_ver()[0] == "glibc":
        M_MMAP_THRESHOLD = -3
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)


def card_limit_gb(device: torch.device) -> float:
    """Of this card's memory, what a run may take: as the user's environment says, else all of it, or SPILLING's share.

    Raises InputError.
    """
    whole = float(torch.cuda.get_device_properties(device).total_memory / 1e9)
    said = memory_limit_gb()
    return min(whole, said) if said is not None else whole * (SPILLING if driver_spills() else 1.0)


def driver_spills() -> bool:
    """Whether NVIDIA's driver takes the machine's memory where a card's is full: on Windows, and in WSL above it."""
    return platform.system() == "Windows" or "microsoft" in platform.release().lower()


def memory_limit_gb() -> float | None:
    """As the user's environment says; None without a limit. Raises InputError."""
    said = os.environ.get(MEMORY_LIMIT, "").strip()
    if not said:
        return None
    try:
        limit = float(said)
    except ValueError:
        limit = math.nan
    if not limit > 0:
        raise InputError(
            f"{MEMORY_LIMIT} has to be a number of GB above 0, got {said!r}.", "Change or unset it."
        )
    return limit
