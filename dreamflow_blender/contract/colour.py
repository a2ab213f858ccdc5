"""sRGB and light, on both sides of the wire. numpy only.

Values in [0, 1], of any shape; others are clipped. float32 stays float32, float64 stays float64, and 0 and 1 are exact.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = TypeVar("Floats", np.float32, np.float64)


def to_linear(srgb: NDArray[Floats]) -> NDArray[Floats]:
    """Scene-linear values of sRGB ones (IEC 61966-2-1)."""
    c = np.clip(srgb, 0, 1)
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4).astype(c.dtype)


def to_srgb(linear: NDArray[Floats]) -> NDArray[Floats]:
    """The other way; NaN becomes 0."""
    c = np.clip(np.nan_to_num(linear), 0, 1)
    curved = 1.055 * np.maximum(c, 1e-9) ** (1 / 2.4) - 0.055
    return np.where(c <= 0.0031308, c * 12.92, np.where(c == 1, 1, curved)).astype(c.dtype)
