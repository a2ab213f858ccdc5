"""Pictures of objects: sphere tracing into a G-buffer once, any colours and backgrounds afterwards.

One ray a pixel, and edge x edge rays where a pixel's neighbourhood shows a silhouette, another part
or a crease. Rays start where a cone round their tile of pixels first comes near the object.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from backend.objects.shapes import CHUNK
from backend.scene.camera import Camera

EDGE = 3  # rays along a side of an edge pixel, where the caller does not say
TILES = (8, 2)  # pixels along a side of the tiles
CLOSE = 4e-4  # a ray this near has hit; a tenth of a pixel at 256^2
MAX_STEPS = 96
LEAP = 0.012  # metres, a third of the thinnest part
CREASE = 0.9  # cosine between the normals of neighbouring pixels under which there is an edge between them


class Solid(Protocol):
    """What can be traced: shapes.Shape, room.Room; see there."""

    @property
    def kind(self) -> str: ...
    @property
    def colours(self) -> Tensor: ...
    @property
    def bound(self) -> float:
        """Radius of the ball that holds it, metres."""
        ...

    def sdf(self, points: Tensor) -> Tensor: ...
    def part(self, points: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Views:
    """B views of an object; colour is straight (not premultiplied), zero where alpha is zero.

    colour  [B,H,W,3] sRGB in [0,1], the soft sky's shade included
    alpha   [B,H,W,1] in [0,1], the covered share of the pixel
    normal  [B,H,W,3] camera-space unit normals (x right, y up, z to the camera) as (n + 1) / 2
    """

    colour: Tensor
    alpha: Tensor
    normal: Tensor

    def over(self, background: tuple[float, float, float], normal: bool = False) -> Tensor:
        """[B,H,W,3]: the colours (or the normal map) before a plain background."""
        image = self.normal if normal else self.colour
        return image * self.alpha + (1 - self.alpha) * image.new_tensor(background)


@dataclass(frozen=True)
class GBuffer:
    """What M rays of B views hit; recolouring needs nothing else.

    pixel   [M] int64, flat over B, H, W
    weight  [M] float32, the share of its pixel
    part    [M] uint8, row of Shape.colours
    normal  [M,3] float32, world-space unit normals
    camera  the views
    """

    pixel: Tensor
    weight: Tensor
    part: Tensor
    normal: Tensor
    camera: Camera


def sky_shade(normal: Tensor) -> Tensor:
    """[M,3] world normals to [M,1]: a soft sky fixed to the object, 1 on top and 0.7 underneath."""
    return 0.7 + 0.3 * (0.5 + 0.5 * normal[:, 2:])


def render(shape: Solid, camera: Camera, edge: int = EDGE) -> Views:
    """The shape as it is, on the camera's device; see gbuffer for `edge`."""
    return shade(gbuffer(shape, camera, edge), shape.colours)


def shade(buffer: GBuffer, colours: Tensor) -> Views:
    """The views in the given colours, [P,3] sRGB in [0,1]."""
    camera = buffer.camera
    count = len(camera) * camera.height * camera.width
    image = (len(camera), camera.height, camera.width)
    rotation = camera.c2w[:, :3, :3]
    view = buffer.pixel // (camera.height * camera.width)
    turned = torch.einsum("mi,mij->mj", buffer.normal, rotation[view])
    colour = colours.to(buffer.normal)[buffer.part.long()] * sky_shade(buffer.normal)
    values = torch.cat((torch.ones_like(turned[:, :1]), colour, turned), 1) * buffer.weight[:, None]
    total = values.new_zeros(count, 7).index_add_(0, buffer.pixel, values)
    alpha = total[:, :1]
    covered = alpha > 0
    colour = total[:, 1:4] / alpha.clamp(min=1e-6)
    normal = torch.nn.functional.normalize(total[:, 4:], dim=1) * 0.5 + 0.5
    return Views(
        (colour * covered).view(*image, 3),
        alpha.clamp(max=1).view(*image, 1),
        (normal * covered).view(*image, 3),
    )


