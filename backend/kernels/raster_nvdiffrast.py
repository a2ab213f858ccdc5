"""Rasterisation by nvdiffrast, where it is installed.

Written against nvdiffrast 0.4.0, `nvdiffrast/torch/ops.py` and `csrc/torch/torch_rasterize.cpp`: CUDA
only, contiguous and aligned float32 positions and int32 triangles, neither empty. Its first row is y = -1, which
is the top of the image here, since clip space has y down: nothing is flipped. Its licence allows
research and evaluation only, so it is never a dependency.

Against raster.py: it clips at the near plane instead of dropping triangles, snaps corners more
coarsely and breaks ties its own way; ids differ at some edge pixels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import nvdiffrast.torch as dr
import torch
from torch import Tensor


@lru_cache(maxsize=1)
def _context(device: torch.device) -> Any:
    return dr.RasterizeCudaContext(device=device)


@torch.no_grad()
def rasterize_ids(pos_clip: Tensor, tri: Tensor, height: int, width: int) -> Tensor:
    """As raster.rasterize_ids, on a CUDA device."""
    if len(tri) == 0 or len(pos_clip) == 0:
        return torch.full((height, width), -1, dtype=torch.int32, device=pos_clip.device)
    corners = pos_clip.float().contiguous()
    if corners.data_ptr() % 16:  # a view that begins within a corner; nvdiffrast reads four numbers at once
        corners = corners.clone()
    image, _ = dr.rasterize(
        _context(pos_clip.device),
        corners[None],
        tri.to(torch.int32).contiguous(),
        resolution=(height, width),
        grad_db=False,
    )
    # the last channel is 1 + the triangle as a float, exact to 2^24 triangles
    return image[0, :, :, 3].to(torch.int32) - 1


def probe(device: torch.device) -> None:
    """Draw one triangle over a few pixels. Raises what nvdiffrast raises where it does not run on this card."""
    corners = torch.tensor([[-1.0, -1, 0, 1], [3, -1, 0, 1], [-1, 3, 0, 1]], device=device)
    ids = rasterize_ids(corners, torch.tensor([[0, 1, 2]], device=device), 4, 4)
    if ids.any():
        raise RuntimeError("it draws a triangle wrong")
