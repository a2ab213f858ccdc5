"""The colours that an artist's object has: from images, vertex colours and plain values, at any of its points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from backend.texture.bake import Points
from dreamflow_blender.contract.meshfile import ObjectArrays

EXTEND, MIRROR = 1, 2  # ObjectArrays.wrap; 0 repeats
PLAIN = 0.06  # a lone colour whose channels differ by less says nothing about what the object looks like


def to_linear(srgb: Tensor) -> Tensor:
    """Of light, from sRGB values; any shape."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb.clamp(min=0) + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: Tensor) -> Tensor:
    return torch.where(
        linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=1e-8) ** (1 / 2.4) - 0.055
    )


@dataclass(frozen=True)
class SourceColours:
    """An object's present colours.

    material  [F] int64, rows of base, image and wrap
    uv        [F,3,2] where its image is read, v upwards, or None
    colour    [F,3,4] sRGB and alpha at the corners, or None
    base      [M,4] sRGB and alpha
    image     M rows of `images`, -1 where there is none
    wrap      M pairs, across and up
    images    [H,W,4] uint8, row 0 = top
    """

    material: Tensor
    uv: Tensor | None
    colour: Tensor | None
    base: Tensor
    image: tuple[int, ...]
    wrap: tuple[tuple[int, int], ...]
    images: tuple[Tensor, ...]

    @torch.no_grad()
    def at(self, points: Points) -> Tensor:
        """[P,4] sRGB and alpha in [0,1] at points of the surface."""
        material = self.material[points.face]
        base = self.base[material]
        found = torch.ones_like(base)
        if self.uv is not None:
            uv = (self.uv[points.face] * points.bary[..., None]).sum(1)
            for row, image in enumerate(self.image):
                here = (material == row).nonzero()[:, 0] if image >= 0 else material[:0]
                if len(here):
                    found[here] = sample(self.images[image], uv[here], self.wrap[row])
        rgb = found[:, :3]
        factor, alpha = to_linear(base[:, :3]), found[:, 3:] * base[:, 3:]
        if self.colour is not None:
            tint = (self.colour[points.face] * points.bary[..., None]).sum(1)
            factor, alpha = factor * to_linear(tint[:, :3]), alpha * tint[:, 3:]
        tinted = (factor != 1).any(1, keepdim=True)
        rgb = torch.where(tinted, to_srgb(to_linear(rgb) * factor).clamp(0, 1), rgb)
        return torch.cat((rgb, alpha), 1)

    @property
    def is_plain_grey(self) -> bool:
        """Whether all of it has one colour, and a grey one: nothing to refine."""
        if self.uv is not None and any(self.image[m] >= 0 for m in self.material.unique().tolist()):
            return False
        if self.colour is not None:
            colours = self.colour[..., :3].reshape(-1, 3)
        else:
            colours = self.base[self.material.unique(), :3]
        alike = bool((colours.amax(0) - colours.amin(0) < PLAIN).all())
        return alike and float((colours.amax(1) - colours.amin(1)).max()) < PLAIN


def source_colours(mesh: ObjectArrays, device: torch.device | str) -> SourceColours:
    """Source colours of a mesh; a missing image counts as none."""

    def floats(array: object, there: bool) -> Tensor | None:
        return torch.tensor(array, device=device) if there else None

    uv = mesh.source_uv if len(mesh.source_uv) else mesh.uv
    return SourceColours(
        torch.from_numpy(mesh.material.astype("int64")).to(device),
        floats(uv, len(uv) > 0),
        floats(mesh.colour, len(mesh.colour) > 0),
        torch.tensor(mesh.base, device=device),
        tuple(mesh.image.tolist()),
        tuple((across, up) for across, up in mesh.wrap.tolist()),
        tuple(torch.from_numpy(image.copy()).to(device) for image in mesh.images),
    )


def sample(image: Tensor, uv: Tensor, wrap: tuple[int, int]) -> Tensor:
    """[P,4] in [0,1]: bilinear values of an image [H,W,4] uint8 at uv [P,2], v upwards, wrapped across and up."""
    height, width = image.shape[:2]
    x, y = uv[:, 0].double() * width - 0.5, (1 - uv[:, 1].double()) * height - 0.5
    column, row = x.floor(), y.floor()
    fx, fy = (x - column).float()[:, None], (y - row).float()[:, None]
    flat = image.reshape(-1, 4)

    def texel(r: Tensor, c: Tensor) -> Tensor:
        return flat[_wrapped(r, height, wrap[1]) * width + _wrapped(c, width, wrap[0])].float() / 255

    top = texel(row, column) * (1 - fx) + texel(row, column + 1) * fx
    bottom = texel(row + 1, column) * (1 - fx) + texel(row + 1, column + 1) * fx
    return top * (1 - fy) + bottom * fy


def _wrapped(place: Tensor, size: int, wrap: int) -> Tensor:
    place = place.clamp(-(2**50), 2**50).long()
    if wrap == EXTEND:
        return place.clamp(0, size - 1)
    if wrap == MIRROR:
        place = place % (2 * size)
        return torch.minimum(place, 2 * size - 1 - place)
    return place % size
