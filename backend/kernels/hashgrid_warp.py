"""The hash grid in Warp: one source for the CPU (LLVM) and CUDA (NVRTC), no compiler needed.

The backward kernels are written by hand. Warp runs a launch on the CPU in one thread; we share one out among
threads by what it writes, points or levels, so that the sums are the same every time and with any number of
threads. On CUDA the sums into the table are atomic and their order is not fixed.
Indices are uint32 and taken modulo the level's size: no input, not even NaN, reaches beyond the table.
"""

# mypy: disable-error-code="valid-type, arg-type, assignment, misc"
# Without postponed annotations: Warp reads the kernels' argument types.
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from backend.kernels import hashgrid
from backend.kernels.hashgrid import GridLayout
from backend.kernels.warp_start import launch, wp

PRIME_Y = wp.constant(wp.uint32(hashgrid.PRIMES[1]))
PRIME_Z = wp.constant(wp.uint32(hashgrid.PRIMES[2]))

SHARE = 2**13  # points times levels, at least: a thread with less costs more than it saves


@wp.struct
class Level:
    scale: wp.float32
    resolution: wp.uint32
    size: wp.uint32
    offset: wp.uint32
    hashed: wp.int32


@wp.func
def entry(level: Level, i: wp.uint32, j: wp.uint32, k: wp.uint32) -> wp.int32:
    """Row of the table that holds vertex (i, j, k)."""
    if level.hashed != 0:
        spread = i ^ (j * PRIME_Y) ^ (k * PRIME_Z)
        # the size is a power of two here
        return wp.int32(level.offset + (spread & (level.size - wp.uint32(1))))
    dense = i + level.resolution * (j + level.resolution * k)
    return wp.int32(level.offset + dense % level.size)


@wp.func
def vertex(low: wp.float32, step: wp.int32) -> wp.uint32:
    return wp.uint32(wp.int32(low) + step)


def _row(features: int) -> Any:
    return wp.types.vector(length=features, dtype=wp.float32)


@lru_cache(maxsize=len(hashgrid.WIDTHS))
def kernels(features: int) -> tuple[Any, Any, Any]:
    """(encode, to_table, to_x) for levels of `features` float32; each a module of its own to Warp."""
    row = _row(features)

    @wp.kernel(enable_backward=False, module="unique")
    def encode(
        x: wp.array(dtype=wp.vec3),
        table: wp.array(dtype=row),
        levels: wp.array(dtype=Level),
        out: wp.array2d(dtype=row),
    ) -> None:
        h, n = wp.tid()  # a level after the other: its part of the table stays in the cache
        level = levels[h]
        p = x[n] * level.scale + wp.vec3(0.5)
        low = wp.vec3(wp.floor(p[0]), wp.floor(p[1]), wp.floor(p[2]))
        f = p - low
        total = row(0.0)
        for c in range(8):
            a = c & 1
            b = (c >> 1) & 1
            d = c >> 2
            weight = (
                wp.where(a == 1, f[0], 1.0 - f[0])
                * wp.where(b == 1, f[1], 1.0 - f[1])
                * wp.where(d == 1, f[2], 1.0 - f[2])
            )
            total += weight * table[entry(level, vertex(low[0], a), vertex(low[1], b), vertex(low[2], d))]
        out[n, h] = total

    @wp.kernel(enable_backward=False, module="unique")
    def to_table(
        g: wp.array2d(dtype=row),
        x: wp.array(dtype=wp.vec3),
        levels: wp.array(dtype=Level),
        grad: wp.array(dtype=row),
    ) -> None:
        h, n = wp.tid()
        level = levels[h]
        p = x[n] * level.scale + wp.vec3(0.5)
        low = wp.vec3(wp.floor(p[0]), wp.floor(p[1]), wp.floor(p[2]))
        f = p - low
        incoming = g[n, h]
        for c in range(8):
            a = c & 1
            b = (c >> 1) & 1
            d = c >> 2
            weight = (
                wp.where(a == 1, f[0], 1.0 - f[0])
                * wp.where(b == 1, f[1], 1.0 - f[1])
                * wp.where(d == 1, f[2], 1.0 - f[2])
            )
            at = entry(level, vertex(low[0], a), vertex(low[1], b), vertex(low[2], d))
            wp.atomic_add(grad, at, weight * incoming)

    @wp.kernel(enable_backward=False, module="unique")
    def to_x(
        g: wp.array2d(dtype=row),
        x: wp.array(dtype=wp.vec3),
        table: wp.array(dtype=row),
        levels: wp.array(dtype=Level),
        grad: wp.array(dtype=wp.vec3),
    ) -> None:
        n = wp.tid()  # a thread owns a point and needs no atomics
        total = wp.vec3(0.0)
        for h in range(levels.shape[0]):
            level = levels[h]
            p = x[n] * level.scale + wp.vec3(0.5)
            low = wp.vec3(wp.floor(p[0]), wp.floor(p[1]), wp.floor(p[2]))
            f = p - low
            incoming = g[n, h]
            slope = wp.vec3(0.0)
            for c in range(8):
                a = c & 1
                b = (c >> 1) & 1
                d = c >> 2
                u = wp.where(a == 1, f[0], 1.0 - f[0])
                v = wp.where(b == 1, f[1], 1.0 - f[1])
                w = wp.where(d == 1, f[2], 1.0 - f[2])
                at = entry(level, vertex(low[0], a), vertex(low[1], b), vertex(low[2], d))
                value = wp.dot(table[at], incoming)
                slope += value * wp.vec3(
                    wp.where(a == 1, v * w, -v * w),
                    wp.where(b == 1, u * w, -u * w),
                    wp.where(d == 1, u * v, -u * v),
                )
            total += slope * level.scale
        grad[n] = total

    return encode, to_table, to_x


