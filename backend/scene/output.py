"""What a renderer returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class RenderOutput:
    """A batch of B views, row 0 at the top.

    image        [B,H,W,3] in [0,1], over the background
    opacity      [B,H,W,1] in [0,1]
    orientation  scalar: the orientation loss of a view (Ref-NeRF, Eq. 11), where the renderer was asked for it
    """

    image: Tensor
    opacity: Tensor
    orientation: Tensor | None = None
