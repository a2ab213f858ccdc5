"""An object's textures: their place in its UVs, and a field's colours painted into them and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree
from torch import Generator, Tensor
from torch.nn import functional as F

from backend.errors import InputError
from backend.scene.mesh import Mesh, Sheet, face_cross
from backend.texture.bake import CHUNK, Points, by_parts, nearest_texel, polish, texels_of
from backend.texture.mask import fade, seen, to_border
from backend.texture.source_colours import SourceColours

# of the texture's side: how far beyond a chart its new colours reach in an image that is kept
GUTTER = 1 / 64
TEXEL = 100  # bytes for each texel of a square texture that is repainted: tests/texture/test_large.py
MOST_POLISHED = 1_000_000  # faces; float32 tells no more of them apart
Colour = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Hidden:
    """Points all over the surface, in a tree, and how far off each takes its colour, [N,3] metres: at the nearest
    that is seen."""

    tree: cKDTree
    move: Tensor

    def lend(self, colour: Colour) -> Colour:
        """`colour`, which is asked for what is seen alone."""

        def ask(position: Tensor) -> Tensor:
            rows = torch.from_numpy(self.tree.query(position.cpu().numpy())[1]).to(position.device)
            return colour(position + self.move[rows])

        return ask


@dataclass(frozen=True)
class Canvas:
    """A sheet at the size of the texture, with all that does not change while a field learns.

    now      [H,W,4] uint8, its colours as they are
    points   of the object's surface, for P texels of the square of `size` pixels
    index    [P] row * size + column
    before   [P,3] the present colours there
    weight   [P] in [0,1] how much may change; 0: not a bit
    nearest  [size * size] int32 the texel, a row of `index`, that each pixel is filled from
    fill     [size * size] bool: pixels that take a colour from there
    hidden   whose colours those take that no camera sees; None: they keep their own
    """

    sheet: Sheet
    now: Tensor
    points: Points
    index: Tensor
    before: Tensor
    weight: Tensor
    nearest: Tensor
    fill: Tensor
    size: int
    hidden: Hidden | None = None


def prepare(
    sheet: Sheet,
    mesh: Mesh,
    colours: SourceColours,
    weight: Tensor,
    edge: NDArray[np.float32],
    cameras: object,
    longest: int | None = None,
    anew: bool = False,
) -> Canvas:
    """mesh: the placed object; weight [F,3]; edge [N,3]: where change ends; longest: of a smaller canvas.

    anew  whether what no camera sees takes the colours of the nearest that is seen, or keeps its own
    """
    height, width = sheet.height, sheet.width
    if longest is not None and longest < max(height, width):
        height, width = (max(1, n * longest // max(height, width)) for n in (height, width))
    size = max(height, width)
    device = mesh.v_pos.device
    own = torch.from_numpy(sheet.faces[~sheet.copy]).to(device)
    uv = Mesh(
        mesh.v_pos,
        mesh.t_pos_idx[own],
        torch.from_numpy(sheet.v_tex).to(device),
        torch.from_numpy(sheet.t_tex_idx[~sheet.copy]).to(device),
    )
    texels = texels_of(uv, size)
    index, points = texels.index, Points(own[texels.points.face], texels.points.bary)
    del texels
    here = by_parts(points, colours.at)
    share = by_parts(points, lambda part: _share(weight[part.face], part.bary))
    share[here[:, 3] == 0] = 0
    kept = (weight[own] == 0).all(1)
    if bool(kept.any()) and not bool(kept.all()):
        share[torch.isin(index, _touched(uv, kept, size))] = 0
    free = (share > 0).nonzero()[:, 0]
    share[free] *= fade(by_parts(points, lambda part: to_border(part.position(mesh), edge), free))
    near, looked, sees = _visible(index, points, free, size, mesh, cameras)
    hidden = _hidden(looked, sees) if anew and bool(sees.any()) else None
    if hidden is None:
        share[free] *= near
    del free, near

    empty = np.ones(size * size, bool)
    empty[index.cpu().numpy()] = False
    filled_from = nearest_texel(empty.reshape(size, size))
    order = torch.full((size * size,), -1, dtype=torch.int32)
    for start in range(0, len(index), CHUNK):
        rows = index[start : start + CHUNK].cpu()
        order[rows] = torch.arange(start, start + len(rows), dtype=torch.int32)
    nearest = order.index_select(0, torch.from_numpy(filled_from)).to(device)
    del order
    fill = (share > 0).index_select(0, nearest)
    if sheet.image is None:
        now = (here * 255).round().to(torch.uint8).index_select(0, nearest).view(size, size, 4)
    else:
        fill &= torch.from_numpy(_within(filled_from, size, max(2.0, GUTTER * size))).to(device)
        now = torch.from_numpy(_fitted(sheet.image, height, width)).to(device)
    return Canvas(sheet, now, points, index, here[:, :3].clone(), share, nearest, fill, size, hidden)


def _share(weight: Tensor, bary: Tensor) -> Tensor:
    """[P] in [0,1] how much points may change, by their faces' weights [P,3]."""
    share = (weight * bary).sum(1).clamp(0, 1)
    return torch.where((weight == 0).all(1), 0.0, share)


