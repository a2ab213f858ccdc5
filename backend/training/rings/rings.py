"""The built-in prior's training data: rings of four views of one object, 90 degrees apart, before one background.

A ring shares elevation, distance and background; captions say nothing of the view, the camera's matrix does. Albums
hold maps, not pictures, as in training/dataset.py:

    image = sum_p colour_p shade_p + fixed + (1 - alpha) background

where `fixed` is what keeps its own colours (a real thing's wood or glass; procedural objects have none).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from backend.objects.kinds import COLOURS
from backend.objects.shapes import build
from backend.scene.camera import Camera, rings_of
from backend.training.dataset import (
    NORMAL_SHARE,
    POSES,
    Picture,
    chance,
    kept,
    paint_normals,
    pick,
    random_background,
    random_colour,
    random_description,
    trace,
)
from dreamflow_blender.contract.language.reading import Description
from dreamflow_blender.contract.language.vocabulary import MADE

FRAMES = 4  # views a ring
RING_POSES = replace(POSES, overhead_share=0.25)  # a vessel's inside is seen from above only
RING_SIZE = 64  # pixels a side
RINGS_A_KIND, RINGS_A_THING = 150, 20  # of a procedural kind, of each real thing
EDGE = 4  # rays along a side of an edge pixel
OWN_COLOURS_SHARE = 0.5  # of a real thing's pictures: as its maker coloured it
NO_COLOUR_SHARE = 0.2  # of the captions of real things in their own colours: the colour is left out
NO_CAPTION_SHARE = 0.10
REAL_SHARE = 0.3  # how often a kind's real things are drawn, to its procedural object


@dataclass(frozen=True)
class RingAlbum:
    """N = 4 R views of one object; rows 4 r .. 4 r + 3 are a ring.

    shade    [N,P,H,W] uint8, how much of the pixel shows part p, times its shade
    alpha    [N,H,W] uint8
    normal   [N,3,H,W] uint8, (n + 1) / 2 in camera space, zero where alpha is zero
    c2w      [N,4,4] float32
    fixed    [N,3,H,W] uint8, what no colour changes, times coverage; None where there is nothing such
    made     [N,3,H,W] uint8, a real thing in its own colours, times coverage; None for procedural objects
    tint     whether a real thing's body may have another colour
    colour   the word for its body's own colour; None where no word fits
    material "wooden", "metal" or None
    """

    kind: str
    shade: Tensor
    alpha: Tensor
    normal: Tensor
    c2w: Tensor
    fixed: Tensor | None = None
    made: Tensor | None = None
    tint: bool = True
    colour: str | None = None
    material: str | None = None

    @property
    def rings(self) -> int:
        return len(self.c2w) // FRAMES


def ring_cameras(count: int, generator: Generator, size: int) -> Camera:
    """FRAMES * count cameras: each ring a random one of RING_POSES and the three that stand round it."""
    return rings_of(RING_POSES.sample(generator, count, size, size), FRAMES)


def open_ring_album(
    folder: Path, kind: str, count: int = RINGS_A_KIND, size: int = RING_SIZE, seed: int = 0
) -> RingAlbum:
    """A procedural kind's album, traced once and kept as safetensors in `folder`."""

    def make() -> dict[str, Tensor]:
        cameras = ring_cameras(count, Generator().manual_seed(seed), size)
        return {**trace(build(Description(kind)), cameras, EDGE), "c2w": cameras.c2w}

    maps: dict[str, Any] = kept(folder / f"rings-{kind}-{count}-{size}-{seed}.safetensors", make)
    return RingAlbum(kind, **maps)


@dataclass(frozen=True)
class RingPicture:
    """One ring: what it shows, images [4,3,H,W] in [0,1], the object's alpha [4,H,W], cameras [4,4,4]."""

    description: Description
    images: Tensor
    alpha: Tensor
    c2w: Tensor


def paint_ring(album: RingAlbum, rows: slice, colours: Tensor | None, background: Tensor) -> Tensor:
    """[N,3,H,W] in [0,1]: N rows in these colours [P,3], or as it was made, before this background [3]."""
    if colours is None:
        assert album.made is not None
        image = album.made[rows].float() / 255
    else:
        image = torch.einsum("nphw,pc->nchw", album.shade[rows].float() / 255, colours)
        if album.fixed is not None:
            image = image + album.fixed[rows].float() / 255
    clear = 1 - album.alpha[rows, None].float() / 255
    return (image + clear * background[:, None, None]).clamp(0, 1)


class Drawer:
    """Random rings of albums, never in a held-out colour.

    A kind's procedural object by the kind's weight, its real things together by REAL_SHARE of that.
    """

    def __init__(self, albums: Sequence[RingAlbum], weights: dict[str, float]) -> None:
        groups: dict[tuple[str, bool], list[RingAlbum]] = {}
        for album in albums:
            groups.setdefault((album.kind, album.made is not None), []).append(album)
        self.groups = list(groups.values())
        shares = [weights.get(kind, 1.0) * (REAL_SHARE if real else 1.0) for kind, real in groups]
        self.weights = torch.tensor(shares, dtype=torch.float32)

    def pick_album(self, generator: Generator) -> RingAlbum:
        albums = self.groups[int(torch.multinomial(self.weights, 1, generator=generator))]
        return albums[pick(len(albums), generator)]

    def draw(self, generator: Generator) -> RingPicture:
        """One ring, at random."""
        album = self.pick_album(generator)
        first = FRAMES * pick(album.rings, generator)
        return self.paint(album, slice(first, first + FRAMES), generator)

    def draw_view(self, generator: Generator) -> Picture:
        """One view, at random."""
        album = self.pick_album(generator)
        row = pick(len(album.c2w), generator)
        ring = self.paint(album, slice(row, row + 1), generator)
        return Picture(ring.description, ring.images[0], ring.alpha[0])

    def paint(self, album: RingAlbum, rows: slice, generator: Generator) -> RingPicture:
        """These rows in random colours before a random background, or their normals."""
        normal_map = chance(NORMAL_SHARE, generator)
        description, colours = (describe_made if album.made is None else describe_real)(album, generator)
        description = replace(description, normal_map=normal_map)
        background = random_background(generator)
        if normal_map:
            images = paint_normals(album.normal[rows], album.alpha[rows])
        else:
            images = paint_ring(album, rows, colours, background)
        return RingPicture(description, images, album.alpha[rows].float() / 255, album.c2w[rows])


def describe_made(album: RingAlbum, generator: Generator) -> tuple[Description, Tensor | None]:
    """A procedural object in a random colour, now and then with a part in a colour of its own; its colours [P,3]."""
    description = random_description(album.kind, generator)
    return description, build(description).colours


def describe_real(album: RingAlbum, generator: Generator) -> tuple[Description, Tensor | None]:
    """A real thing as it was made (None), its material or colour named where one fits, or its body in a colour.

    Where there is a procedural object of the kind, a colour means that one, and a real thing is said by its material.
    """
    if album.kind in MADE:
        return Description(album.kind, material=album.material), None
    if not album.tint or chance(OWN_COLOURS_SHARE, generator):
        if album.material is not None and not chance(NO_COLOUR_SHARE, generator):
            return Description(album.kind, material=album.material), None
        named = album.colour if not chance(NO_COLOUR_SHARE, generator) else None
        return Description(album.kind, named), None
    colour = random_colour(album.kind, generator)
    return Description(album.kind, colour), torch.tensor(COLOURS[colour])[None]
