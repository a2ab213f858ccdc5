"""Albums of real things."""
from __future__ import annotations
from pathlib import Path
from backend.diffusion.mini.rings import RingAlbum


def open_real_albums(furniture: Path, cache: Path) -> list[RingAlbum]:
    raise NotImplementedError
