"""The errors that a user can meet.

    DreamFlowError              what happened, and what to do about it
    |-- InputError      input   a request that cannot be carried out as written
    |-- ModelError      model   weights that are missing, damaged, or do not fit
    |-- DeviceError     device  a device that is not there or cannot do what was asked
    |   `-- CardFailed  card    a card that failed in the middle; its process has to end, since CUDA in it is lost
    |-- OutOfMemory     memory  the device or the machine is out of memory
    |-- DiskError       disk    a file that cannot be written or read
    |-- NumericsError   numerics  a NaN or an infinity, named with its stage and tensor
    `-- SceneError      scene   an empty or full scene that three seeds did not cure

`kind` travels to the client as it stands, so it is part of the contract. Whatever is not one of
these is a bug of ours and is reported as kind "internal" at the process's outermost edge.
"""

from __future__ import annotations

import sys


class DreamFlowError(Exception):
    """`message` says what happened in one sentence, `todo` what the user can do next."""

    kind = "internal"

    def __init__(self, message: str, todo: str = "") -> None:
        super().__init__(f"{message} {todo}".strip())
        self.message = message
        self.todo = todo


class InputError(DreamFlowError, ValueError):
    kind = "input"


class ModelError(DreamFlowError):
    kind = "model"


class DeviceError(DreamFlowError):
    kind = "device"


class CardFailed(DeviceError):
    kind = "card"


class OutOfMemory(DreamFlowError):
    kind = "memory"


class DiskError(DreamFlowError):
    kind = "disk"


class NumericsError(DreamFlowError):
    kind = "numerics"


class SceneError(DreamFlowError):
    kind = "scene"


# how torch's allocators, the loader of its libraries and the system say it
NO_MEMORY = (
    "out of memory",
    "allocate memory",
    "failed to allocate",  # Warp
    "failed to map segment",
    "not enough memory",
    "can't start new thread",  # it needs a stack
    "_status_alloc_failed",  # cuBLAS and cuDNN
)

# torch, its libraries and Warp, of whatever goes wrong on a card
CARD = (
    "cuda error",
    "cuda driver error",
    "cudnn error",
    "cublas_status",
    "cusolver_status",
    "cusparse_status",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, its libraries or Python say so, on a card or on the processor."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, Exception) and any(words in said for words in NO_MEMORY)
    )


def card_error(error: BaseException | None) -> str:
    """What a card said that has failed, in this error or one that it came from: a line; "" where none has.

    After such an error (an illegal access, a failed launch, an assertion, memory that cannot be corrected) every
    later call in the process fails as well, memory being set free included, which then hides it.
    """
    met: set[int] = set()
    while error is not None and id(error) not in met:
        met.add(id(error))
        said = str(error)
        of_a_card = isinstance(error, torch_error()) or (
            isinstance(error, RuntimeError) and any(words in said.lower() for words in CARD)
        )
        if of_a_card and not is_out_of_memory(error):
            return next((line for line in said.splitlines() if line.strip()), type(error).__name__)
        error = error.__cause__ or error.__context__
    return ""


def torch_error() -> tuple[type[BaseException], ...]:
    """torch's own class for what an accelerator says, where torch has been imported."""
    torch = sys.modules.get("torch")
    return () if torch is None else (torch.AcceleratorError,)
