"""What stages.py looks at a running stage with: a call around each part, and counters of what waits for the device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive")


class Waits(TorchDispatchMode):
    """Counts the calls that make Python wait for a device, whatever device it is; 'in the render' and 'elsewhere'."""

    def __init__(self) -> None:
        super().__init__()
        self.where = "elsewhere"
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])
        lengths = name == "repeat_interleave" and "output_size" not in (kwargs or {})
        if name in WAITS or by_mask or lengths:
            self.counts[self.where] += 1
        return func(*args, **(kwargs or {}))


class Lists(TorchFunctionMode):
    """`tolist`, which never reaches the dispatcher on a CPU."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "tolist":
            self.waits.counts[self.waits.where] += 1
        return func(*args, **(kwargs or {}))


@dataclass
class Probe:
    """Sits between a stage and its parts; `on` is what is called before and after a part."""

    around: Callable[[str], Any]

    def part(self, name: str, function: Callable) -> Callable:
        def call(*args: Any, **named: Any) -> Any:
            with self.around(name):
                return function(*args, **named)

        return call


class ProbedPhi:
    """D_phi with its two parts told apart."""

    def __init__(self, phi: Any, probe: Probe) -> None:
        self._phi = phi
        self.fit = probe.part("D_phi's step", phi.fit)
        self._call = probe.part("D_phi", phi)

    def __call__(self, *args: Any) -> Tensor:
        return self._call(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._phi, name)
