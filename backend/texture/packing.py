"""Charts laid into the unit square: by trying every place, or by xatlas where there are very many.

The charts stand as masks of cells. Each goes, the longest first, to where the square that holds all grows least, in the
best of four quarter turns; one Fourier transform says of all places at once whether they are free. Many orders
are tried in coarse cells and the best few in fine ones: as many as the charts allow, not the clock, so that the same
mesh gives the same layout.
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

TEXELS, LEAST_CELLS, MOST_CELLS = 4, 64, 256  # a fine cell's side in texels; fine cells across the square
COARSE = 3 / 8  # of those
USE, FULL = 0.62, 0.7  # of the square: what is expected to be covered, and what is as good as it gets
CUTS, LEAST_GAIN = 4, 0.01  # charts that are cut in two where less is covered; what each has to bring
MOST_CHARTS = 150  # that are laid out here
WORK, PER_FINAL = 400, 10  # charts placed in all coarse attempts; attempts of which one is made in fine cells
SHUFFLE = 0.15  # how far an attempt's order is from that by length
FINER = 2  # cells a side of a cell, in which masks are drawn
NOWHERE = 2**32 - 1  # xatlas: the atlas of a vertex that is in no chart


def pack_well(
    v_pos: Floats, tri: Ints, charts: tuple[Floats, Ints, Ints], texture_size: int, padding: int,
    halved: Callable[[tuple[Floats, Ints, Ints]], tuple[Floats, Ints, Ints]],
) -> tuple[Floats, Ints]:  # fmt: skip
    """As `pack`; large charts that leave gaps, as a ball's six do, are cut in two (`halved`) where that fills them."""
    best = pack(v_pos, tri, charts, texture_size, padding)
    most = covered(*best)
    if most >= USE or islands(*charts[:2])[0] + CUTS > MOST_CHARTS:
        return best
    for cut in range(1, CUTS + 1):
        charts = halved(charts)
        tried = pack(v_pos, tri, charts, texture_size, padding)
        use = covered(*tried)
        if use - cut * LEAST_GAIN > most:
            best, most = tried, use - cut * LEAST_GAIN
        if use >= FULL:
            break
    return best