def _within(filled_from: NDArray[np.int64], size: int, most: float) -> NDArray[np.bool_]:
    """[size * size] whether each texel is at most so far, in texels, from the one that it is filled from."""
    near = np.empty(size * size, bool)
    column = np.arange(size)
    for row in range(size):
        part = slice(row * size, (row + 1) * size)
        down, across = filled_from[part] // size - row, filled_from[part] % size - column
        near[part] = np.sqrt(down * down + across * across) <= most
    return near


def _touched(uv: Mesh, which: Tensor, size: int) -> Tensor:
    """The texels that a look-up on these faces touches."""
    assert uv.t_tex_idx is not None
    part = Mesh(uv.v_pos, uv.t_pos_idx[which], uv.v_tex, uv.t_tex_idx[which])
    try:
        return texels_of(part, size).index
    except InputError:  # all of them smaller than a texel
        return torch.zeros(0, dtype=torch.int64, device=uv.v_pos.device)


def _visible(
    index: Tensor, points: Points, free: Tensor, size: int, mesh: Mesh, cameras: object
) -> tuple[Tensor, Tensor, Tensor]:
    """[P] 1 where a texel of `free`, rows of index, or one beside it is seen; in blocks where there are very many.

    And the points [N,3] that were looked at, one a block, with whether each is seen [N] bool.
    """
    step = max(1, size // 1024)
    blocks = -(-size // step)
    first = torch.full((blocks * blocks,), len(index), device=index.device)  # row of index in each block

    def block_of(rows: Tensor) -> Tensor:
        return (index[rows] // size // step) * blocks + index[rows] % size // step

    for rows in free.split(CHUNK):
        first.scatter_reduce_(0, block_of(rows), rows, "amin")
    which = (first < len(index)).nonzero()[:, 0]
    rows = first[which]
    position = Points(points.face[rows], points.bary[rows]).position(mesh)
    found = torch.zeros(blocks * blocks, device=index.device)
    sees = seen(position, mesh, cameras)  # type: ignore[arg-type]
    found[which] = sees.float()
    wide = F.max_pool2d(found.view(1, 1, blocks, blocks), 3, 1, 1).flatten()
    return torch.cat([wide[block_of(rows)] for rows in free.split(CHUNK)]), position, sees


def _hidden(position: Tensor, sees: Tensor) -> Hidden:
    """Of points [N,3], some of which, at least one, are seen [N]."""
    places, move = position.cpu().numpy(), torch.zeros_like(position)
    visible = sees.cpu().numpy()
    nearest = cKDTree(places[visible]).query(places[~visible])[1]
    there = position[sees][torch.from_numpy(nearest).to(position.device)]
    move[~sees] = there - position[~sees]
    return Hidden(cKDTree(places), move)


@torch.no_grad()
def paint(
    canvas: Canvas, mesh: Mesh, colours: SourceColours, colour: Colour, polished: bool = True
) -> Tensor:
    """[H,W,4] uint8: the texture in the field's colours where it may change; alpha and all else as they were."""
    sheet, size = canvas.sheet, canvas.size
    if not bool((canvas.weight > 0).any()):
        return canvas.now
    if canvas.hidden is not None:
        colour = canvas.hidden.lend(colour)
    mixed = by_parts(canvas.points, lambda part: colour(part.position(mesh)))
    for start in range(0, len(mixed), CHUNK):
        rows = slice(start, start + CHUNK)
        before = canvas.before[rows]
        mixed[rows] = (mixed[rows] - before).mul_(canvas.weight[rows, None]).add_(before)
    image = mixed.index_select(0, canvas.nearest).view(size, size, 3)
    del mixed  # as large as the texture, as all that is changed in its place below
    if polished and size > 1 and len(sheet.faces) <= MOST_POLISHED:
        image = _polished(image, canvas, mesh, colours, colour)
    height, width = canvas.now.shape[:2]
    free = canvas.fill.view(size, size, 1)
    if (height, width) != (size, size):
        covered = torch.zeros(size * size, device=image.device)
        covered[canvas.index[canvas.weight == 0]] = 1
        image = _resize(image, height, width)
        free = (_resize(free.float(), height, width) > 0.5) & (
            _resize(covered.view(size, size, 1), height, width) == 0
        )
    free = free & (canvas.now[..., 3:] > 0)  # transparent texels are not seen
    painted = image.clamp_(0, 1).mul_(255).round_().to(torch.uint8)
    return torch.cat((torch.where(free, painted, canvas.now[..., :3]), canvas.now[..., 3:]), 2)


def _polished(image: Tensor, canvas: Canvas, mesh: Mesh, colours: SourceColours, colour: Colour) -> Tensor:
    """Seams mended. `polish` asks for colours by position, but here they depend on the face too: it is given
    a mesh whose positions say face and weights, each face as large as it is."""
    sheet, device = canvas.sheet, image.device
    rows = torch.from_numpy(sheet.faces[~sheet.copy]).to(device)
    side = face_cross(mesh)[rows].norm(dim=1).clamp(min=1e-12).sqrt()
    number = torch.arange(len(rows), device=device, dtype=torch.float32)
    code = torch.zeros(len(rows), 3, 3, device=device)
    code[..., 0] = number[:, None]
    code[:, 1, 1] = side
    code[:, 2, 2] = side
    coded = Mesh(
        code.view(-1, 3),
        torch.arange(3 * len(rows), device=device).view(-1, 3),
        torch.from_numpy(sheet.v_tex).to(device),
        torch.from_numpy(sheet.t_tex_idx[~sheet.copy]).to(device),
    )
    assert coded.v_tex is not None and coded.t_tex_idx is not None
    v_tex, t_tex_idx = coded.v_tex, coded.t_tex_idx

    def wanted(where: Tensor) -> Tensor:
        face = where[:, 0].round().long().clamp(0, len(rows) - 1)
        b = where[:, 1:] / side[face, None]
        bary = torch.cat((1 - b.sum(1, keepdim=True), b), 1)
        points = Points(rows[face], bary)
        uv = (v_tex[t_tex_idx[face]] * bary[..., None]).sum(1)
        x = (uv[:, 0] * canvas.size).long().clamp(0, canvas.size - 1)
        y = ((1 - uv[:, 1]) * canvas.size).long().clamp(0, canvas.size - 1)
        share = canvas.weight[canvas.nearest[y * canvas.size + x].long()]
        before = colours.at(points)[:, :3]
        return before + share[:, None] * (colour(points.position(mesh)) - before)

    return polish(image, coded, wanted, Generator(device).manual_seed(0))


def _resize(image: Tensor, height: int, width: int) -> Tensor:
    """[h,w,C] float, by areas."""
    if image.shape[:2] == (height, width):
        return image
    return F.interpolate(image.permute(2, 0, 1)[None], (height, width), mode="area")[0].permute(1, 2, 0)


def _fitted(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """[h,w,4] uint8 at another size, the same bytes at its own."""
    if image.shape[:2] == (height, width):
        return image.copy()
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)).copy()
