"""A UNet's forward passes as CUDA graphs: some thousand small kernels are launched as one.

At the sizes of stages 1 and 2 a fast card waits for Python, not for its arithmetic. A pass without a gradient is
captured once for every set of shapes and replayed from then on, from inputs that always lie at the same place.
Opt-in ($DREAMFLOW_CUDA_GRAPHS=1): it has been tested with traced graphs on a CPU, and never on a card.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

SWITCH = "DREAMFLOW_CUDA_GRAPHS"
WARM_UP = 3  # passes before the capture: libraries choose their kernels and take their workspaces

Inputs = dict[str, Tensor]
Run = Callable[[Inputs], Tensor]


def capture_cuda(run: Run, inputs: Inputs) -> Callable[[], Tensor]:
    """run(inputs), captured: what is returned does it again from the inputs' present contents."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            run(inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run(inputs)

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay


class Graphs:
    """The captured passes of one network, by who asks and by the inputs' names, shapes and dtypes."""

    def __init__(self, capture: Callable[[Run, Inputs], Callable[[], Tensor]] = capture_cuda) -> None:
        self._capture = capture
        self._known: dict[Hashable, tuple[Inputs, Callable[[], Tensor]]] = {}

    def __call__(self, who: Hashable, run: Run, inputs: Inputs) -> Tensor:
        """run(inputs), which may read nothing else that moves. A tensor of its own, without a graph."""
        key = who, tuple((name, value.shape, value.dtype) for name, value in inputs.items())
        if key not in self._known:
            still = {name: value.detach().clone() for name, value in inputs.items()}
            self._known[key] = still, self._capture(run, still)
        still, replay = self._known[key]
        for name, value in inputs.items():
            still[name].copy_(value)
        return replay().clone()

    def clear(self) -> None:
        """Forget all: the network's layers are about to change, or its memory is needed."""
        self._known.clear()

    def __len__(self) -> int:
        return len(self._known)


def wanted(device: torch.device) -> Graphs | None:
    """None: the network is called as it is."""
    asked = os.environ.get(SWITCH, "") not in ("", "0")
    return Graphs() if asked and device.type == "cuda" else None
