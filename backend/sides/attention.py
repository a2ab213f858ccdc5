"""MV-Adapter's attention between six views, beside a UNet's own self-attention (Huang et al. 2024, section 4.2).

The four views round an object look at each other row by row: what is at one height. Front, back, top and bottom look at
each other column by column, the front mirrored, so that a column is one place from left to right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from backend.errors import InputError
from backend.sides.views import COUNT

AROUND, OVER = [0, 1, 2, 3], [0, 2, 4, 5]  # of the six views, as views.py has them


@dataclass
class Shown:
    """What all of a UNet's RowColumnAttention share: how much it counts, and whether the six views are at work."""

    weight: float
    on: bool = False


class RowColumnAttention(nn.Module):
    """A processor for a self-attention of `width` channels: what `inner` answers, plus the six views'."""

    def __init__(self, inner: Any, width: int, shown: Shown) -> None:
        super().__init__()
        self.inner, self.shown = inner, shown
        self.to_q_mv = nn.Linear(width, width, bias=False)
        self.to_k_mv = nn.Linear(width, width, bias=False)
        self.to_v_mv = nn.Linear(width, width, bias=False)
        self.to_out_mv = nn.ModuleList([nn.Linear(width, width)])  # a list, as its file has it

    def forward(self, attn: Attention, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[B,N,C] to [B,N,C]; while shown, B is a whole number of six square views. Raises InputError."""
        found: Tensor = self.inner(attn, hidden_states, *args, **kwargs)
        if not self.shown.on:
            return found
        more: Tensor = self.to_out_mv[0](self.between(hidden_states, attn.heads))
        return found + self.shown.weight * more

    def between(self, x: Tensor, heads: int) -> Tensor:
        """[B,N,C], what the views say to each other of x."""
        views, tokens, width = x.shape
        side = math.isqrt(tokens)
        if views % COUNT or side**2 != tokens:
            raise InputError(
                f"MV-Adapter reads square pictures, {COUNT} at once; got {views} of {tokens} tokens.",
                "Leave it out, or render square views.",
            )
        told = [
            layer(x).view(-1, COUNT, side, side, heads, width // heads)
            for layer in (self.to_q_mv, self.to_k_mv, self.to_v_mv)
        ]
        around = attend(*(part[:, AROUND] for part in told))
        columns = attend(*(mirrored(part[:, OVER]).transpose(2, 3) for part in told))
        over = mirrored(columns.transpose(2, 3))
        front, back = (around[:, 0] + over[:, 0]) / 2, (around[:, 2] + over[:, 1]) / 2
        found = torch.stack((front, around[:, 1], back, around[:, 3], over[:, 2], over[:, 3]), 1)
        return found.reshape(views, tokens, width)


def mirrored(x: Tensor) -> Tensor:
    """[G,V,h,w,...] with the first view's left and right exchanged."""
    return torch.cat((x[:, :1].flip(3), x[:, 1:]), 1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each [G,V,h,w,heads,d]; every row of h looks at the same row of all V views."""
    groups, views, rows, columns, heads, size = q.shape

    def by_row(x: Tensor) -> Tensor:
        return x.permute(0, 2, 4, 1, 3, 5).reshape(groups * rows, heads, views * columns, size)

    found = nn.functional.scaled_dot_product_attention(by_row(q), by_row(k), by_row(v))
    return found.view(groups, rows, heads, views, columns, size).permute(0, 3, 1, 4, 2, 5)
