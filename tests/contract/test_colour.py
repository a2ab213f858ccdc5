"""sRGB and light: known pairs, and there and back."""

from __future__ import annotations

import numpy as np
import pytest

from dreamflow_blender.contract.colour import to_linear, to_srgb


def test_known_pairs() -> None:
    assert np.allclose(to_srgb(np.array([0.0, 0.002, 0.214041, 1.0])), [0, 0.02584, 0.5, 1], atol=1e-5)
    assert to_srgb(np.ones(3)).tolist() == [1, 1, 1] and to_linear(np.ones(3)).tolist() == [1, 1, 1]
    assert to_srgb(np.array([-1.0, 2.0, np.nan])).tolist() == [0, 1, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_there_and_back(dtype: type) -> None:
    values = np.linspace(0, 1, 256).astype(dtype).reshape(2, 128)
    back = to_srgb(to_linear(values))
    assert back.dtype == dtype and back.shape == values.shape and np.abs(back - values).max() < 1e-5
