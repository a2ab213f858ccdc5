"""PNG files that say that they are sRGB; the same picture gives the same bytes."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from backend.errors import NumericsError


def png_bytes(image: Tensor) -> bytes:
    """[H,W,3 or 4] sRGB, uint8 or in [0,1]; alpha is left out where nothing is transparent.

    Raises NumericsError for a NaN or an infinity, ValueError for another shape.
    """
    if image.ndim != 3 or image.shape[2] not in (3, 4):
        raise ValueError(f"expected an image [H,W,3] or [H,W,4], got {list(image.shape)}")
    if image.dtype != torch.uint8:
        if not bool(torch.isfinite(image).all()):
            raise NumericsError("The texture has a NaN or an infinity.", "Try another seed.")
        image = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = image.cpu().numpy()
    if pixels.shape[2] == 4 and (pixels[..., 3] == 255).all():
        pixels = np.ascontiguousarray(pixels[..., :3])
    chunks = PngInfo()
    chunks.add(b"sRGB", b"\x00")  # perceptual intent
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()