def hash_encode(x: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    """As hashgrid.hash_encode, on the CPU or a CUDA device; float32 only."""
    return hashgrid.encode_with(_encode, _gradients, x, table, layout)


def _encode(x: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    encode, _, _ = kernels(layout.features)
    out = x.new_empty(len(x), layout.levels, layout.features)
    row = _row(layout.features)
    points, rows, levels = _array(x, wp.vec3), _array(table, row), _levels(layout, str(x.device))
    written = _array(out, row)
    parts = _parts(len(x), len(x) * layout.levels, x.device)
    shares = [(_cut(points, part), rows, levels, _cut(written, part)) for part in parts]
    _launch(encode, [((layout.levels, len(share[0])), share) for share in shares], x.device)
    return out.view(len(x), layout.width)


def _gradients(
    g: Tensor, x: Tensor, table: Tensor, layout: GridLayout, want_x: bool, want_table: bool
) -> tuple[Tensor | None, Tensor | None]:
    _, to_table, to_x = kernels(layout.features)
    row = _row(layout.features)
    incoming = _array(g.contiguous().view(len(x), layout.levels, layout.features), row)
    points, levels = _array(x, wp.vec3), _levels(layout, str(x.device))
    x_grad = table_grad = None
    if want_table:
        table_grad = torch.zeros_like(table, memory_format=torch.contiguous_format)
        written = _array(table_grad, row)
        parts = _parts(layout.levels, len(x) * layout.levels, x.device)  # a level owns its rows of the table
        shares = [(_cut(incoming, part, slice(None)), points, _cut(levels, part), written) for part in parts]
        _launch(to_table, [((len(share[2]), len(x)), share) for share in shares], x.device)
    if want_x:
        x_grad = torch.empty_like(x, memory_format=torch.contiguous_format)
        rows, written = _array(table, row), _array(x_grad, wp.vec3)
        parts = _parts(len(x), len(x) * layout.levels, x.device)
        shares = [
            (_cut(incoming, part), _cut(points, part), rows, levels, _cut(written, part)) for part in parts
        ]
        _launch(to_x, [((len(share[1]),), share) for share in shares], x.device)
    return x_grad, table_grad


def _array(tensor: Tensor, dtype: Any) -> Any:
    return wp.from_torch(tensor.detach().contiguous(), dtype=dtype, requires_grad=False)


def _parts(count: int, work: int, device: torch.device) -> list[slice | None]:
    """`count` points or levels, a share for every thread of torch's; None is all, where threads do not pay."""
    threads = min(torch.get_num_threads(), count, work // SHARE)
    if device.type != "cpu" or threads < 2:
        return [None]
    ends = [count * i // threads for i in range(threads + 1)]
    return [slice(low, high) for low, high in pairwise(ends)]


def _cut(array: Any, part: slice | None, *before: slice) -> Any:
    """array[part], or array[before, part]."""
    return array if part is None else array[(*before, part)]


def _launch(kernel: Any, shares: list[tuple[tuple[int, ...], tuple]], device: torch.device) -> None:
    """As warp_start.launch; on the CPU a share a thread."""
    if len(shares) == 1:
        launch(kernel, *shares[0], device)
        return
    target = wp.device_from_torch(device)
    # Recorded here, so that the kernel is compiled once; a launch releases Python's lock.
    commands = [wp.launch(kernel, dim, inputs, device=target, record_cmd=True) for dim, inputs in shares]
    others = [_threads(len(shares) - 1).submit(command.launch) for command in commands[1:]]
    commands[0].launch()
    for other in others:
        other.result()


@lru_cache(maxsize=1)
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="hash grid")


@lru_cache(maxsize=8)
def _levels(layout: GridLayout, device: str) -> Any:
    rows = zip(layout.scales, layout.resolutions, layout.sizes, layout.offsets, layout.hashed, strict=False)
    values = []
    for scale, resolution, size, offset, hashed in rows:
        level = Level()
        level.scale, level.resolution, level.size, level.offset = scale, resolution, size, offset
        level.hashed = int(hashed)
        values.append(level)
    return wp.array(values, dtype=Level, device=str(wp.device_from_torch(device)))
