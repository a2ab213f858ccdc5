"""What the refiner learns to mend: pictures that are blurred, grainy and of a wrong hue."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

from backend.training.dataset import chance

WHOLE_SHARE = 0.3  # of the pictures come to the refiner undamaged
BLUR_SHARE, GRAIN_SHARE, HUE_SHARE = 0.8, 0.5, 0.4  # of the damaged ones
HUE_DEGREES, GRAIN = 30.0, 0.1  # at most


def soften(image: Tensor, generator: Generator) -> Tensor:
    """[3,H,W]: made two to eight times as small and large again."""
    side = image.shape[-1]
    small = side // 2 ** int(torch.randint(1, 4, (1,), generator=generator))
    shrunk = functional.interpolate(image[None], (small, small), mode="area")
    return functional.interpolate(shrunk, (side, side), mode="bilinear", align_corners=False)[0]


def damage(image: Tensor, alpha: Tensor, generator: Generator) -> Tensor:
    """[3,H,W] in [0,1] and its object's alpha [H,W] to a worse picture of the same thing; some stay whole."""
    if chance(WHOLE_SHARE, generator):
        return image
    if chance(HUE_SHARE, generator):
        degrees = HUE_DEGREES * (2 * float(torch.rand(1, generator=generator)) - 1)
        image = image + alpha * (turn_hue(image, degrees) - image)
    if chance(BLUR_SHARE, generator):
        image = soften(image, generator)
    if chance(GRAIN_SHARE, generator):
        side = image.shape[-1]
        coarse = side // 2 ** int(torch.randint(3, (1,), generator=generator))
        grain = torch.randn(1, 3, coarse, coarse, generator=generator)
        strength = GRAIN * float(torch.rand(1, generator=generator))
        image = image + alpha * strength * functional.interpolate(grain, (side, side), mode="nearest")[0]
    return image.clamp(0, 1)


def turn_hue(image: Tensor, degrees: float) -> Tensor:
    """[3,H,W], turned about the grey axis (Rodrigues); what leaves [0, 1] is clamped."""
    angle = math.radians(degrees)
    third, root = (1 - math.cos(angle)) / 3, math.sin(angle) / math.sqrt(3)
    own = math.cos(angle) + third
    matrix = torch.tensor(
        [
            [own, third - root, third + root],
            [third + root, own, third - root],
            [third - root, third + root, own],
        ]
    )
    return torch.einsum("ij,jhw->ihw", matrix, image).clamp(0, 1)
