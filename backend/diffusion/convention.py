"""What a network sees of z = x + sigma n, which time it is told and what its answer means: one value a family.

n ~ N(0, I), and D(z) is the mean of x given z. A noise level is a sigma; a family says here how it reads one. How its
text goes in is models/text.py's TextInput.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from backend.diffusion.schedule import NoiseLevel

Prediction = Literal["epsilon", "v_prediction", "flow"]


@dataclass(frozen=True)
class Convention:
    """All tensors are [B,C,h,w].

    scale_in   what z is multiplied by before the network sees it
    timestep   what the network is told; may be fractional
    denoised   (output, z, level) to D(z)
    answer     (x, n, level) to what a perfect network would answer for z = x + sigma n: the target of its training
    """

    scale_in: Callable[[NoiseLevel], float]
    timestep: Callable[[NoiseLevel], float]
    denoised: Callable[[Tensor, Tensor, NoiseLevel], Tensor]
    answer: Callable[[Tensor, Tensor, NoiseLevel], Tensor]


def scale_in(level: NoiseLevel) -> float:
    """1 / sqrt(1 + sigma^2), which is sqrt(alpha_bar): a network of Stable Diffusion's noise levels was trained on
    sqrt(alpha_bar) x + sqrt(1 - alpha_bar) n."""
    return float((1 + level.sigma**2) ** -0.5)


def _table_time(level: NoiseLevel) -> float:
    return level.timestep


def _v_denoised(output: Tensor, z: Tensor, level: NoiseLevel) -> Tensor:
    c = scale_in(level)
    return z * c**2 - level.sigma * c * output


def flow_time(level: NoiseLevel) -> float:
    """t in (0, 1) of a straight path z_t = (1 - t) x + t n: sigma = t / (1 - t)."""
    return level.sigma / (1 + level.sigma)


CONVENTIONS: dict[Prediction, Convention] = {
    # Stable Diffusion 1.x, 2.x-base, SDXL and its refiner: eps = n, D = z - sigma eps
    "epsilon": Convention(
        scale_in,
        _table_time,
        lambda output, z, level: z - level.sigma * output,
        lambda x, n, level: n,
    ),
    # Stable Diffusion 2.x at 768 px: v = sqrt(alpha_bar) n - sqrt(1 - alpha_bar) x (Salimans and Ho 2022)
    "v_prediction": Convention(
        scale_in,
        _table_time,
        _v_denoised,
        lambda x, n, level: scale_in(level) * (n - level.sigma * x),
    ),
    # rectified flow (Liu et al. 2022; Stable Diffusion 3 is told 1000 t): v = n - x, D = z_t - t v
    "flow": Convention(
        lambda level: 1 - flow_time(level),
        lambda level: 1000 * flow_time(level),
        lambda output, z, level: (1 - flow_time(level)) * z - flow_time(level) * output,
        lambda x, n, level: n - x,
    ),
}
