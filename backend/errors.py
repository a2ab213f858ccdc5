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
