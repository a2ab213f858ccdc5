"""A colour field laid into a texture: rasterise the UV map, ask for colours, fill the gutters, mend seams.

UVs have v upwards and textures have row 0 at the top (v = 1); a texel's value belongs to its centre.
Everything goes by `Texels`, so that any UV map will do: our own charts, or those a mesh came with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Generator, Tensor

from backend.errors import InputError
from backend.kernels import rasterize_ids
from backend.kernels.raster import fragments
from backend.scene.mesh import Mesh, face_cross

CHUNK = 2**17  # points whose colours are computed at a time
STRIP = 2**20  # texels that are rasterised at a time
PER_TEXEL = 2.0  # samples a texel's width along the charts' borders
HOLD = 1e-2  # how much a polished texel minds leaving its baked value, in samples

Colour = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Points:
    """Points of a mesh's surface: face [P] int64, bary [P,3] weights of the face's corners."""

    face: Tensor
    bary: Tensor

    def position(self, mesh: Mesh) -> Tensor:
        """[P,3] metres."""
        return _blend(mesh.v_pos, mesh.t_pos_idx, self)

    def uv(self, mesh: Mesh) -> Tensor:
        """[P,2], v upwards."""
        return _blend(*_uv_map(mesh), self)


@dataclass(frozen=True)
class Texels:
    """The texels that show on the surface, and the surface's point that each stands for.

    index   [P] int64, row * size + column, ascending
    points  where on the surface; the texel's centre where that is on a chart, else the border's nearest
    """

    index: Tensor
    points: Points
    size: int


def by_parts(points: Points, ask: Callable[[Points], Tensor], rows: Tensor | None = None) -> Tensor:
    """[P,...]: `ask` of CHUNK points at a time, so that what it needs on the way does not grow with the texture.

    rows  [P] int64 which of the points; all of them where it is left out
    """
    count = len(points.face if rows is None else rows)

    def ask_from(start: int) -> Tensor:
        part: slice | Tensor = slice(start, start + CHUNK)
        part = part if rows is None else rows[part]
        return ask(Points(points.face[part], points.bary[part]))

    first = ask_from(0)
    if count <= CHUNK:
        return first
    found = first.new_empty((count, *first.shape[1:]))
    found[:CHUNK] = first
    for start in range(CHUNK, count, CHUNK):
        found[start : start + CHUNK] = ask_from(start)
    return found


def _uv_map(mesh: Mesh) -> tuple[Tensor, Tensor]:
    assert mesh.v_tex is not None and mesh.t_tex_idx is not None, "unwrap before baking"
    return mesh.v_tex, mesh.t_tex_idx


def _blend(attribute: Tensor, tri: Tensor, points: Points) -> Tensor:
    return (attribute[tri[points.face]] * points.bary[..., None]).sum(1)


@torch.no_grad()
def bake(mesh: Mesh, colour: Colour, texture_size: int) -> Tensor:
    """[S,S,3] float32 texture of a mesh with UVs, sRGB as `colour` gives it, row 0 on top, no texel empty.

    colour  [N,3] positions, metres, to [N,3] RGB
    Raises InputError where the UV map covers no texel.
    """
    texels = texels_of(mesh, texture_size)
    return dilate(by_parts(texels.points, lambda part: colour(part.position(mesh))), texels)


@torch.no_grad()
def texels_of(mesh: Mesh, size: int) -> Texels:
    """Every texel that a bilinear look-up anywhere on the surface can touch, for textures of size^2.

    Raises InputError where there is none.
    """
    v_tex, t_tex_idx = _uv_map(mesh)
    flat = torch.zeros_like(v_tex[:, :1])
    clip = torch.cat((v_tex[:, :1] * 2 - 1, 1 - v_tex[:, 1:] * 2, flat, flat + 1), 1)
    ids = rasterize_ids(clip, t_tex_idx, size, size)
    if not bool((ids >= 0).any()):
        raise InputError("The UV map covers nothing of the texture.", "Unwrap the mesh again.")
    pixel, inside = _inside(clip, t_tex_idx, ids)

    # a look-up near a chart's border reaches texels whose centres are outside: all within 1 of the border,
    # so within 1.25 of a sample of it, so among the nine round the sample's own texel
    border = border_points(mesh, size)
    place = (border.uv(mesh) * v_tex.new_tensor((1, -1)) + v_tex.new_tensor((0, 1))) * size - 0.5
    step = torch.cartesian_prod(*[torch.arange(-1, 2, device=v_tex.device)] * 2)
    near = place.round().long()[:, None] + step  # [N,9,2] column, row
    gap = (near - place[:, None]).square().sum(2)
    texel = near[..., 1] * size + near[..., 0]
    free = torch.ones(size * size, dtype=torch.bool, device=v_tex.device)
    free[pixel] = False
    wanted = ((near >= 0) & (near < size)).all(2)
    wanted &= free[texel.clamp(0, size * size - 1)]
    point = torch.arange(len(place), device=v_tex.device)[:, None].expand_as(texel)
    texel, point, gap = texel[wanted], point[wanted], gap[wanted]
    order = torch.argsort(gap, stable=True)  # stable: of equally near samples the first
    order = order[torch.argsort(texel[order], stable=True)]
    texel, point = texel[order], point[order]
    nearest = torch.ones_like(texel, dtype=torch.bool)
    nearest[1:] = texel[1:] != texel[:-1]
    texel, point = texel[nearest], point[nearest]

    index, order = torch.cat((pixel, texel)).sort()
    face = torch.cat((inside.face, border.face[point]))
    bary = torch.cat((inside.bary, border.bary[point]))
    del inside, pixel, ids, free  # all of them as large as the texture
    face = face[order]
    return Texels(index, Points(face, bary[order]), size)


def _inside(clip: Tensor, tri: Tensor, ids: Tensor) -> tuple[Tensor, Points]:
    """The pixels of ids [S,S] that a triangle covers, ascending, and its points there; some rows at a time."""
    size = len(ids)
    rows = max(1, STRIP // size)
    strips = []
    for top in range(0, size, rows):
        strip = torch.full_like(ids, -1)
        strip[top : top + rows] = ids[top : top + rows]
        found = fragments(clip, tri, strip)
        strips.append((found.pixel, found.face, found.bary))
    pixel, face, bary = (torch.cat(parts) for parts in zip(*strips, strict=True))
    return pixel, Points(face, bary)


def dilate(values: Tensor, texels: Texels) -> Tensor:
    """[S,S,C] texture: values [P,C] at the texels, and everywhere else the nearest of them."""
    size = texels.size
    empty = np.ones(size * size, bool)
    empty[texels.index.cpu().numpy()] = False
    nearest = torch.from_numpy(nearest_texel(empty.reshape(size, size))).to(values.device)
    texture = torch.zeros(size * size, values.shape[1], dtype=values.dtype, device=values.device)
    texture[texels.index] = values
    return texture[nearest].view(size, size, -1)


def nearest_texel(empty: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[S*S] for each texel of empty [S,S] the nearest that is not, row * S + column; itself where it is none.

    Of scipy's answers the indices alone: the distances take five times as much memory on the way.
    """
    row, column = distance_transform_edt(empty, return_distances=False, return_indices=True)
    nearest = row.astype(np.int64)
    nearest *= len(empty)
    nearest += column
    return nearest.reshape(-1)


