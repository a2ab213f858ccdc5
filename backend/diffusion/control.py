"""ControlNets (Zhang et al. 2023): a prior that is shown the shape whose colours it judges, as depth and normal maps.

The maps are drawn from the mesh itself and encoded as the published models' preprocessors encode what they guess from a
photograph (docs/decisions.md). Each ControlNet's answer is added to the UNet's own features on the way down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backend.scene.camera import Camera

MAPS = ("depth", "normal")  # in this order in a tensor of maps, three channels each
UNION_PLACES = {"depth": 1, "normal": 4}  # among the kinds of a union model (ControlNet++)

# of B views: depth along the view in metres, infinite where nothing is, and the normals (x right, y up, z towards the
# camera, zero where nothing is), [B,H,W,4]
DrawShape = Callable[[Camera], Tensor]
EncodeSides = Callable[[Camera, Tensor], Tensor]  # cameras and what DrawShape gives to maps [B,6,H,W]


@dataclass(frozen=True)
class Control:
    """A ControlNet in diffusers' calling convention."""

    net: Callable[..., Any]
    shows: tuple[str, ...]  # of MAPS
    weight: float
    kinds: int = 0  # of a union model, how many it knows; 0: it is none


@torch.no_grad()
def encode_maps(shape: Tensor) -> Tensor:
    """[B,6,H,W] in [0,1] of what DrawShape gives.

    Depth as MiDaS has it: its inverse, in each view the nearest white and what is infinitely far black. Normals as in
    ControlNet 1.1: red to the left, green up, blue to the front, and what is behind faces the camera.
    """
    inverse = 1 / shape[..., :1]
    nearest = inverse.amax((1, 2), keepdim=True)
    depth = inverse / torch.where(nearest > 0, nearest, 1)
    x, y, z = shape[..., 1:].split(1, -1)
    colours = (torch.cat((-x, y, torch.where(inverse > 0, z, 1)), -1) + 1) / 2
    return torch.cat((depth.expand(-1, -1, -1, 3), colours), -1).permute(0, 3, 1, 2)


class ShownShape:
    """The maps of whatever views are looked at. Those of the last ones are kept: D_p and D_phi look at the same."""

    def __init__(self, draw: DrawShape, factor: int, sides: EncodeSides | None = None) -> None:
        """factor: pixels per latent pixel along a side; sides: what else is shown, after the maps of a ControlNet."""
        self._draw, self._factor, self._sides = draw, factor, sides
        self._last: tuple[Camera, Tensor] | None = None

    def __call__(self, camera: Camera, z: Tensor) -> Tensor:
        """[B,6,H,W], or with sides [B,12,H,W], for the views whose latents are z [B,C,h,w]."""
        height, width = (self._factor * side for side in z.shape[2:])
        if self._last is None or self._last[0] is not camera or self._last[1].shape[2:] != (height, width):
            resized = camera.resized(height, width)
            shape = self._draw(resized)
            parts = [encode_maps(shape), *([] if self._sides is None else [self._sides(resized, shape)])]
            self._last = camera, torch.cat(parts, 1)
        return self._last[1]


def residuals(
    controls: Sequence[Control],
    sample: Tensor,
    timestep: Tensor,
    hidden: Tensor,
    added: dict[str, Tensor] | None,
    maps: Tensor,
    label: Tensor | None = None,
) -> dict[str, Any]:
    """The UNet's two further arguments: what all controls add to its features, summed.

    All arguments are as the UNet gets them; maps [B,6,H,W], label the camera's [B,16] where the UNet is told it. With
    no controls an empty dict.
    """
    down: list[Tensor] = []
    middle: Tensor | None = None
    for control in controls:
        parts = [maps[:, 3 * MAPS.index(name) :][:, :3] for name in control.shows]
        shown: dict[str, Any] = {"controlnet_cond": torch.cat(parts, 1)}
        if control.kinds:
            places = [UNION_PLACES[name] for name in control.shows]
            kinds = torch.stack(
                [
                    torch.full_like(timestep, float(i in places), dtype=sample.dtype)
                    for i in range(control.kinds)
                ],
                1,
            )
            shown = {"controlnet_cond": parts, "control_type": kinds, "control_type_idx": places}
        here, center = control.net(
            sample,
            timestep,
            encoder_hidden_states=hidden,
            class_labels=label,
            conditioning_scale=control.weight,
            added_cond_kwargs=added,
            return_dict=False,
            **shown,
        )
        down = [a + b for a, b in zip(down, here, strict=True)] if down else list(here)
        middle = center if middle is None else middle + center
    if middle is None:
        return {}
    return {"down_block_additional_residuals": tuple(down), "mid_block_additional_residual": middle}
