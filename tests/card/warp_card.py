"""Warp on the pretended card: its kernels run on the processor, on what lies on the card.

Warp itself would take any mixture where arrays are bare descriptors, and end in an illegal access; here it is refused.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tests.card.pretended import PretendedCard


class CardDevice:
    """What warp.device_from_torch gives for the card."""

    alias, is_cuda, is_cpu = "cuda:0", True, False

    def __str__(self) -> str:
        return self.alias


class CardStream:
    """What warp.stream_from_torch gives: torch's current stream."""


def stand_in(card: PretendedCard, stack: ExitStack) -> None:
    try:
        from backend.kernels.warp_start import wp
    except ImportError:
        return
    device, stream = CardDevice(), CardStream()
    made, launch, of_torch, array = wp.from_torch, wp.launch, wp.device_from_torch, wp.array

    def from_torch(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        on_card = card.memory.holds(tensor)
        with torch._C.DisableTorchFunction():
            descriptor = made(tensor, *args, **kwargs)
        descriptor._on_card, descriptor._tensor = on_card, tensor
        return descriptor

    def device_from_torch(asked: Any) -> Any:
        return device if torch.device(asked).type == "cuda" else of_torch(asked)

    def stream_from_torch(asked: Any = None) -> CardStream:
        kind = "cuda" if asked is None else torch.device(asked).type
        if kind != "cuda":
            raise RuntimeError(f"Device {asked} is not a CUDA device")
        return stream

    def checked(
        kernel: Any, dim: Any, inputs: Any = (), outputs: Any = (), device: Any = None, **kwargs: Any
    ) -> Any:
        on_card = isinstance(device, CardDevice)
        arrays = [a for a in (*inputs, *outputs) if hasattr(a, "_on_card")]
        if any(a._on_card != on_card for a in arrays):
            where = "the card" if on_card else "the host"
            card.refuse(RuntimeError, f"a Warp kernel on {where} is given arrays of the other side")
        if not on_card:
            return launch(kernel, dim, inputs, outputs, device=device, **kwargs)
        card.require()
        if kwargs.pop("stream", None) is not stream:
            card.refuse(RuntimeError, "a Warp kernel is launched on a stream of Warp's own, beside torch's")
        tensors = [a._tensor for a in arrays]
        card.streams.before(tensors, tensors)
        card.operators[f"warp {kernel.key}"] += 1

        def again(*_: Any) -> None:
            launch(kernel, dim, inputs, outputs, device="cpu", **kwargs)

        again()
        card.streams.after(again, (), {}, None, tensors)
        return None

    def new_array(*args: Any, **kwargs: Any) -> Any:
        on_card = str(kwargs.get("device")) == device.alias
        if on_card:
            kwargs["device"] = "cpu"
        found = array(*args, **kwargs)
        if on_card and (args or "data" in kwargs):
            card.wait("warp.array from the host")
        return found

    for name, value in {
        "from_torch": from_torch,
        "launch": checked,
        "device_from_torch": device_from_torch,
        "stream_from_torch": stream_from_torch,
        "is_cuda_available": lambda: True,
        "array": _Array(array, new_array),
    }.items():
        stack.enter_context(mock.patch.object(wp, name, value))


class _Array:
    """wp.array: a class in annotations, and called in one place."""

    def __init__(self, real: Any, call: Any) -> None:
        self._real, self._call = real, call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not args and "data" not in kwargs and set(kwargs) <= {"dtype", "ndim"}:
            return self._real(*args, **kwargs)  # an annotation of a kernel
        return self._call(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