def border_points(mesh: Mesh, size: int) -> Points:
    """Points along the borders of the charts, from both sides of a seam, PER_TEXEL to a texel's width."""
    v_tex, t_tex_idx = _uv_map(mesh)
    start, end = t_tex_idx, t_tex_idx.roll(-1, 1)
    key = torch.minimum(start, end) * len(v_tex) + torch.maximum(start, end)
    _, which, uses = key.unique(return_inverse=True, return_counts=True)
    face, corner = (uses[which] == 1).nonzero(as_tuple=True)
    length = (v_tex[end[face, corner]] - v_tex[start[face, corner]]).norm(dim=1) * size
    count = (length * PER_TEXEL).ceil().long() + 1
    edge = torch.arange(len(face), device=face.device).repeat_interleave(count)
    nth = torch.arange(len(edge), device=face.device) - (count.cumsum(0) - count)[edge]
    share = nth / count[edge]  # an edge's end is the start of the border's next edge
    bary = torch.zeros(len(edge), 3, device=v_tex.device)
    bary.scatter_(1, corner[edge, None], 1 - share[:, None])
    bary.scatter_(1, (corner[edge, None] + 1) % 3, share[:, None])
    return Points(face[edge], bary)


def random_points(mesh: Mesh, count: int, generator: Generator) -> Points:
    """Points spread evenly over the surface."""
    area = face_cross(mesh).norm(dim=1).double().cumsum(0)
    at = torch.rand(count, generator=generator, device=generator.device).to(area) * area[-1]
    face = torch.searchsorted(area, at).clamp(max=len(area) - 1)
    r, s = torch.rand(2, count, generator=generator, device=generator.device).to(mesh.v_pos)
    r = r.sqrt()
    return Points(face, torch.stack((1 - r, r * (1 - s), r * s), 1))


