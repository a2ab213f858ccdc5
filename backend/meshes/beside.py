"""The files that a mesh file names: found in its own folder or below it, its images bounded together."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from numpy.typing import NDArray

from backend.errors import InputError
from backend.images import MOST_PIXELS, clean, read_image
from dreamflow_blender.contract.meshfile import BadMeshFile

MOST_BYTES = 2 << 30  # of a mesh file, and of all the files together that one names
MOST_NOTES = 20
MOST_TOGETHER = 8 * MOST_PIXELS  # of all images of one file: 2 GB in memory
PIXELS_A_BYTE = 64  # beyond one large image: painted ones have below 10
NOT_A_NAME = re.compile(r'[\x00-\x1f:*?"<>|\ud800-\udfff]')  # on one of the systems
DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # of Windows, in any folder


class Beside:
    """The files that one mesh file names: in its folder or below it, and together no more than MOST_BYTES."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._left = MOST_BYTES
        self._listed: dict[Path, dict[str, Path]] = {}

    def find(self, name: str) -> Path:
        """Where the file of this name is. Raises InputError.

        Backslashes divide as slashes do, on every system. Of an absolute path, one with a drive or a host, or one
        that goes up, only the file name counts: that is where a file that was sent along is found.
        """
        parts, shown = _parts_of(name)
        place = self.folder.joinpath(*parts)
        if not place.exists():
            place = self._alike(place)
        if not place.is_file():
            raise InputError(f"{shown} was not found beside it.")
        if not place.resolve().is_relative_to(self.folder.resolve()):
            raise InputError(f"{shown} is a link that leads out of its folder.")
        return place

    def read(self, place: Path) -> bytes:
        """The content of what `find` has found. Raises BadMeshFile where all of it is too much."""
        self._left -= place.stat().st_size
        if self._left < 0:
            raise BadMeshFile(f"the files that it names are larger than {MOST_BYTES >> 30} GB together.")
        return place.read_bytes()

    def _alike(self, place: Path) -> Path:
        """The one that differs in its case alone: "Skin.PNG" of a system that does not tell them apart."""
        parent = place.parent
        if parent not in self._listed:
            there = parent.iterdir() if parent.is_dir() else ()
            self._listed[parent] = {path.name.lower(): path for path in there}
        return self._listed[parent].get(place.name.lower(), place)


def _parts_of(name: str) -> tuple[tuple[str, ...], str]:
    """Of a path in a folder; and the name as it may be shown. Raises InputError."""
    windows = PureWindowsPath(name.strip().strip('"'))
    parts = windows.parts
    if windows.anchor or ".." in parts or PurePosixPath(name).is_absolute():
        parts = (windows.name,)
    shown = clean(name)[:200]
    if (
        not parts
        or not parts[-1]
        or len(parts) > 20
        or any(NOT_A_NAME.search(p) or len(p) > 100 for p in parts)
    ):
        raise InputError(f"{shown!r} cannot be the name of a file beside it.")
    if any(DEVICE.match(part) for part in parts):
        raise InputError(f"{shown!r} names a device.")
    return parts, shown


def decode_text(content: bytes) -> str:
    """UTF-8 with or without a mark, else Latin-1, which takes every byte."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


class Images:
    """The images of one mesh file, each read once. What cannot be read is said in `notes` and has no row."""

    def __init__(self, notes: list[str], file_bytes: int) -> None:
        self.arrays: list[NDArray[np.uint8]] = []
        self.notes = notes
        self._bytes, self._pixels = file_bytes, 0
        self._rows: dict[object, int] = {}

    def row(self, key: object, name: str, source: bytes | Path) -> int:
        """Where the image is in `arrays`, or -1. Raises BadMeshFile on KTX2 and where all together are too large."""
        if key not in self._rows:
            self._rows[key] = -1
            if isinstance(source, Path):
                self._bytes += source.stat().st_size
            room = min(MOST_PIXELS + PIXELS_A_BYTE * self._bytes, MOST_TOGETHER)
            try:
                image = read_image(source, name, room - self._pixels)
            except InputError as error:
                self.miss(f"{error.message} {error.todo}")
            else:
                self._pixels += image.shape[0] * image.shape[1]
                self._rows[key] = len(self.arrays)
                self.arrays.append(image)
        return self._rows[key]

    def row_beside(self, beside: Beside, name: str) -> int:
        """The same of a file that the mesh file names."""
        try:
            place = beside.find(name)
        except InputError as error:
            self.miss(f"The image {error.message}")
            return -1
        return self.row(place, clean(name), place)

    def miss(self, what: str) -> None:
        said = f"{what.strip()} The material's plain colour is used."
        if said not in self.notes and len(self.notes) <= MOST_NOTES:
            self.notes.append(said if len(self.notes) < MOST_NOTES else "So it is with more of its images.")
