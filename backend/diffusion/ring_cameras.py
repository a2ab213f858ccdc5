"""Rings: the cameras that a prior which denoises several views together is shown at once."""

from __future__ import annotations

import math

import torch

from backend.scene.camera import Camera


def rings_of(first: Camera, frames: int) -> Camera:
    """B cameras to B * frames: after each, those that stand on in equal steps round the vertical axis.

    A ring shares elevation, distance and field of view, as the rings that such a prior was trained on. One frame: the
    cameras as they are.
    """
    if frames == 1:
        return first
    angle = torch.arange(frames, dtype=first.c2w.dtype, device=first.c2w.device) * (2 * math.pi / frames)
    turn = torch.eye(4, dtype=angle.dtype, device=angle.device).repeat(frames, 1, 1)
    turn[:, 0, 0], turn[:, 0, 1] = angle.cos(), -angle.sin()
    turn[:, 1, 0], turn[:, 1, 1] = angle.sin(), angle.cos()
    c2w = torch.einsum("fij,bjk->bfik", turn, first.c2w).flatten(0, 1)
    return Camera(c2w, first.proj.repeat_interleave(frames, 0), first.height, first.width)