@torch.no_grad()
def gbuffer(shape: Solid, camera: Camera, edge: int = EDGE) -> GBuffer:
    """Traces every view; `edge` rays along a side of an edge pixel. Deterministic."""
    b, h, w = len(camera), camera.height, camera.width
    pixel = torch.arange(b * h * w, device=camera.c2w.device)
    start = _free_starts(shape, camera).view(-1)
    pixel = pixel[start < math.inf]
    zero = torch.zeros(len(pixel), device=start.device)
    hit, part, normal = _hits(shape, camera, pixel, zero, zero, start[pixel])
    is_edge = _edges(pixel[hit], part, normal, (b, h, w))
    inner = ~is_edge[pixel[hit]]
    rim = is_edge.nonzero()[:, 0]
    rim = rim[start[rim] < math.inf]
    steps = ((torch.arange(edge, device=rim.device) + 0.5) / edge - 0.5).float()
    dy, dx = (
        d.reshape(1, -1).expand(len(rim), -1).reshape(-1) for d in torch.meshgrid(steps, steps, indexing="ij")
    )
    fine = rim.repeat_interleave(edge * edge)
    fine_hit, fine_part, fine_normal = _hits(shape, camera, fine, dx, dy, start[fine])
    weight = torch.cat(
        (
            torch.ones(int(inner.sum()), device=rim.device),
            torch.full((int(fine_hit.sum()),), 1 / edge**2, device=rim.device),
        )
    )
    return GBuffer(
        torch.cat((pixel[hit][inner], fine[fine_hit])),
        weight,
        torch.cat((part[inner], fine_part)).to(torch.uint8),
        torch.cat((normal[inner], fine_normal)),
        camera,
    )


