"""Charts laid into the unit square: pressed together until nothing gives, or by xatlas where there are very many.

The charts stand as masks of cells, in a square that gets smaller by a cell at a time. What then overlaps goes to where
it overlaps least, and what stays in conflict counts for more each time (guided local search, as Egeblad, Nielsen and
Odgaard 2007 lay out shapes); one Fourier transform says of all places at once what they cost. At first in coarse cells,
anywhere and in each of four quarter turns, then in finer ones, nearby: as many moves as there are, not the clock, so
that the same mesh gives the same layout.
numpy and scipy only, for the process that imports it must start fast.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Place = tuple[int, int, int]  # the cell where a mask begins, and its quarter turns
Layout = tuple[int, list[Place]]  # the square's side in cells, and the place of each mask

CELLS, COARSE = 512, 4  # fine cells across, where USE is covered; of those a side of a coarse one
USE, FULL = 0.7, 0.7  # of the square: what is expected to be covered, and what is as good as it gets
# where less is covered: charts are cut in two that leave so much free; each time at least and at most so many
FREE, LEAST_CUTS, CUTS = (0.12, 0.06, 0.03), 2, 8
LEAST_GAIN = 0.01  # what that has to bring, since each cut is a seam
SMALL = 256  # texels a side under which gaps between charts decide, and cuts bring none; two cells a texel at most
MOST_CUT, MOST_CHARTS = 60, 150  # charts that may be when some are cut, and that are laid out here
MOVES, MOVES_NEARBY = 1800, 800  # of charts, in coarse cells, and each time that the cells are halved
REACH = 4  # cells that a chart moves at most when it is to stay nearby
ROOMY = 0.7  # of the first square is covered by masks
HEED = 8  # a chart goes nowhere for one that is so many times smaller: that one has to go
FINER = 2  # cells a side of a cell, in which masks are drawn
CANDIDATES = 1 << 22  # of those at once; about 60 bytes each
NOWHERE = 2**32 - 1  # xatlas: the atlas of a vertex that is in no chart


def pack_well(
    v_pos: Floats, tri: Ints, charts: tuple[Floats, Ints, Ints], texture_size: int, padding: int,
    halved: Callable[[tuple[Floats, Ints, Ints], Ints], tuple[Floats, Ints, Ints]],
) -> tuple[Floats, Ints]:  # fmt: skip
    """As `pack`; charts that leave gaps, as a chair's frames do, are cut in two until the square is full.

    halved  the charts, with that of these faces cut
    """
    best = pack(v_pos, tri, charts, texture_size, padding)
    for share in FREE:
        if texture_size < SMALL or covered(*best) >= FULL or islands(*charts[:2])[0] > MOST_CUT:
            break
        for cut in range(CUTS):
            faces, free = emptiest(*charts[:2])
            if cut < LEAST_CUTS or free > share:
                charts = halved(charts, faces)
        tried = pack(v_pos, tri, charts, texture_size, padding)
        if covered(*tried) > covered(*best) + LEAST_GAIN:
            best = tried
    return best


def islands(uv: Floats, corners: Ints) -> tuple[int, Ints]:
    """How many charts there are, and which of them each row of uv belongs to."""
    rows, columns = corners[:, :2].reshape(-1), corners[:, 1:].reshape(-1)
    graph = coo_matrix((np.ones(len(rows), bool), (rows, columns)), shape=(len(uv),) * 2)
    count, chart = connected_components(graph, directed=False)
    return int(count), chart


def emptiest(uv: Floats, corners: Ints) -> tuple[Ints, float]:
    """The faces of the chart that leaves most of its box free, and how much that is, the area of all charts being 1."""
    count, chart = islands(uv, corners)
    of_face = chart[corners[:, 0]]
    box = [np.ptp(upright(uv[chart == number].astype(np.float64)), axis=0).prod() for number in range(count)]
    free = [each - covered(uv, corners[of_face == number]) for number, each in enumerate(box)]
    return np.nonzero(of_face == np.argmax(free))[0], max(free) / covered(uv, corners)


def covered(uv: Floats, corners: Ints) -> float:
    """The triangles' area."""
    one, two = (uv[corners[:, i]] - uv[corners[:, 0]] for i in (1, 2))
    return float(np.abs(one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]).sum()) / 2


