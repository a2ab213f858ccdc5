"""The multiresolution hash grid in plain torch: the readable twin of hashgrid_warp and hashgrid_tcnn.

The layout is tiny-cuda-nn's (include/tiny-cuda-nn/encodings/grid.h), so that one table serves all three:
a position is x * scale + 0.5, a level has ceil(scale) + 1 vertices a side and is stored densely (x
fastest) where they fit its share of the table, otherwise hashed; sizes are multiples of 8. The half-cell
shift lets the last vertex stick out by one at x = 1: it wraps around, `% size`.

One autograd function serves the torch and the Warp kernels. It forms one level after another, so that no
temporary is larger than 8 corners x N, and adds to the table with index_add_, which is deterministic on
the CPU in every mode of torch's (index_put_ is not). There is no second derivative.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.errors import InputError

PRIMES = (1, 2654435761, 805459861)  # the first one keeps neighbours in x on neighbouring entries
WIDTHS = (1, 2, 4, 8)  # features a level that tiny-cuda-nn can do
NO_SECOND_DERIVATIVE = (
    "The hash grid has no second derivative, so a normal from d density / dx cannot feed a loss. "
    "Use finite differences of the density."
)

Encode = Callable[[Tensor, Tensor, "GridLayout"], Tensor]
Gradients = Callable[..., tuple[Tensor | None, Tensor | None]]


@dataclass(frozen=True)
class GridLayout:
    """Where a level's entries are in the table. Raises InputError for sizes that no kernel can do."""

    levels: int
    features: int  # a level: 1, 2, 4 or 8
    log2_size: int  # a level has at most 2^log2_size entries
    base: int = 16  # vertices a side of the coarsest level
    finest: int = 2048  # and of the finest

    def __post_init__(self) -> None:
        if self.features not in WIDTHS:
            raise InputError(f"A hash grid level has {WIDTHS} features, not {self.features}.")
        if not 1 <= self.levels <= 32 or not 3 <= self.log2_size <= 24:
            raise InputError(
                f"A hash grid has 1 to 32 levels of at most 2^3 to 2^24 entries, "
                f"not {self.levels} of 2^{self.log2_size}."
            )
        if not 2 <= self.base <= self.finest:
            raise InputError(f"A hash grid grows from base >= 2, not from {self.base} to {self.finest}.")

    @cached_property
    def growth(self) -> float:
        """Ratio of neighbouring levels, rounded to float32, as it is passed to tiny-cuda-nn."""
        return _float32((self.finest / self.base) ** (1 / max(self.levels - 1, 1)))

    @cached_property
    def scales(self) -> tuple[float, ...]:
        """Cells a side, fractional; in float32 steps as tiny-cuda-nn forms them.

        Every step is taken in float64 and rounded once, which is float32's own result on every processor.
        numpy's log2 and exp2 in float32 are one off on some: a ceil then finds another grid.
        """
        log2 = _float32(math.log2(self.growth))
        powers = [_float32(math.exp2(_float32(level * log2))) for level in range(self.levels)]
        return tuple(_float32(_float32(power * self.base) - 1) for power in powers)

    @cached_property
    def resolutions(self) -> tuple[int, ...]:
        return tuple(math.ceil(s) + 1 for s in self.scales)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Entries a level: its vertices rounded up to a multiple of 8, at most 2^log2_size."""
        return tuple(min((r**3 + 7) // 8 * 8, 2**self.log2_size) for r in self.resolutions)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """[levels + 1], the first entry of each level and the end."""
        return tuple(accumulate(self.sizes, initial=0))

    @cached_property
    def hashed(self) -> tuple[bool, ...]:
        return tuple(r**3 > size for r, size in zip(self.resolutions, self.sizes, strict=True))

    @property
    def entries(self) -> int:
        """Rows of the table."""
        return self.offsets[-1]

    @property
    def width(self) -> int:
        """Columns of the encoding."""
        return self.levels * self.features


def _float32(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


def hash_encode(x: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    """Trilinear look-up at every level (Instant-NGP, section 3).

    x      [N,3] in [0,1]; outside of it some entry of the table is read, none beyond the table
    table  [layout.entries, layout.features] float32
    returns [N, levels * features], level by level; once differentiable in x and table
    """
    return encode_with(_encode, _gradients, x, table, layout)


def encode_with(encode: Encode, gradients: Gradients, x: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    """hash_encode by a pair of kernels.

    encode(x, table, layout) -> [N, width]
    gradients(g [N, width], x, table, layout, want_x, want_table) -> (to x or None, to table or None)
    """
    if x.shape[1:] != (3,) or table.shape != (layout.entries, layout.features):
        raise ValueError(
            f"expected x [N,3] and a table [{layout.entries},{layout.features}], "
            f"got {list(x.shape)} and {list(table.shape)}"
        )
    return _Encode.apply(x, table, layout, encode, gradients)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, table: Tensor, layout: GridLayout, encode: Encode, gradients: Gradients
    ) -> Tensor:
        ctx.save_for_backward(x, table)
        ctx.layout, ctx.gradients = layout, gradients
        return encode(x.detach(), table.detach(), layout)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, table = ctx.saved_tensors
        want = tuple(ctx.needs_input_grad[:2])
        return (*_Gradients.apply(g, x, table, ctx.layout, ctx.gradients, want), None, None, None)


class _Gradients(torch.autograd.Function):
    """A function of its own, so that a second derivative meets a sentence instead of silence."""

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        table: Tensor,
        layout: GridLayout,
        gradients: Gradients,
        want: tuple[bool, bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        return gradients(g.detach(), x.detach(), table.detach(), layout, *want)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError(NO_SECOND_DERIVATIVE)


def _encode(x: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    out = x.new_empty(len(x), layout.levels, layout.features)
    for level in range(layout.levels):
        index, fraction = _corners(x, layout, level)
        rows = table[layout.offsets[level] : layout.offsets[level + 1]]
        out[:, level] = F.embedding_bag(index, rows, mode="sum", per_sample_weights=_weights(fraction))
    return out.view(len(x), layout.width)


def _gradients(
    g: Tensor, x: Tensor, table: Tensor, layout: GridLayout, want_x: bool, want_table: bool
) -> tuple[Tensor | None, Tensor | None]:
    g = g.view(len(x), layout.levels, layout.features)
    to_x = torch.zeros_like(x) if want_x else None
    to_table = torch.zeros_like(table) if want_table else None
    for level in range(layout.levels):
        index, fraction = _corners(x, layout, level)
        span = slice(layout.offsets[level], layout.offsets[level + 1])
        if to_table is not None:
            share = _weights(fraction)[:, :, None] * g[:, level, None, :]
            to_table[span].index_add_(0, index.view(-1), share.view(-1, layout.features))
        if to_x is not None:
            # d out / d corner weight, at the corners (z, y, x)
            at = (F.embedding(index, table[span]) * g[:, level, None, :]).sum(-1).view(-1, 2, 2, 2)
            fx, fy, fz = fraction.unbind(1)
            plane = torch.lerp(at[:, 0], at[:, 1], fz[:, None, None])  # [N, y, x]
            row = torch.lerp(plane[:, 0], plane[:, 1], fy[:, None])  # [N, x]
            rise = at[:, 1] - at[:, 0]
            dz = torch.lerp(rise[:, 0], rise[:, 1], fy[:, None])
            dy = plane[:, 1] - plane[:, 0]
            slope = (
                row[:, 1] - row[:, 0],
                torch.lerp(dy[:, 0], dy[:, 1], fx),
                torch.lerp(dz[:, 0], dz[:, 1], fx),
            )
            to_x += torch.stack(slope, 1) * layout.scales[level]
    return to_x, to_table


def _corners(x: Tensor, layout: GridLayout, level: int) -> tuple[Tensor, Tensor]:
    """Entries of the 8 corners within the level [N,8] int64 (x fastest), and the fractions [N,3]."""
    position = x * layout.scales[level] + 0.5
    low = position.floor()
    side = low.long()[:, :, None] + torch.arange(2, device=x.device)  # [N, xyz, 2]
    if layout.hashed[level]:
        # int64 products agree with uint32 ones in the low bits, which are all that the mask keeps
        i, j, k = (side * torch.tensor(PRIMES, device=x.device)[:, None]).unbind(1)
        index = k[:, :, None, None] ^ j[:, None, :, None] ^ i[:, None, None, :]
        index = index & (layout.sizes[level] - 1)
    else:
        strides = torch.tensor([layout.resolutions[level] ** d for d in range(3)], device=x.device)
        i, j, k = (side * strides[:, None]).unbind(1)
        index = k[:, :, None, None] + j[:, None, :, None] + i[:, None, None, :]
        index = index.remainder(layout.sizes[level])
    return index.view(-1, 8), position - low


def _weights(fraction: Tensor) -> Tensor:
    """Trilinear weights [N,8] of the corners, x fastest."""
    i, j, k = torch.stack((1 - fraction, fraction), 2).unbind(1)
    return (k[:, :, None, None] * j[:, None, :, None] * i[:, None, None, :]).view(-1, 8)
