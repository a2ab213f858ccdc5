"""MV-Adapter's attention against one that is written out as a table of tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Generator, Tensor

from backend.errors import InputError
from backend.sides.attention import RowColumnAttention, Shown

WIDTH, HEADS, SIDE = 8, 2, 3


def written_out(attention: RowColumnAttention, x: Tensor, heads: int) -> Tensor:
    """What its six views add, [6,N,C] to [6,N,C]: all tokens of all views in one table that says who asks whom.

    Views 0 to 3 ask their row in views 0 to 3; 0, 2, 4 and 5 ask their column in those four, 0's columns counted from
    its right; 0 and 2 take the mean of both.
    """
    side = round(x.shape[1] ** 0.5)
    view, row, column = (
        axis.flatten() for axis in torch.meshgrid(*map(torch.arange, (6, side, side)), indexing="ij")
    )
    column = torch.where(view == 0, side - 1 - column, column)
    around, over = view < 4, torch.isin(view, torch.tensor([0, 2, 4, 5]))
    q, k, v = (
        (x @ layer.weight.T).reshape(6 * side**2, heads, -1).transpose(0, 1)
        for layer in (attention.to_q_mv, attention.to_k_mv, attention.to_v_mv)
    )
    found = torch.zeros_like(q)
    for who, place in ((around, row), (over, column)):
        asks = who[:, None] & who & (place[:, None] == place)
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~asks, -torch.inf)
        found[:, who] += scores[:, who].softmax(-1) @ v
    found[:, around & over] /= 2
    out: Any = attention.to_out_mv[0]
    return found.transpose(0, 1).reshape_as(x) @ out.weight.T + out.bias


def made(shown: Shown) -> tuple[Attention, RowColumnAttention]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        attn = Attention(WIDTH, heads=HEADS, dim_head=WIDTH // HEADS)
        return attn, RowColumnAttention(AttnProcessor2_0(), WIDTH, shown)


def test_six_views_hear_of_each_other_by_rows_and_columns() -> None:
    shown = Shown(0.7)
    attn, ours = made(shown)
    x = torch.randn(12, SIDE**2, WIDTH, generator=Generator().manual_seed(1))  # two objects
    with torch.no_grad():
        plain = attn(x)
        attn.set_processor(ours)
        assert torch.equal(attn(x), plain)  # not at work
        shown.on = True
        found = attn(x)
        more = torch.cat([written_out(ours, part, HEADS) for part in x.split(6)])
    torch.testing.assert_close(found, plain + 0.7 * more, rtol=1e-5, atol=1e-5)
    assert float((found - plain).abs().max()) > 0.01


def test_one_that_begins_adds_nothing_and_other_numbers_of_views_are_refused() -> None:
    attn, ours = made(Shown(1.0, on=True))
    x = torch.randn(6, SIDE**2, WIDTH, generator=Generator().manual_seed(1))
    plain = attn(x)
    attn.set_processor(ours)
    for parameter in ours.to_out_mv.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.equal(attn(x), plain)
    with pytest.raises(InputError, match="6 at once; got 4 of 9 tokens"):
        attn(x[:4])
    with pytest.raises(InputError, match="got 6 of 8 tokens"):
        attn(x[:, :8])
