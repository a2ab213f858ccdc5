"""Cameras: where views are taken from.

World space is Blender's: right-handed, z up, metres; a camera looks down its own -z. Azimuth 0 is a
camera on -Y, which is where every object faces; azimuth grows counter-clockwise seen from above, so
90 is a camera on +X. Row 0 of an image is its top, as in PNG files and networks: `proj` points clip
space's y down, so that no image is ever flipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

NEAR, FAR = 0.05, 20.0  # metres; the clip range of `proj`


@dataclass(frozen=True)
class Camera:
    """A batch of B pinhole or orthographic cameras that share one image size.

    c2w   [B,4,4] float32, camera to world: a rotation and a translation
    proj  [B,4,4] float32, camera to clip, z in [-1,1], y down
    height, width  pixels
    """

    c2w: Tensor
    proj: Tensor
    height: int
    width: int

    @property
    def position(self) -> Tensor:
        """[B,3], metres."""
        return self.c2w[:, :3, 3]

    @property
    def mvp(self) -> Tensor:
        """[B,4,4], world to clip. c2w turns and moves, and nothing else: so its inverse is written down."""
        back = self.c2w[:, :3, :3].mT
        w2c = torch.cat((torch.cat((back, -back @ self.c2w[:, :3, 3:]), 2), self.c2w[:, 3:]), 1)
        return self.proj @ w2c

    @property
    def azimuth(self) -> Tensor:
        """[B] degrees in (-180, 180]; 0 is a camera on -Y, 90 on +X."""
        x, y, _ = self.position.unbind(-1)
        return torch.rad2deg(torch.atan2(x, -y))

    @property
    def elevation(self) -> Tensor:
        """[B] degrees above the horizon of the origin."""
        p = self.position
        return torch.rad2deg(torch.asin((p[:, 2] / p.norm(dim=-1)).clamp(-1, 1)))

    def __len__(self) -> int:
        return self.c2w.shape[0]

    def __getitem__(self, index: slice) -> Camera:
        return Camera(self.c2w[index], self.proj[index], self.height, self.width)

    def resized(self, height: int, width: int) -> Camera:
        """The same views at another size."""
        return Camera(self.c2w, self.proj, height, width)

    def to(self, device: torch.device | str) -> Camera:
        return Camera(self.c2w.to(device), self.proj.to(device), self.height, self.width)


def orbit(
    azimuth: Tensor, elevation: Tensor, distance: Tensor, fov: Tensor, height: int, width: int
) -> Camera:
    """Cameras that look at the origin.

    azimuth, elevation  [B] degrees; distance [B] metres; fov [B] vertical field of view, degrees
    """
    az, el = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    back = torch.stack((az.sin() * el.cos(), -az.cos() * el.cos(), el.sin()), -1)
    right = torch.stack((az.cos(), az.sin(), torch.zeros_like(az)), -1)  # level, also straight above
    up = torch.linalg.cross(back, right)
    c2w = torch.zeros(len(az), 4, 4, dtype=az.dtype, device=az.device)
    c2w[:, :3, 0], c2w[:, :3, 1], c2w[:, :3, 2] = right, up, back
    c2w[:, :3, 3] = back * distance[:, None]
    c2w[:, 3, 3] = 1
    return Camera(c2w, perspective(fov, width / height), height, width)


def look_out(
    azimuth: Tensor, elevation: Tensor, position: Tensor, fov: Tensor, height: int, width: int
) -> Camera:
    """Cameras at `position` [B,3] that look away from the middle, towards azimuth and elevation [B], in degrees."""
    camera = orbit(azimuth + 180, -elevation, torch.ones_like(fov), fov, height, width)
    camera.c2w[:, :3, 3] = position
    return camera


def perspective(fov: Tensor, aspect: float) -> Tensor:
    """[B,4,4] camera to clip; fov [B] vertical, degrees; aspect = width / height. y points down."""
    f = 1 / torch.tan(torch.deg2rad(fov) / 2)
    proj = torch.zeros(len(fov), 4, 4, dtype=fov.dtype, device=fov.device)
    proj[:, 0, 0] = f / aspect
    proj[:, 1, 1] = -f
    proj[:, 2, 2] = -(FAR + NEAR) / (FAR - NEAR)
    proj[:, 2, 3] = -2 * FAR * NEAR / (FAR - NEAR)
    proj[:, 3, 2] = -1
    return proj


def orthographic(half: Tensor) -> Tensor:
    """[B,4,4] camera to clip of square pictures without perspective; half [B], metres from a picture's middle to its
    edge. y points down."""
    proj = torch.zeros(len(half), 4, 4, dtype=half.dtype, device=half.device)
    proj[:, 0, 0], proj[:, 1, 1] = 1 / half, -1 / half
    proj[:, 2, 2], proj[:, 3, 3] = -2 / FAR, 1
    return proj


def rays(camera: Camera) -> tuple[Tensor, Tensor]:
    """Origins and unit directions through the pixels' centres, each [B,H,W,3] in world space."""
    device, dtype = camera.c2w.device, camera.c2w.dtype
    x = (torch.arange(camera.width, device=device, dtype=dtype) + 0.5) / camera.width * 2 - 1
    y = (torch.arange(camera.height, device=device, dtype=dtype) + 0.5) / camera.height * 2 - 1
    y, x = torch.meshgrid(y, x, indexing="ij")
    x, y = x / camera.proj[:, 0, 0, None, None], y / camera.proj[:, 1, 1, None, None]
    flat = camera.proj[:, 3, 3, None, None]  # 1 without perspective: rays begin apart and are parallel
    ahead, turn = -torch.ones_like(x), camera.c2w[:, :3, :3]
    local = torch.stack((x * (1 - flat), y * (1 - flat), ahead), -1)
    directions = torch.einsum("bij,bhwj->bhwi", turn, local)
    directions = directions / directions.norm(dim=-1, keepdim=True)
    beside = torch.einsum("bij,bhwj->bhwi", turn[..., :2], torch.stack((x * flat, y * flat), -1))
    return camera.position[:, None, None, :] + beside, directions


@dataclass(frozen=True)
class RenderOutput:
    """A batch of B views, row 0 at the top.

    image        [B,H,W,3] in [0,1], over the background
    opacity      [B,H,W,1] in [0,1]
    orientation  scalar: the orientation loss of a view (Ref-NeRF, Eq. 11), where the renderer was asked for it
    distance     [B,H,W,1] metres from the ray's origin to the middle of what it sees, 0 where there is nothing; of a
                 field's colours rendered without randomness
    """

    image: Tensor
    opacity: Tensor
    orientation: Tensor | None = None
    distance: Tensor | None = None


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
