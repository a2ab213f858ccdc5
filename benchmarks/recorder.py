"""Writes down what the pretended card is asked to do: operators, kernels, bytes, arithmetic, and waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tests.card.pretended import PretendedCard

# kernels of operators that have more than one on CUDA, at least (torch 2.13, cuDNN 9); all others have one
KERNELS = {
    "native_group_norm": 3, "native_group_norm_backward": 4, "native_layer_norm_backward": 3, "convolution_backward": 3,
    "nonzero": 3, "sort": 4, "_unique2": 6, "unique_dim": 8, "unique_consecutive": 5, "cumsum": 2, "index_put_": 5,
    "_index_put_impl_": 5, "index_put": 5, "repeat_interleave": 2, "norm": 2, "linalg_vector_norm": 1, "cat": 1,
    "flash attention": 1, "flash attention backward": 3, "topk": 3, "masked_select": 4, "scatter_reduce_": 2,
}  # fmt: skip
NONE = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_local_scalar_dense", "set_", "resize_",
}  # fmt: skip
TENSORS_A_KERNEL = 30  # of fused and foreach operators, about


@dataclass
class Event:
    """An operator on the card, or a wait for it."""

    part: str
    name: str
    kernels: int = 0
    bytes: int = 0
    flops: float = 0.0
    half: bool = False
    wait: bool = False


@dataclass
class Trace(TorchDispatchMode):
    """Writes down what is dispatched to the card or to the meta device."""

    card: PretendedCard
    events: list[Event] = field(default_factory=list)
    part: str = "scene"
    quiet: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():  # the card has seen this call
            out = func(*args, **(kwargs or {}))
        if not self.quiet:
            self._write(func, args, kwargs or {}, out)
        return out

    def _write(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        read, made = tensors((args, tuple(kwargs.values()))), tensors((out,))
        if not any(t.is_meta or self.card.memory.holds(t) for t in (*read, *made)):
            return
        name = func._schema.name.removeprefix("aten::")
        returns = [r.alias_info for r in func._schema.returns]
        view = bool(returns) and all(a is not None and not a.is_write for a in returns)
        if view or name in NONE:
            self.events.append(Event(self.part, name))
            return
        kernels = KERNELS.get(name, 1)
        if name.startswith(("_foreach", "_fused")):
            kernels = -(-len(read) // TENSORS_A_KERNEL)
        flops = flop_registry.get(func._overloadpacket)
        self.events.append(
            Event(
                self.part, name, kernels, sum(map(size_of, (*read, *made))),
                float(flops(*args, **kwargs, out_val=out)) if flops else 0.0,
                any(t.dtype == torch.bfloat16 for t in read),
            )
        )  # fmt: skip

    def add(self, event: Event) -> None:
        if not self.quiet:
            self.events.append(event)

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before

    @contextmanager
    def silent(self) -> Iterator[None]:
        before, self.quiet = self.quiet, True
        try:
            yield
        finally:
            self.quiet = before


class Waits(Counter[Any]):
    """Writes down what is counted."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __setitem__(self, place: Any, times: int) -> None:
        self.trace.add(Event(self.trace.part, place.what, wait=True))
        super().__setitem__(place, times)


def tensors(values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors(value)
    return found


def size_of(tensor: Tensor) -> int:
    """Bytes that are there to be read: a number that is repeated is read once."""
    count = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= length if stride else 1
    return count * tensor.element_size()