def pack(
    v_pos: Floats, tri: Ints, charts: tuple[Floats, Ints, Ints], texture_size: int, padding: int
) -> tuple[Floats, Ints]:
    """Cube charts (uv [U,2] metres, corners [F,3], vertex [U]) moved into the unit square, not mirrored.

    Returns uv [T,2] in [0,1] and corners [F,3], rows of uv, faces and corners in the order of tri.
    """
    uv, corners, _ = charts
    area = covered(uv, corners)
    if area <= 0:
        raise RuntimeError("no face has an area")
    count, chart = islands(uv, corners)
    if count > MOST_CHARTS:
        return by_xatlas(v_pos, tri, charts, texture_size, padding)
    flat = np.empty((len(uv), 2))
    for number in range(count):
        flat[chart == number] = upright(uv[chart == number].astype(np.float64))
    cells = min(CELLS, CELLS // SMALL * texture_size)
    slack = padding / 2 * cells / texture_size
    places = flat * (np.sqrt(USE / area) * cells) + slack
    masks = [mask_of(places[corners[chart[corners[:, 0]] == number]], slack) for number in range(count)]
    side, found = layout(masks)
    for number, (x, y, turn) in enumerate(found):
        own = chart == number
        at = places[own]
        for of_turn in range(turn):
            at = np.stack((masks[number].shape[1 - of_turn % 2] - at[:, 1], at[:, 0]), 1)
        places[own] = at + np.array([x, y])
    rim = slack / 2  # nothing lies beyond the square's own border
    return np.clip((places - rim) / (side - 2 * rim), 0, 1).astype(np.float32), corners


def upright(uv: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N,2] turned so that its upright box is the smallest, and moved into the corner of the first quadrant."""
    angle = np.radians(np.arange(90))
    along = uv @ np.stack((np.cos(angle), np.sin(angle)))
    across = uv @ np.stack((-np.sin(angle), np.cos(angle)))
    best = (np.ptp(along, axis=0) * np.ptp(across, axis=0)).argmin()
    turned = np.stack((along[:, best], across[:, best]), 1)
    return turned - turned.min(0)


def mask_of(uv: NDArray[np.float64], slack: float) -> Floats:
    """1 in every cell that has a point within `slack` cells of a triangle of uv [F,3,2], which begins at slack.

    Its sides are multiples of COARSE.
    """
    whole = FINER * COARSE
    size = whole * np.ceil((uv.max((0, 1)) + slack) / COARSE).astype(int)
    p, slack = uv * FINER, slack * FINER
    first = np.maximum(np.floor(p.min(1) - slack), 0).astype(int)
    extent = np.minimum(np.ceil(p.max(1) + slack).astype(int), size) - first
    grid = np.zeros(size, np.float32)
    for part in np.array_split(np.arange(len(p)), 1 + int(extent.prod(1).sum()) // CANDIDATES):
        count = extent[part].prod(1)
        face = np.repeat(part, count)
        place = np.arange(len(face)) - np.repeat(np.cumsum(count) - count, count)
        i, j = first[face, 0] + place % extent[face, 0], first[face, 1] + place // extent[face, 0]
        inside = np.ones(len(face), bool)
        for corner in range(3):
            start, side = p[:, corner], p[:, (corner + 1) % 3] - p[:, corner]
            least = -0.5 * np.abs(side).sum(1) - slack * np.linalg.norm(side, axis=1)
            offset_x, offset_y = i + 0.5 - start[face, 0], j + 0.5 - start[face, 1]
            inside &= side[face, 0] * offset_y - side[face, 1] * offset_x >= least[face]
        grid[i[inside], j[inside]] = 1
    return coarser(grid, FINER)


def coarser(mask: Floats, factor: int) -> Floats:
    """1 in every cell of which a part was in the mask."""
    width, height = mask.shape
    made: Floats = mask.reshape(width // factor, factor, height // factor, factor).max((1, 3))
    return made


def layout(masks: list[Floats]) -> Layout:
    """Where the masks, whose sides are multiples of COARSE, lie together in a small square."""
    coarse = [coarser(mask, COARSE) for mask in masks]
    turns = [[np.ascontiguousarray(np.rot90(mask, turn)) for turn in range(4)] for mask in coarse]
    longest = max(max(mask.shape) for mask in coarse)
    room = max(longest, int(np.sqrt(sum(float(mask.sum()) for mask in coarse) / ROOMY)))
    while (found := squeezed(turns, room, [(0, 0, 0)] * len(masks), room, MOVES)) is None:
        room = room * 9 // 8 + 1
    side, placed = found
    turned = [np.ascontiguousarray(np.rot90(mask, at[2])) for mask, at in zip(masks, placed, strict=True)]
    cell = COARSE
    while cell > 1:
        cell //= 2
        start = [(2 * x, 2 * y, 0) for x, y, _ in placed]
        closer = squeezed([[coarser(mask, cell)] for mask in turned], 2 * side, start, REACH, MOVES_NEARBY)
        assert closer is not None, "what was free in coarse cells is free in fine ones"
        side, placed = closer
    return side, [(x, y, at[2]) for (x, y, _), at in zip(placed, found[1], strict=True)]


def squeezed(
    turns: list[list[Floats]], room: int, placed: list[Place], reach: int, moves: int
) -> Layout | None:
    """The smallest square in which nothing overlaps, of those from `room` down; None where there is none.

    turns   of each chart its mask, in each turn that it may have
    reach   cells that a move goes at most; all of them turn alike unless that is the whole room
    moves   after so many it ends
    """
    shapes = [
        [fft.next_fast_len(min(cells + 2 * reach, room), real=True) for cells in masks[0].shape]
        for masks in turns
    ]
    spectra = [
        [np.conj(fft.rfft2(mask, shape)) for mask in masks]
        for masks, shape in zip(turns, shapes, strict=True)
    ]
    area = np.array([float(masks[0].sum()) for masks in turns])
    heeds = (area * HEED > area[:, None]).astype(np.float32)
    np.fill_diagonal(heeds, 0)
    random = np.random.default_rng(0)
    best, now = None, list(placed)
    for side in range(room, max(max(masks[0].shape) for masks in turns) - 1, -1):
        weights = heeds.copy()
        for chart, (x, y, turn) in enumerate(now):
            width, height = turns[chart][turn].shape
            now[chart] = min(x, side - width), min(y, side - height), turn
        while (shared := overlaps(turns, now) * heeds).any():
            weights += np.ceil(shared * (HEED / 2 / shared.max()))
            for chart in random.permutation(np.nonzero(shared.any(1))[0]):
                if moves == 0:
                    return best
                x, y, turn = now[chart]
                width, height = turns[chart][turn].shape
                low = max(x - reach, 0), max(y - reach, 0)
                high = min(x + reach + width, side), min(y + reach + height, side)
                field = np.zeros(shapes[chart], np.float32)
                for other, weight in enumerate(weights[chart].tolist()):
                    if weight:
                        add(field, low, high, turns[other][now[other][2]], now[other], weight)
                here = field[x - low[0] :, y - low[1] :][:width, :height]
                if not (here * turns[chart][turn]).any():
                    continue  # the others have gone
                moves -= 1
                spectrum, choices = fft.rfft2(field), []
                for turn, mask in enumerate(turns[chart]):
                    across, up = (high[i] - low[i] - mask.shape[i] + 1 for i in (0, 1))
                    cost = np.rint(fft.irfft2(spectrum * spectra[chart][turn], shapes[chart])[:across, :up])
                    at_x, at_y = divmod(int(cost.argmin()), up)
                    choices.append((float(cost[at_x, at_y]), low[0] + at_x, low[1] + at_y, turn))
                now[chart] = min(choices)[1:]
        best = side, list(now)
    return best


def add(
    field: Floats, low: tuple[int, int], high: tuple[int, int], mask: Floats, at: Place, weight: float = 1
) -> None:
    """Onto the field, which shows the cells from low to high, so many times what it shows of a mask."""
    left, right = max(at[0], low[0]), min(at[0] + mask.shape[0], high[0])
    under, over = max(at[1], low[1]), min(at[1] + mask.shape[1], high[1])
    if left < right and under < over:
        shown = mask[left - at[0] : right - at[0], under - at[1] : over - at[1]]
        field[left - low[0] : right - low[0], under - low[1] : over - low[1]] += np.float32(weight) * shown


def overlaps(turns: list[list[Floats]], placed: list[Place]) -> Floats:
    """[N,N] cells that each two charts share, 0 with itself."""
    masks = [each[at[2]] for each, at in zip(turns, placed, strict=True)]
    low = np.array(placed)[:, :2]
    high = low + [mask.shape for mask in masks]
    first, last = np.maximum(low[:, None], low), np.minimum(high[:, None], high)
    shared = np.zeros((len(masks), len(masks)), np.float32)
    for one, other in np.argwhere(np.triu((first < last).all(2), 1)).tolist():
        (left, under), (right, over) = first[one, other].tolist(), last[one, other].tolist()
        here, there = (
            masks[of][
                left - placed[of][0] : right - placed[of][0], under - placed[of][1] : over - placed[of][1]
            ]
            for of in (one, other)
        )
        shared[one, other] = shared[other, one] = float((here * there).sum())
    return shared


def by_xatlas(
    v_pos: Floats, tri: Ints, charts: tuple[Floats, Ints, Ints], texture_size: int, padding: int
) -> tuple[Floats, Ints]:
    """As `pack`."""
    import xatlas  # has no wheel for every platform; the caller does without

    uv, corners, vertex = charts
    atlas = xatlas.Atlas()
    # xatlas takes faces under 1e-7 square units for degenerate: make the average face one unit wide
    scale = np.float32(np.sqrt(len(tri)) / max(float(np.ptp(v_pos, axis=0).max()), 1e-12))
    atlas.add_mesh(v_pos[vertex] * scale, corners.astype(np.uint32), uvs=uv * scale)
    options = xatlas.ChartOptions()
    options.use_input_mesh_uvs = True
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding = texture_size, padding
    packing.rotate_charts = packing.rotate_charts_to_axis = False  # its quarter turn is a mirror
    atlas.generate(options, packing)
    if atlas.width == 0 or atlas.height == 0:
        raise RuntimeError("no face has an area")
    source, packed, placed = atlas[0]
    packed = packed.astype(np.int64)
    if not np.array_equal(source[packed], corners):
        raise RuntimeError("xatlas did not keep the faces")

    # Faces without area are in no chart: they shrink to a point that one of their vertices has elsewhere.
    lost = atlas.get_mesh_vertex_assignment(0)[0] == NOWHERE
    home = np.full(len(v_pos), -1)
    home[vertex[source[~lost]]] = np.nonzero(~lost)[0]
    faces = np.nonzero(lost[packed].any(1))[0]
    point = home[tri[faces]].max(1)
    packed[faces] = np.where(point < 0, packed[faces, 0], point)[:, None]
    used, packed = np.unique(packed, return_inverse=True)
    placed = placed[used] * np.array([atlas.width, atlas.height], np.float32) / max(atlas.width, atlas.height)
    return np.clip(placed, 0, 1).astype(np.float32), packed.reshape(-1, 3)
