"""A card below torch.cuda: its own Python runs, with all that it refuses, and only torch's C calls are stood in for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch._dynamo  # use_deterministic_algorithms imports it, and it looks at what torch is built with
import torch._inductor.config


class CudaCalls:
    """One card, or several; what was asked of it.

    fractions  (share of its memory, index) of each limit that was set
    error      what a kernel raises, as CUDA says it; "" while all is well

    A tensor of its lies in the machine's memory: torch's own kernel for the card's `empty` is replaced.
    """

    def __init__(
        self,
        memory: float = 24e9,
        capability: tuple[int, int] = (8, 9),
        built_for: str = "sm_75 sm_80 sm_86 sm_90 sm_120",
    ) -> None:
        self.fractions: list[tuple[float, int]] = []
        self.error = ""
        self.capability, self.built_for = capability, built_for
        self._facts = SimpleNamespace(
            total_memory=int(memory),
            name="a card",
            major=capability[0],
            minor=capability[1],
            multi_processor_count=60,
        )

    def install(self, patch: pytest.MonkeyPatch) -> CudaCalls:
        """Until the patch is undone."""

        def set_fraction(share: float, index: int) -> None:
            assert (
                type(share) is float and type(index) is int
            )  # as THPUtils_checkDouble and checkLong want it
            self.fractions.append((share, index))

        below: dict[str, Any] = {
            "_cuda_init": lambda: None,
            "_cuda_getDeviceCount": lambda: 1,
            "_cuda_getDevice": lambda: 0,
            "_cuda_isInBadFork": lambda: False,
            "_cuda_getArchFlags": lambda: self.built_for,
            "_cuda_getCompiledVersion": lambda: 13000,
            "_cuda_setMemoryFraction": set_fraction,
        }
        for name, what in below.items():
            patch.setattr(torch._C, name, what, raising=False)
        made_by_init = {
            "_initialized": False,
            "_queued_calls": [],
            "_cudart": SimpleNamespace(),
            "_cached_device_count": None,
            "_get_device_properties": lambda index: self._facts,
            "default_generators": (torch.Generator(),),
        }
        for name, value in made_by_init.items():
            patch.setattr(torch.cuda, name, value, raising=False)
        patch.setattr(torch.version, "cuda", torch.version.cuda or "13.0")
        library = torch.library.Library("aten", "IMPL")
        library.impl("empty.memory_format", self._empty, "CUDA", allow_override=True)
        patch.setattr(
            torch.cuda, "_stand_ins", library, raising=False
        )  # torch takes it back when it is forgotten
        return self

    def _empty(self, size: Any, **options: Any) -> torch.Tensor:
        if self.error:
            raise torch.AcceleratorError(
                f"CUDA error: {self.error}\nCUDA kernel errors might be reported later"
            )
        return torch.empty(size, dtype=options.get("dtype"))
