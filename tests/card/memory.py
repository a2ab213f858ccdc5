"""The pretended card's memory: which storages lie on it, how many bytes they hold, and when there is no more.

A storage is known by the address of its C++ object, from its allocation to its end: a weak reference to its Python
side, which lives as long as the C++ one, takes it out again. So an address that is used again is never mistaken.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

BLOCK = 512  # bytes; torch's allocator rounds up to it


def has_storage(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_meta


class _Entry(weakref.ref):
    """A storage on the card; `writer` is the stream that wrote it last, and when."""

    __slots__ = ("key", "size", "writer")

    key: int
    size: int
    writer: tuple[int, int]


class Memory:
    """Of one card. `limit` is what this process may take of it."""

    def __init__(self, total: int) -> None:
        self.total = self.limit = total
        self.allocated = self.peak = self.reserved = self.reserved_peak = 0
        self._known: dict[int, _Entry] = {}

    def entry(self, tensor: Tensor) -> _Entry | None:
        """None: the tensor lies on the host."""
        if not has_storage(tensor):
            return None
        return self._known.get(tensor.untyped_storage()._cdata)

    def holds(self, tensor: Tensor) -> bool:
        return self.entry(tensor) is not None

    def put(self, tensor: Tensor) -> None:
        """The tensor's storage lies on the card from now on. Raises torch.OutOfMemoryError as a card does."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        if self.allocated + size > self.limit:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB. GPU 0 has a total capacity of"
                f" {self.total / 2**30:.2f} GiB of which {(self.limit - self.allocated) / 2**20:.2f} MiB is free."
            )
        entry = _Entry(storage, self._gone)
        entry.key, entry.size, entry.writer = key, size, (0, 0)
        self._known[key] = entry
        self.allocated += size
        self.peak = max(self.peak, self.allocated)
        self.reserved = max(self.reserved, self.allocated)
        self.reserved_peak = max(self.reserved_peak, self.reserved)

    def take(self, tensor: Tensor) -> None:
        """The tensor's storage lies on the host after all."""
        entry = self._known.get(tensor.untyped_storage()._cdata)
        if entry is not None:
            self._gone(entry)

    def _gone(self, entry: Any) -> None:
        if self._known.get(entry.key) is entry:
            del self._known[entry.key]
            self.allocated -= entry.size

    def empty_cache(self) -> None:
        self.reserved = self.allocated

    def reset_peaks(self) -> None:
        self.peak, self.reserved_peak = self.allocated, self.reserved

    def statistics(self) -> dict[str, Any]:
        """In the layout of torch.cuda.memory_stats_as_nested_dict, as far as it is kept."""

        def pools(current: int, peak: int) -> dict[str, dict[str, int]]:
            return {"all": {"current": current, "peak": peak}}

        return {
            "allocated_bytes": pools(self.allocated, self.peak),
            "active_bytes": pools(self.allocated, self.peak),
            "reserved_bytes": pools(self.reserved, self.reserved_peak),
        }
