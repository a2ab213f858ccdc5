"""The judge of painted parts: the truth is without fault, and parts in each other's colours are seen."""

from __future__ import annotations

import pytest
import torch

from benchmarks import shape


def test_the_truth_has_no_error_and_swapped_parts_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape, "VIEWS", 4)
    monkeypatch.setattr(shape, "PIXELS", 64)
    truth = shape.Truth(shape.PROMPTS["mug"])
    assert truth.judge(truth.true()) == pytest.approx((0, 1, 1), abs=1e-6)
    blurred = (0.9 * truth.true() + 0.05).clamp(0, 1)
    error, part, border = truth.judge(blurred)
    assert 0.01 < error < 0.06 and part == border == 1  # fainter, and where they belong
    truth.colours = truth.colours.flip(0)
    error, part, _ = truth.judge(shape.Truth(shape.PROMPTS["mug"]).true())
    assert error > 0.2 and part < 0.1
    one = torch.where(truth.part >= 0, 1, -1)
    assert not shape.borders(one).any() and shape.borders(truth.part).any()
