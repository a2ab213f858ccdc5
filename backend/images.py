"""Pictures that strangers made: bounded by what their header says before they are decoded."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from backend.errors import InputError
from dreamflow_blender.contract.meshfile import BadMeshFile

MOST_PIXELS = 8192 * 8192  # of one image
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF")  # never by guess: Pillow starts Ghostscript for EPS
KTX2 = b"\xabKTX 20\xbb\r\n\x1a\n"
Image.MAX_IMAGE_PIXELS = MOST_PIXELS

# what Pillow's decoders raise on damaged files
_DAMAGED = (
    OSError, ValueError, TypeError, LookupError, ArithmeticError, SyntaxError, EOFError, RuntimeError, struct.error,
    zlib.error, AttributeError, Image.DecompressionBombError,
)  # fmt: skip


def clean(name: object) -> str:
    """A name from a file as it can be written, shown and kept in an array: without control characters, at most 255."""
    return re.sub(r"[\x00-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", "?", str(name)[:255])


def read_image(source: bytes | Path, what: str, left: int = MOST_PIXELS) -> NDArray[np.uint8]:
    """[H,W,4] uint8, sRGB and straight alpha. Raises InputError naming `what`, BadMeshFile on KTX2 and too much.

    left  pixels that may still be read; more are refused by what the header says, before anything is decoded
    """
    try:
        with (
            io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file,
            warnings.catch_warnings(action="ignore"),  # Pillow's, of damaged files
        ):
            if file.read(len(KTX2)) == KTX2:
                raise BadMeshFile(
                    f"the image {what} is KTX2, which is not read: export with PNG or JPEG images."
                )
            file.seek(0)
            with Image.open(file, formats=FORMATS) as opened:
                pixels = opened.width * opened.height
                if pixels > min(left, MOST_PIXELS):
                    if pixels <= MOST_PIXELS:
                        raise BadMeshFile("its images are too large together: make them smaller.")
                    size = f"{opened.width:,} x {opened.height:,}"
                    raise InputError(
                        f"{what} is too large ({size} pixels).", "Make it 8192 x 8192 or smaller."
                    )
                return _eight_bits(opened)
    except (InputError, BadMeshFile):
        raise
    except _DAMAGED as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = f"none of {', '.join(FORMATS)}" if unknown else clean(error)[:100]
        raise InputError(
            f"{what} cannot be read as an image ({reason}).", "Save it as PNG or JPEG."
        ) from error


def _eight_bits(opened: Image.Image) -> NDArray[np.uint8]:
    if not opened.mode.startswith(("I", "F")):
        return np.array(opened.convert("RGBA"))
    levels = np.asarray(opened)  # grey, of 16 bits and more
    whole = 65535 if opened.mode.startswith("I") else 1
    made = np.full((*levels.shape, 4), 255, np.uint8)
    for row, grey in zip(made, levels, strict=True):  # by rows, or else it is 8 times as large in between
        row[:, :3] = np.round(np.clip(np.nan_to_num(grey) / whole, 0, 1) * 255)[:, None]
    return made