def islands(uv: Floats, corners: Ints) -> tuple[int, Ints]:
    """How many charts there are, and which of them each row of uv belongs to."""
    rows, columns = corners[:, :2].reshape(-1), corners[:, 1:].reshape(-1)
    graph = coo_matrix((np.ones(len(rows), bool), (rows, columns)), shape=(len(uv),) * 2)
    count, chart = connected_components(graph, directed=False)
    return int(count), chart


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
    fine = min(max(texture_size // TEXELS, LEAST_CELLS), MOST_CELLS)

    def drawn(cells: int) -> list[NDArray[np.float32]]:
        slack = padding / 2 * cells / texture_size
        places = flat * (np.sqrt(USE / area) * cells) + slack
        return [mask_of(places[corners[chart[corners[:, 0]] == number]], slack) for number in range(count)]

    masks = drawn(fine)
    side, found = layout(drawn(int(fine * COARSE)), masks)
    places = flat * (np.sqrt(USE / area) * fine) + padding / 2 * fine / texture_size
    for number, (x, y, turn) in enumerate(found):
        own = chart == number
        at = places[own]
        for of_turn in range(turn):
            at = np.stack((masks[number].shape[1 - of_turn % 2] - at[:, 1], at[:, 0]), 1)
        places[own] = at + np.array([x, y])
    return np.clip(places / side, 0, 1).astype(np.float32), corners


def upright(uv: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N,2] turned so that its upright box is the smallest, and moved into the corner of the first quadrant."""
    angle = np.radians(np.arange(90))
    along = uv @ np.stack((np.cos(angle), np.sin(angle)))
    across = uv @ np.stack((-np.sin(angle), np.cos(angle)))
    best = (np.ptp(along, axis=0) * np.ptp(across, axis=0)).argmin()
    turned = np.stack((along[:, best], across[:, best]), 1)
    return turned - turned.min(0)


def mask_of(uv: NDArray[np.float64], slack: float) -> NDArray[np.float32]:
    """1 in every cell that has a point within `slack` cells of a triangle of uv [F,3,2], which begins at slack."""
    p, slack = uv * FINER, slack * FINER
    size = FINER * np.ceil((p.max((0, 1)) + slack) / FINER).astype(int)
    first = np.maximum(np.floor(p.min(1) - slack), 0).astype(int)
    extent = np.minimum(np.ceil(p.max(1) + slack).astype(int), size) - first
    count = extent.prod(1)
    face = np.repeat(np.arange(len(p)), count)
    place = np.arange(len(face)) - (np.cumsum(count) - count)[face]
    i, j = first[face, 0] + place % extent[face, 0], first[face, 1] + place // extent[face, 0]
    inside = np.ones(len(face), bool)
    for corner in range(3):
        start, side = p[:, corner], p[:, (corner + 1) % 3] - p[:, corner]
        least = -0.5 * np.abs(side).sum(1) - slack * np.linalg.norm(side, axis=1)
        offset_x, offset_y = i + 0.5 - start[face, 0], j + 0.5 - start[face, 1]
        inside &= side[face, 0] * offset_y - side[face, 1] * offset_x >= least[face]
    grid = np.zeros(size, np.float32)
    grid[i[inside], j[inside]] = 1
    return grid.reshape(size[0] // FINER, FINER, size[1] // FINER, FINER).max((1, 3))


def layout(
    coarse: list[NDArray[np.float32]], fine: list[NDArray[np.float32]]
) -> tuple[int, list[tuple[int, int, int]]]:
    """The side of the square in fine cells, and of each mask the cell where it begins and its quarter turns."""
    longest = np.array([max(mask.shape) for mask in fine], np.float64)
    random = np.random.default_rng(0)
    orders = [np.argsort(-longest, kind="stable")]
    for _ in range(WORK // len(fine)):
        shuffled = longest * np.exp(SHUFFLE * random.standard_normal(len(fine)))
        orders.append(np.argsort(-shuffled, kind="stable"))
    orders.sort(key=lambda order: _in_order(coarse, order)[0])  # stable: of equals the first
    return min(
        (_in_order(fine, order) for order in orders[: 1 + len(orders) // PER_FINAL]), key=lambda made: made[0]
    )


def _in_order(masks: list[NDArray[np.float32]], order: Ints) -> tuple[int, list[tuple[int, int, int]]]:
    """As `layout`, in one order."""
    cells = np.sqrt(sum(float(mask.sum()) for mask in masks) / USE)
    room = max(int(cells * 1.2), max(max(mask.shape) for mask in masks))
    while True:
        made = attempt_in(masks, order, fft.next_fast_len(room, real=True))
        if made is not None:
            return made
        room = room * 5 // 4  # charts of odd shapes need more


def attempt_in(
    masks: list[NDArray[np.float32]], order: Ints, room: int
) -> tuple[int, list[tuple[int, int, int]]] | None:
    """As `layout`; None where a chart has no place in the square of `room` cells."""
    taken, side = np.zeros((room, room), np.float32), 0
    found = [(0, 0, 0)] * len(masks)
    for number in order:
        spectrum = fft.rfft2(taken)
        choices = []
        for turn in range(4):
            mask = np.rot90(masks[number], turn)
            width, height = mask.shape
            if max(width, height) > room:
                continue
            hits = fft.irfft2(spectrum * np.conj(fft.rfft2(mask, (room, room))), (room, room))
            across, up = np.nonzero(hits[: room - width + 1, : room - height + 1] < 0.5)
            if len(across):
                grown = np.maximum(np.maximum(across + width, up + height), side) * 4 * room + across + up
                least = int(grown.argmin())
                cost = int(grown[least]) + (width + height) // 2
                choices.append((cost, int(across[least]), int(up[least]), turn))
        if not choices:
            return None
        _, x, y, turn = min(choices)
        mask = np.rot90(masks[number], turn)
        taken[x : x + mask.shape[0], y : y + mask.shape[1]] += mask
        side = max(side, x + mask.shape[0], y + mask.shape[1])
        found[number] = (x, y, turn)
    return side, found


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