def _footprint(uv: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The four texels of a bilinear look-up [N,4] int64 and their weights [N,4], clamped at the borders."""
    x = (uv[:, 0] * size - 0.5).clamp(0, size - 1)
    y = ((1 - uv[:, 1]) * size - 0.5).clamp(0, size - 1)
    column, row = x.detach().long().clamp(max=size - 2), y.detach().long().clamp(max=size - 2)
    x, y = x - column, y - row
    corner = row * size + column
    index = torch.stack((corner, corner + 1, corner + size, corner + size + 1), 1)
    weight = torch.stack(((1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y), 1)
    return index, weight


def sample_texture(texture: Tensor, uv: Tensor) -> Tensor:
    """[N,C] bilinear values of a texture [S,S,C] at uv [N,2], v upwards, clamped at the borders.

    Differentiable in both.
    """
    index, weight = _footprint(uv, len(texture))
    texel = texture.flatten(0, 1).index_select(0, index.flatten()).view(*index.shape, texture.shape[-1])
    return (texel * weight[..., None]).sum(1)


@torch.no_grad()
def polish(
    texture: Tensor,
    mesh: Mesh,
    colour: Colour,
    generator: Generator,
    count: int | None = None,
    iterations: int = 15,
) -> Tensor:
    """The texture with its seams mended: texels of bilinear look-ups at the charts' borders are chosen, by
    least squares, to give the surface's colour there, from both sides of each seam.

    texture [S,S,3] is the start; texels away from borders stay as they are. `count` random points of the
    surface say what the look-ups next to the borders should give (default: one a texel, at most a million).
    """
    size = len(texture)
    flat = texture.flatten(0, 1)
    border, spread = border_points(mesh, size), random_points(mesh, count or min(size**2, 2**20), generator)
    free = torch.zeros(size * size, dtype=torch.bool, device=flat.device)
    free[_footprint(border.uv(mesh), size)[0]] = True
    useful = free[_footprint(spread.uv(mesh), size)[0]].any(1)
    points = Points(
        torch.cat((border.face, spread.face[useful])), torch.cat((border.bary, spread.bary[useful]))
    )
    index, weight = _footprint(points.uv(mesh), size)
    wrong = by_parts(points, lambda part: colour(part.position(mesh))) - sample_texture(
        texture, points.uv(mesh)
    )
    weight = weight * free[index]
    # rows of the free texels; 4 bytes each, as there is one for each of the texture's
    index = free.cumsum(0, dtype=torch.int32).sub_(1).clamp_(min=0)[index].long()

    def look_up(texels: Tensor) -> Tensor:
        out = torch.zeros_like(wrong)
        for i in range(4):
            out += texels.index_select(0, index[:, i]) * weight[:, i : i + 1]
        return out

    def spread_back(values: Tensor) -> Tensor:
        out = torch.zeros(int(free.sum()), values.shape[1], dtype=values.dtype, device=values.device)
        for i in range(4):
            out.index_add_(0, index[:, i], values * weight[:, i : i + 1])
        return out

    # conjugate gradients on (A'A + HOLD) change = A' wrong, a channel a column
    residual = spread_back(wrong)
    change = torch.zeros_like(residual)
    direction = residual
    power = residual.square().sum(0)
    for _ in range(iterations):
        applied = spread_back(look_up(direction)) + HOLD * direction
        step = power / (direction * applied).sum(0).clamp(min=1e-20)
        change = change + step * direction
        residual = residual - step * applied
        last, power = power, residual.square().sum(0)
        direction = residual + power / last.clamp(min=1e-20) * direction
    out = flat.clone()
    out[free] = (flat[free] + change).clamp(0, 1)
    return out.view_as(texture)
