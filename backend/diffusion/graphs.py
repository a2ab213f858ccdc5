"""A UNet's forward passes as CUDA graphs: some thousand small kernels are launched as one.

At the sizes of stages 1 and 2 a fast card waits for Python, not for its arithmetic. A pass without a gradient is
captured once for every set of shapes and replayed from then on, from inputs that are always at the same place.
Before a replay is used, it has to give what the network itself gives; where it does not, or where a capture fails,
the network is called as it is from then on, and a note says so. DREAMFLOW_CUDA_GRAPHS=0 turns all of it off.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

SWITCH = "DREAMFLOW_CUDA_GRAPHS"
# passes before the capture, after a first plain one: libraries take their workspaces on its stream
WARM_UP = 2
# how far a replay may be from the plain pass, root mean squares: libraries may choose other kernels on another stream,
# and a UNet makes of one rounding some ten
TOLERANCE = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-9, torch.float32: 2.0**-12}

Inputs = dict[str, Tensor]
Run = Callable[[Inputs], Tensor]
Replay = Callable[[], Tensor]


def wanted(device: torch.device) -> bool:
    """Whether networks on this device are to be captured where memory allows it."""
    return device.type == "cuda" and os.environ.get(SWITCH, "").strip() != "0"


class Graphs:
    """The captured passes of one network, by who asks and by the inputs' names, shapes and dtypes."""

    def __init__(self) -> None:
        self.allowed = False  # whether there is memory for them: savings.py says
        self._refused = False
        self._notes: list[str] = []
        self._known: dict[Hashable, tuple[Inputs, Replay]] = {}
        # memory that all of them share, since no two replay at once and outputs are copied, and the stream that
        # they are captured on: blocks of another one would not be shared
        self._place: tuple[Any, torch.cuda.Stream] | None = None

    def __call__(self, who: Hashable, run: Run, inputs: Inputs) -> Tensor:
        """run(inputs), which may read nothing else that moves. A tensor of its own, without a graph."""
        if not self.allowed or self._refused:
            return run(inputs)
        key = who, tuple((name, value.shape, value.dtype) for name, value in inputs.items())
        if key not in self._known:
            return self._first(key, run, inputs)
        return _played(*self._known[key], inputs).clone()

    def _first(self, key: Hashable, run: Run, inputs: Inputs) -> Tensor:
        """The plain pass, and a capture that is kept if its replay gives the same."""
        expected = run(inputs)
        # captured from other numbers: what was frozen instead of read shows as a difference
        still = {name: 0.5 * value.detach() for name, value in inputs.items()}
        try:
            if self._place is None:
                self._place = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
            replay = capture(run, still, *self._place)
            off = difference(_played(still, replay, inputs), expected)
        except RuntimeError as error:  # torch's own, running out of memory among them
            torch.cuda.synchronize()  # raises where it is the card that has failed: then nothing can go on
            cause = error.__context__ if isinstance(error.__context__, RuntimeError) else error
            reason = f"a capture failed: {(str(cause).strip().splitlines() or ['no reason given'])[0][:200]}"
        else:
            if off <= TOLERANCE[expected.dtype]:
                self._known[key] = still, replay
                return expected
            reason = f"a replay differed from the pass itself by {off:.2%}"
        self._refused = True
        self._notes.append(
            f"CUDA graphs are not used ({reason}). The result is the same; iterations take longer."
        )
        self.clear()
        return expected

    def take_notes(self) -> list[str]:
        """What the user should know, once."""
        taken, self._notes = self._notes, []
        return taken

    def clear(self) -> None:
        """Forget all: the network's layers are about to change, or its memory is needed."""
        self._known.clear()
        self._place = None  # torch takes no new capture into a pool whose last graph is gone

    def __len__(self) -> int:
        return len(self._known)


def _played(still: Inputs, replay: Replay, inputs: Inputs) -> Tensor:
    for name, value in inputs.items():
        still[name].copy_(value)
    return replay()


def difference(found: Tensor, expected: Tensor) -> float:
    """The root mean square of what they differ by, over that of `expected`; 0.0 if they are equal bit by bit."""
    if torch.equal(found, expected):
        return 0.0
    apart, size = ((found.double() - expected.double()).square().mean(), expected.double().square().mean())
    return float((apart / size).sqrt())


def capture(run: Run, inputs: Inputs, pool: Any, side: torch.cuda.Stream) -> Replay:
    """run(inputs), captured on `side`: what is returned does it again from the inputs' present contents.

    Raises RuntimeError where the pass waits for the card, copies from the host or runs out of memory; torch's stream
    and allocator are then as they were before.
    """
    before = torch.cuda.current_stream()
    side.wait_stream(before)
    with torch.cuda.stream(side), no_waits():  # a wait is found here, where it breaks no capture
        for _ in range(WARM_UP):
            run(inputs)
    before.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        # thread_local: the thread that writes checkpoints may use the card meanwhile
        with torch.cuda.graph(graph, pool, side, capture_error_mode="thread_local"):
            output = run(inputs)
    except RuntimeError:
        torch.cuda.set_stream(before)  # torch leaves the capture's own in place if its end fails as well
        with suppress(RuntimeError):  # and its allocator in the pool; it raises where that has ended
            torch._C._cuda_endAllocateToPool(before.device_index, pool)
            torch._C._cuda_releasePool(before.device_index, pool)
        raise

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay


@contextmanager
def no_waits() -> Iterator[None]:
    """What waits for the card, or copies from the host's memory, raises RuntimeError instead."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
