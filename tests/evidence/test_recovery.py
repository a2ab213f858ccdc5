"""The figures of what came back, on pictures whose figures are known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backend.errors import InputError
from backend.evidence.recovery import compare, judge_job


def test_figures_of_a_square_that_is_known() -> None:
    true = torch.zeros(1, 8, 8, 1)
    true[:, :4] = 1.0
    half = torch.zeros(1, 8, 8, 1)
    half[:, 2:4] = 1.0  # half of it, nothing beside it
    colour = torch.full((1, 8, 8, 3), 0.5)
    found = compare(colour + 0.1, half, colour, true)
    assert found.iou == pytest.approx(0.5) and found.psnr == pytest.approx(20, abs=1e-3)


def test_a_folder_without_a_result_is_met_with_a_clear_word(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no mesh\.npz in it") as caught:
        judge_job(tmp_path, "a ball")
    assert caught.value.todo
