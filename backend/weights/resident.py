"""Networks that stay in the machine's memory from one job to the next, as they were read.

What a job works with is a copy of its own, so that nothing that it adds (adapters, checkpointed blocks, graphs) and no
saving of the card's memory reaches the next job. The copy's tensors are those of the one that is kept, since frozen
weights are only read; on a card they are moved there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:  # a list of prompts is checked before torch is imported, which takes seconds
    import torch
    from torch import nn

MOST = 0.5  # of the memory that is available when it is read: a larger network is not kept


class Resident:
    """What this process keeps; nothing until `keeping` is set, since a program beside us may want the memory."""

    def __init__(self) -> None:
        self.keeping = False
        self.read = 0  # networks that came from the disk in this job
        self._kept: dict[object, nn.Module] = {}

    def get(
        self, config: str, files: tuple[Path, ...], dtype: torch.dtype, load: Callable[[], nn.Module]
    ) -> nn.Module:
        """The network of this configuration and these files, on the CPU: a copy of the one kept, or `load`ed.

        A file with another size or time than when it was read counts as another one. Raises what `load` raises.
        """
        stats = [(file, file.stat()) for file in files]
        key = (config, dtype, *((file, stat.st_size, stat.st_mtime_ns) for file, stat in stats))
        if key not in self._kept:
            network = load()
            self.read += 1
            size = sum(stat.st_size for _, stat in stats)
            if not self.keeping or size > MOST * psutil.virtual_memory().available:
                return network
            self._kept[key] = network
        return copy_of(self._kept[key])


def copy_of(network: nn.Module) -> nn.Module:
    """Modules and parameters of its own, over the same numbers."""
    from torch import nn

    shared: dict[int, object] = {
        id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in network.parameters()
    }
    shared |= {id(buffer): buffer.detach() for buffer in network.buffers()}
    return copy.deepcopy(network, shared)


RESIDENT = Resident()
