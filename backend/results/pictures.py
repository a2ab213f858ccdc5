"""Pictures of a run: preview.png, views.png, curves.png, turntable.webp. The same input gives the same bytes."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from backend.files import replacing, write_bytes
from backend.meshes.write import png_bytes

INK, MUTED, PAPER = (38, 38, 38), (128, 128, 128), (255, 255, 255)
PREVIEW = 256  # pixels, as Blender's own thumbnails: its panel need not make it smaller, which takes as long as reading


def write_preview(path: Path, image: Tensor) -> None:
    """image [H,W,3] in [0,1], made PREVIEW pixels high if it is larger; raises DiskError, as all of these."""
    if len(image) > PREVIEW:
        size = (PREVIEW, round(image.shape[1] * PREVIEW / len(image)))
        channels = image.permute(2, 0, 1)[None]
        image = functional.interpolate(channels, size, mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    write_bytes(path, png_bytes(image))


def write_views(path: Path, sheets: dict[str, Tensor]) -> None:
    """One labelled row a stage, its views side by side in steps of 360 / n degrees from the front.

    sheets  stage -> [n,H,W,3] in [0,1]; the same n, H and W in each, at least one stage
    """
    count, height, width, _ = next(iter(sheets.values())).shape
    gap, left, top = 6, 104, 30
    size = (left + count * (width + gap) + 8, top + len(sheets) * (height + gap) + 4)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for i in range(count):
        middle = left + i * (width + gap) + width // 2
        draw.text((middle, top // 2), f"{360 * i // count}°", MUTED, ImageFont.load_default(13), anchor="mm")
    for row, (stage, images) in enumerate(sheets.items()):
        y = top + row * (height + gap)
        draw.text((16, y + height // 2), stage, INK, ImageFont.load_default(16), anchor="lm")
        for i, image in enumerate(images):
            sheet.paste(_picture(image), (left + i * (width + gap), y))
    with replacing(path) as temporary:
        sheet.save(temporary, "PNG")


def write_curves(path: Path, curves: dict[str, dict[str, Tensor]]) -> None:
    """A row a stage: see curves.draw_curves."""
    from backend.results.curves import draw_curves  # matplotlib: a second that no job needs at its start

    draw_curves(path, curves)


def write_turntable(path: Path, frames: Tensor, seconds: float = 4.0) -> None:
    """An endless WebP animation, one turn in `seconds`. frames [N,H,W,3] in [0,1]."""
    first, *others = [_picture(frame) for frame in frames]
    with replacing(path) as temporary:
        first.save(
            temporary,
            "WEBP",
            save_all=True,
            append_images=others,
            duration=round(1000 * seconds / len(frames)),
            loop=0,
            quality=88,
            method=4,
        )


def _picture(image: Tensor) -> Image.Image:
    return Image.fromarray((image.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
