"""Streams, events and CUDA graphs of the pretended card, below torch.cuda's own Python.

Operators run at once and in order, so streams are clocks: a tensor that one stream wrote may be read on another only
after that one has waited for it. A graph records the operators between its beginning and its end. As on a card they
do nothing meanwhile: what they were to write holds nonsense, and what was there before stays. A replay runs them on
the same storages; of what the graph did not make itself it holds nothing, and reading what was freed is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from tests.card import rules

if TYPE_CHECKING:
    from tests.card.pretended import PretendedCard

NOT_WHILE_CAPTURING = "CUDA error: operation not permitted when stream is capturing"
CUDA_TYPE = 1  # c10::DeviceType::CUDA
Clock = dict[int, int]


class Streams:
    """Which stream is current, what each has seen of the others, and the graph that is being captured."""

    def __init__(self, card: PretendedCard) -> None:
        self.card = card
        self.current, self.count = 0, 1
        self.clocks: list[Clock] = [{0: 0}]
        self.capturing: Capture | None = None
        self.graphs: dict[Any, int] = {}  # graphs by the pool of memory that they share
        self.allocating: list[Any] = []  # pools that the allocator still takes a stream's memory from

    def new_pool(self) -> tuple[int, int]:
        self.graphs[0, len(self.graphs) + 1] = 0
        return 0, len(self.graphs)

    def take_pool(self, pool: Any) -> None:
        """A capture begins in it. torch asserts that a pool that had graphs has one still."""
        if self.graphs.get(pool) == -1:
            raise RuntimeError(
                "it->second->use_count > 0 INTERNAL ASSERT FAILED: the pool's last graph is gone"
            )
        self.graphs[pool] = self.graphs.get(pool, 0) + 1
        self.allocating.append(pool)

    def release_pool(self, pool: Any) -> None:
        self.graphs[pool] = self.graphs[pool] - 1 or -1

    def end_allocating(self, pool: Any) -> None:
        if pool not in self.allocating:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.allocating.remove(pool)

    def new(self) -> int:
        if self.count == 1:  # until then there was nothing to keep apart
            self.clocks[0][0] += 1
            self.card.memory.date((0, self.clocks[0][0]))
        self.clocks.append({self.count: 0})
        self.count += 1
        return self.count - 1

    def wait_for(self, stream: int, seen: Clock) -> None:
        clock = self.clocks[stream]
        for other, tick in seen.items():
            clock[other] = max(clock.get(other, 0), tick)

    def synchronize(self) -> None:
        """The host has waited for all: whatever it launches from now on comes after."""
        self.card.wait("synchronize")
        everything: Clock = {i: clock[i] for i, clock in enumerate(self.clocks)}
        for stream in range(self.count):
            self.wait_for(stream, everything)

    def before(self, operands: list[Tensor], written: list[Any]) -> None:
        """An operator is about to run on the current stream."""
        if self.capturing is not None:
            self.capturing.keep(written)
        if self.count == 1:
            return
        clock = self.clocks[self.current]
        for tensor in operands:
            entry = self.card.memory.entry(tensor)
            if entry is not None and entry.writer[1] > clock.get(entry.writer[0], 0):
                self.card.refuse(
                    RuntimeError,
                    f"a race: stream {self.current} reads what stream {entry.writer[0]} may still be writing",
                )

    def after(self, func: Callable[..., Any], args: Any, kwargs: Any, out: Any, written: list[Any]) -> None:
        if self.capturing is not None:
            self.capturing.record(func, args, kwargs, out)
        else:
            self.wrote(rules.tensors_in((out, written)))

    def wrote(self, tensors: Iterable[Tensor]) -> None:
        """The current stream has."""
        if self.count == 1:
            return
        clock = self.clocks[self.current]
        clock[self.current] += 1
        for tensor in tensors:
            entry = self.card.memory.entry(tensor)
            if entry is not None:
                entry.writer = (self.current, clock[self.current])

    def refuse_generator(self) -> None:
        if self.capturing is not None:
            raise RuntimeError(
                "Attempt to draw from a generator that the graph being captured does not know."
            )


class _Weak:
    """A tensor of a storage that the graph does not own."""

    def __init__(self, card: PretendedCard, tensor: Tensor) -> None:
        self.entry = card.memory.entry(tensor)
        self.held = None if self.entry is not None else tensor  # of the host: a number, baked in
        self.shape, self.strides, self.start = tensor.size(), tensor.stride(), tensor.storage_offset()
        self.dtype = tensor.dtype

    def get(self) -> Tensor:
        if self.held is not None:
            return self.held
        assert self.entry is not None
        storage = self.entry()
        if storage is None:
            raise torch.AcceleratorError(
                "CUDA error: an illegal memory access was encountered (a graph reads memory that was freed)"
            )
        return torch.empty(0, dtype=self.dtype).set_(storage, self.start, self.shape, self.strides)


class Capture:
    """What one graph recorded."""

    def __init__(self, card: PretendedCard) -> None:
        self.card = card
        self.nodes: list[tuple[Any, Any, Any, list[Any]]] = []
        self.own: dict[int, Tensor] = {}  # by storage
        self.outer: dict[int, tuple[Any, Tensor]] = {}  # what was there before the first write to it
        self.invalid = False

    def keep(self, written: list[Any]) -> None:
        for tensor in rules.tensors_in(written):
            entry = self.card.memory.entry(tensor)
            if entry is not None and entry.key not in self.own and entry.key not in self.outer:
                whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                self.outer[entry.key] = entry, whole.clone()

    def record(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        entries = map(self.card.memory.entry, rules.tensors_in((args, tuple(kwargs.values()))))
        known = {entry.key for entry in entries if entry is not None}
        for tensor in rules.tensors_in((out,)):
            entry = self.card.memory.entry(tensor)
            if entry is not None and entry.key not in known:
                self.own[entry.key] = tensor.detach()
        self.nodes.append(
            (func, self._pack(args), self._pack(kwargs), self._pack([*rules.tensors_in((out,))]))
        )

    def _pack(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            entry = self.card.memory.entry(value)
            return (
                value.detach()
                if entry is not None and entry.key in self.own
                else _Weak(self.card, value.detach())
            )
        if isinstance(value, list | tuple):
            return type(value)(self._pack(v) for v in value)
        if isinstance(value, dict):
            return {name: self._pack(v) for name, v in value.items()}
        return value

    def end(self) -> None:
        """Nothing has happened: nonsense in what was made, and what was there before."""
        for tensor in self.own.values():
            torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).fill_(255)
        for entry, before in self.outer.values():
            storage = entry()
            if storage is not None:
                torch.empty(0, dtype=torch.uint8).set_(storage).copy_(before)
        self.outer.clear()

    @torch.no_grad()
    def replay(self) -> None:
        streams = self.card.streams
        for func, args, kwargs, out in self.nodes:
            args, kwargs = _unpack(args), _unpack(kwargs)
            streams.before(list(rules.tensors_in((args, tuple(kwargs.values())))), [])
            new = func(*args, **kwargs)
            for old, tensor in zip(out, rules.tensors_in((new,)), strict=True):
                if (
                    isinstance(old, Tensor)
                    and old.untyped_storage()._cdata != tensor.untyped_storage()._cdata
                ):
                    old.copy_(tensor)
            written = (
                [args[i] for i in rules.facts(func).written if i < len(args)]
                if hasattr(func, "_schema")
                else []
            )
            streams.wrote(rules.tensors_in((out, written)))


def _unpack(value: Any) -> Any:
    if isinstance(value, _Weak):
        return value.get()
    if isinstance(value, list | tuple):
        return type(value)(_unpack(v) for v in value)
    if isinstance(value, dict):
        return {name: _unpack(v) for name, v in value.items()}
    return value


def methods(card: PretendedCard) -> dict[Any, dict[str, Any]]:
    """For the empty base classes that a torch without CUDA has under torch.cuda.Stream, Event and CUDAGraph."""
    streams = card.streams

    def new_stream(
        cls: Any,
        priority: int = 0,
        stream_id: int = 0,
        device_index: int = 0,
        device_type: int = 0,
        stream_ptr: int = 0,
    ) -> Any:
        made = object.__new__(cls)
        known = stream_id or device_index or device_type
        made.stream_id = stream_id if known else streams.new()
        made.device_index, made.device_type, made.priority = 0, CUDA_TYPE, priority
        made.device, made.cuda_stream = torch.device("cuda", 0), made.stream_id * 16
        return made

    def stream_synchronize(self: Any) -> None:
        card.wait("Stream.synchronize")
        streams.wait_for(0, dict(streams.clocks[self.stream_id]))

    def new_event(cls: Any, **_: Any) -> Any:
        made = object.__new__(cls)
        made.seen, made.cuda_event = None, 1
        return made

    def record(self: Any, stream: Any) -> None:
        self.seen = dict(streams.clocks[stream.stream_id])

    def wait(self: Any, stream: Any) -> None:
        if self.seen is not None:
            streams.wait_for(stream.stream_id, self.seen)

    def new_graph(cls: Any, keep_graph: bool = False) -> Any:
        made = object.__new__(cls)
        made.capture, made.ready, made.taken = None, False, None
        return made

    def begin(self: Any, pool: Any = None, capture_error_mode: str = "global") -> None:
        if streams.current == 0:
            raise RuntimeError("CUDA graphs must be captured on a non-default stream.")
        if streams.capturing is not None:
            raise RuntimeError(NOT_WHILE_CAPTURING)
        self.taken = streams.new_pool() if pool is None else pool
        streams.take_pool(self.taken)
        self.capture = streams.capturing = Capture(card)

    def end(self: Any) -> None:
        capture, streams.capturing = streams.capturing, None
        if capture is None or capture is not self.capture:
            raise RuntimeError("capture_end() called without capture_begin()")
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            capture.end()
        if capture.invalid:  # and, as in torch, the allocator stays in the pool
            self.capture = self.taken = None
            raise torch.AcceleratorError(
                "CUDA error: operation failed due to a previous error during capture"
            )
        streams.end_allocating(self.taken)
        self.ready = True

    def replay(self: Any) -> None:
        if not self.ready:
            raise RuntimeError(
                "Called CUDAGraph::replay without a preceding successful capture or after reset."
            )
        card.replays += 1
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            self.capture.replay()

    def reset(self: Any) -> None:
        if self.taken is not None:
            streams.release_pool(self.taken)
        self.capture, self.ready, self.taken = None, False, None

    def nothing(self: Any, *_: Any, **__: Any) -> None: ...

    return {
        torch._C._CudaStreamBase: {
            "__new__": new_stream,
            "__init__": nothing,
            "synchronize": stream_synchronize,
            "query": lambda self: True,
            "__eq__": lambda self, other: self.stream_id == other.stream_id,
            "__hash__": lambda self: self.stream_id,
            "priority_range": staticmethod(lambda: (0, -5)),
        },
        torch._C._CudaEventBase: {
            "__new__": new_event,
            "__init__": nothing,
            "record": record,
            "wait": wait,
            "query": lambda self: True,
            "synchronize": lambda self: card.wait("Event.synchronize"),
            "elapsed_time": lambda self, other: 0.0,
        },
        torch._C._CUDAGraph: {
            "__new__": new_graph,
            "__init__": nothing,
            "capture_begin": begin,
            "capture_end": end,
            "replay": replay,
            "reset": reset,
            "instantiate": nothing,
            "pool": lambda self: self.taken,
            "enable_debug_mode": nothing,
            "register_generator_state": nothing,
        },
    }
