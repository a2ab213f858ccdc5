"""torch.Generator of the processor and of the pretended card.

A card's generator is counter-based: 16 bytes of state, its seed and how far it came. So is this one: before each draw
the processor's generator under it starts from both. The numbers are not a card's; that they come again is.
"""

from __future__ import annotations

import struct
from typing import Any

import torch
from torch import Tensor

REAL = torch._C.Generator
CARD = torch.device("cuda", 0)


class Generator(REAL):  # type: ignore[misc, valid-type]
    """Of either device, as torch.Generator."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        kind = torch.device(device if device is not None else "cpu")
        if kind.type not in ("cpu", "cuda"):
            raise RuntimeError(f"Device type {kind.type} is not supported for torch.Generator() api.")
        made: Generator = REAL.__new__(cls)
        made._card, made._seed, made._offset = kind.type == "cuda", 67280421310721, 0
        return made

    def __init__(self, device: Any = "cpu") -> None: ...

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CARD if self._card else torch.device("cpu")

    def advance(self) -> None:
        """Before a draw."""
        if self._card:
            REAL.manual_seed(self, (self._seed * 2654435761 + self._offset * 805459861 + 1) % 2**63)
            self._offset += 4

    def manual_seed(self, seed: int) -> Generator:
        REAL.manual_seed(self, seed)
        self._seed, self._offset = seed % 2**64, 0
        return self

    def seed(self) -> int:
        seed = REAL.seed(self)
        self._seed, self._offset = seed % 2**64, 0
        return seed

    def initial_seed(self) -> int:
        return self._seed if self._card else REAL.initial_seed(self)

    def get_state(self) -> Tensor:
        if not self._card:
            return REAL.get_state(self)
        return torch.frombuffer(bytearray(struct.pack("<QQ", self._seed, self._offset)), dtype=torch.uint8)

    def set_state(self, state: Tensor) -> Generator:
        if state.device.type != "cpu" or state.dtype != torch.uint8:
            raise TypeError("RNG state must be a torch.ByteTensor")
        if not self._card:
            REAL.set_state(self, state)
            return self
        if state.numel() != 16:
            raise RuntimeError("RNG state is wrong size")
        seed, offset = struct.unpack("<QQ", bytes(state.tolist()))
        if offset % 4:
            raise RuntimeError("offset must be a multiple of 4")
        self._seed, self._offset = seed, offset
        return self

    def clone_state(self) -> Generator:
        other = Generator("cuda" if self._card else "cpu")
        other.set_state(self.get_state())
        return other

    def get_offset(self) -> int:
        return self._offset

    def set_offset(self, offset: int) -> None:
        self._offset = offset


def is_on_card(generator: Any) -> bool:
    return isinstance(generator, Generator) and generator._card
