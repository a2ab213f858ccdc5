"""A number that Python decides by, out of a generator that may be a card's."""

from __future__ import annotations

import zlib

import torch
from torch import Generator


def draw_on_host(generator: Generator) -> float:
    """Uniform in [0,1), and the generator moves on as by torch.rand(1).

    Reading what a card has drawn means waiting until it has done all before. But its generator is counter-based: all
    of its state, a seed and a count, lies on the host. So what Python has to know is drawn there, from that state.
    """
    if generator.device.type == "cpu":
        return float(torch.rand(1, generator=generator))
    state = bytes(generator.get_state().tolist())
    seed = zlib.crc32(state) << 32 | zlib.crc32(state, 0x9E3779B9)
    torch.rand(1, generator=generator, device=generator.device)  # not read: it moves the count on
    return float(torch.rand(1, generator=Generator().manual_seed(seed)))