def coarser(buffer: GBuffer, factor: int) -> GBuffer:
    """The same rays in pixels `factor` times as large; the image's sides must be multiples of it."""
    camera = buffer.camera
    h, w = camera.height, camera.width
    view, row, column = buffer.pixel // (h * w), buffer.pixel // w % h, buffer.pixel % w
    camera = camera.resized(h // factor, w // factor)
    pixel = (view * camera.height + row // factor) * camera.width + column // factor
    return GBuffer(pixel, buffer.weight / factor**2, buffer.part, buffer.normal, camera)


def _rays(camera: Camera, pixel: Tensor, dx: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """Origins and unit directions [N,3] through flat pixels, moved by dx and dy pixels."""
    h, w = camera.height, camera.width
    view, row, column = pixel // (h * w), pixel // w % h, pixel % w
    x = ((column + 0.5 + dx) / w * 2 - 1) / camera.proj[view, 0, 0]
    y = ((row + 0.5 + dy) / h * 2 - 1) / camera.proj[view, 1, 1]
    local = torch.stack((x, y, -torch.ones_like(x)), 1)
    local = local / local.norm(dim=1, keepdim=True)
    return camera.position[view], torch.einsum("nij,nj->ni", camera.c2w[view, :3, :3], local)


def _ball_span(origin: Tensor, direction: Tensor, radius: Tensor | float) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave the ball round the origin; entry inf where they miss."""
    b = (origin * direction).sum(1)
    square = b * b - (origin * origin).sum(1) + radius * radius
    root = square.clamp(min=0).sqrt()
    return torch.where(square > 0, (-b - root).clamp(min=0), math.inf), -b + root


def _free_starts(shape: Solid, camera: Camera) -> Tensor:
    """[B,H,W]: how far each pixel's ray is free for certain; inf where it meets nothing.

    A cone round a tile of pixels is marched until the object comes near its width, for finer and finer tiles.
    """
    b, h, w = len(camera), camera.height, camera.width
    device = camera.c2w.device
    start = torch.zeros(b, h, w, device=device)
    for tile in TILES:
        axes = (torch.arange(b, device=device), *(torch.arange(0, n, tile, device=device) for n in (h, w)))
        view, row, column = (i.reshape(-1) for i in torch.meshgrid(*axes, indexing="ij"))
        # Half of a tile's diagonal, seen from a unit away at the image's centre, where it looks widest.
        spread = tile * math.sqrt(0.5) * 2 / h / camera.proj[view, 1, 1].abs()
        pixel = (view * h + row) * w + column
        # A tile may reach over the image's border: its corner stands for it, moved to its centre.
        middle = torch.full_like(spread, tile / 2 - 0.5)
        t = start.view(-1)[pixel].clone()
        alive = (t < math.inf).nonzero()[:, 0]
        origin, direction = _rays(camera, pixel[alive], middle[alive], middle[alive])
        spread = spread[alive]
        near, far = _ball_span(origin, direction, shape.bound + 4 * spread)
        at = torch.maximum(t[alive], near)
        t[alive] = at
        for _ in range(MAX_STEPS):
            width = spread * (at + 0.05)  # with the object's extent behind the cone's rim
            free = shape.sdf(origin + at[:, None] * direction) - width
            at = at + free.clamp(min=0)
            gone = at > far
            t[alive] = torch.where(gone, math.inf, at)
            moving = ((free > 0.3 * width) & ~gone).nonzero()[:, 0]
            if not len(moving):
                break
            alive, origin, direction = alive[moving], origin[moving], direction[moving]
            at, far, spread = at[moving], far[moving], spread[moving]
        tiles = t.view(b, len(axes[1]), len(axes[2]))
        start = tiles.repeat_interleave(tile, 1).repeat_interleave(tile, 2)[:, :h, :w].contiguous()
    return start


def _hits(
    shape: Solid, camera: Camera, pixel: Tensor, dx: Tensor, dy: Tensor, start: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Which of N rays hit [N] bool, and the parts [M] and normals [M,3] of those that do."""
    hits, parts, normals = [], [], []
    for chunk in zip(pixel.split(CHUNK), dx.split(CHUNK), dy.split(CHUNK), start.split(CHUNK), strict=True):
        origin, direction = _rays(camera, *chunk[:3])
        hit, t = _trace(shape, origin, direction, chunk[3])
        points = origin[hit] + t[hit, None] * direction[hit]
        hits.append(hit)
        parts.append(shape.part(points))
        normals.append(_normals(shape, points))
    if not hits:
        none = pixel.new_zeros(0)
        return none.bool(), none, torch.zeros(0, 3, device=pixel.device)
    return torch.cat(hits), torch.cat(parts), torch.cat(normals)


def _trace(shape: Solid, origin: Tensor, direction: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Sphere tracing from `start`: hit [N] bool, t [N].

    Near the surface a step goes on to where the line through the last two distances reaches zero, by LEAP
    at most. Towards a convex part that line never overshoots, for the distance along a ray is convex.
    """
    _, far = _ball_span(origin, direction, shape.bound)
    result = torch.full_like(start, math.inf)
    index = torch.arange(len(start), device=start.device)
    t = start
    before, step = torch.full_like(t, math.inf), torch.ones_like(t)  # no slope at first
    for _ in range(MAX_STEPS):
        distance = shape.sdf(origin + t[:, None] * direction)
        slope = ((before - distance) / step).clamp(1e-3, 1)
        before, step = distance, torch.maximum(distance, (distance / slope).clamp(max=LEAP))
        hit = distance < CLOSE
        result[index[hit]] = t[hit] + distance[hit]
        t = t + step
        moving = (~hit & (t < far)).nonzero()[:, 0]
        if not len(moving):
            break
        if len(moving) < len(index):
            origin, direction, t, far = origin[moving], direction[moving], t[moving], far[moving]
            index, before, step = index[moving], before[moving], step[moving]
    return result < math.inf, result


def _normals(shape: Solid, points: Tensor) -> Tensor:
    """[N,3] unit normals by differences over the corners of a small tetrahedron."""
    step = 1.5e-3
    corners = points.new_tensor(((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)))
    around = torch.cat([points + step * corner for corner in corners])
    distance = shape.sdf(around).view(4, -1, 1)
    return torch.nn.functional.normalize((distance * corners[:, None]).sum(0), dim=1)


def _edges(pixel: Tensor, part: Tensor, normal: Tensor, size: tuple[int, int, int]) -> Tensor:
    """[B*H*W] bool: pixels on or beside a change of coverage, part or direction."""
    count = size[0] * size[1] * size[2]
    parts = torch.zeros(count, dtype=torch.int16, device=pixel.device)
    parts[pixel] = part.to(torch.int16) + 1
    normals = torch.zeros(count, 3, device=pixel.device)
    normals[pixel] = normal
    parts, normals = parts.view(size), normals.view(*size, 3)
    edge = torch.zeros(size, dtype=torch.bool, device=pixel.device)
    for dim in (1, 2):
        n = size[dim] - 1
        a, b = parts.narrow(dim, 0, n), parts.narrow(dim, 1, n)
        bend = (normals.narrow(dim, 0, n) * normals.narrow(dim, 1, n)).sum(-1) < CREASE
        change = (a != b) | (bend & (a > 0))
        edge.narrow(dim, 0, n).logical_or_(change)
        edge.narrow(dim, 1, n).logical_or_(change)
    return edge.view(-1)
