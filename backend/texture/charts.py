"""Charts by cube projection with straight borders; an atlas of single triangles where that fails.

Faces are grouped by the axis that their normal follows, the borders between groups are made short by graph cuts, and
each connected group is flattened along its axis. That stretches texels by at most about the square root of 3 on a clean
surface and keeps neighbours together. numpy and scipy only, for the process that imports it must start fast.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components, maximum_flow

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# Of each label +x +y +z -x -y -z: the directions of u and v. u x v is the label's own direction, so no
# chart is mirrored; v is up on the sides.
U = np.array([[0, 1, 0], [-1, 0, 0], [1, 0, 0], [0, -1, 0], [1, 0, 0], [1, 0, 0]], np.float32)
V = np.array([[0, 0, 1], [0, 0, 1], [0, 1, 0], [0, 0, 1], [0, 0, 1], [0, -1, 0]], np.float32)
AXES = np.cross(U, V)
SMOOTHINGS, VOTES = 3, 5  # rounds over neighbours: of the normals, then of the labels
SLOPE = 40.0  # what a surface that slopes against its axis costs; the length of borders costs 1, in object's sizes
STEEP, WALL = 0.2, 10.0  # cosine of a face's own normal from which on it costs so much more
BAND, MOST_CUT = 8, 100_000  # rings of faces around the borders that may change their label; of those at most
SWEEPS = 2  # over the six labels
LAYERS = 4  # rounds of giving faces under others a chart of their own
LEAST_RASTER = 256  # cells across the square in which hidden faces are looked for: nearly one a texel
CANDIDATES = 1 << 24  # of that grid, at most; about 60 bytes each
MIDDLE = 0.03  # of a chart's length, to both sides of its middle: where it may be cut
GRAZING = 0.1  # cosine; a face turned farther from its chart's axis follows its own normal
SLIVER = 0.02  # of the average face: one that is smaller stays where it is, for its normal says nothing


def adjacency(tri: Ints, n_vertices: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Pairs of faces that share an edge, its ends [E,2], and which side of the first face it is, 0 from corner 0 to 1;
    where more than two meet, consecutive ones are paired."""
    ends = np.concatenate((tri[:, [0, 1]], tri[:, [1, 2]], tri[:, [2, 0]]))
    key = ends.min(1) * n_vertices + ends.max(1)
    order = np.argsort(key, kind="stable")
    same = np.nonzero(key[order][1:] == key[order][:-1])[0]
    face = np.tile(np.arange(len(tri)), 3)[order]
    return face[same], face[same + 1], ends[order][same], order[same] // len(tri)


def labels(
    v_pos: Floats, tri: Ints, pairs: tuple[Ints, Ints, Ints, Ints], weight: Floats | None = None
) -> Ints:
    """[F] 0..5, the axis along which each face is flattened. weight [F,3]: as unwrap's."""
    a, b, ends, side = pairs
    neighbours = csr_matrix(
        (np.ones(2 * len(a), np.float32), (np.r_[a, b], np.r_[b, a])), shape=(len(tri),) * 2
    )
    normals = np.cross(v_pos[tri[:, 1]] - v_pos[tri[:, 0]], v_pos[tri[:, 2]] - v_pos[tri[:, 0]])
    smooth = normals
    for _ in range(SMOOTHINGS):
        smooth = smooth + neighbours @ smooth
    label = (smooth @ AXES.T).argmax(1)
    one_hot = np.eye(6, dtype=np.float32)
    for _ in range(VOTES):
        label = (1.01 * one_hot[label] + neighbours @ one_hot[label]).argmax(1)
    size = max(float(np.ptp(v_pos, axis=0).max()), 1e-12)
    area = np.linalg.norm(normals, axis=1)
    along = normals @ AXES.T / np.maximum(area, 1e-30)[:, None]
    unit = smooth / np.maximum(np.linalg.norm(smooth, axis=1), 1e-30)[:, None]
    cost = (1 - unit @ AXES.T + WALL * (along < STEEP)) * (SLOPE * area / 2 / size**2)[:, None]
    length = np.linalg.norm(v_pos[ends[:, 0]] - v_pos[ends[:, 1]], axis=1) / size
    if weight is not None:
        length = length * weight[a, side]
    label = shorten_borders(label, cost.astype(np.float64), (a, b), length.astype(np.float64), neighbours)
    folded = (along[np.arange(len(tri)), label] < GRAZING) & (area > SLIVER * area.mean())
    return np.where(folded, along.argmax(1), label)


def shorten_borders(
    label: Ints,
    cost: NDArray[np.float64],
    pairs: tuple[Ints, Ints],
    length: NDArray[np.float64],
    neighbours: csr_matrix,
) -> Ints:
    """The labels [F] of least cost [F,6] and length [E] of borders together, by alpha expansion (Boykov, Veksler and
    Zabih 2001): a minimum cut for each label says which faces take it. A noisy surface, all borders, is left."""
    a, b = pairs
    active = np.bincount(np.r_[a, b], np.tile(label[a] != label[b], 2), len(label)) > 0
    for _ in range(BAND):
        active = active | (neighbours @ active.astype(np.float32) > 0)
    count = int(active.sum())
    if not 0 < count <= MOST_CUT:
        return label
    keeps, takes = count, count + 1  # the cut's two sides; faces outside of the band keep their label
    node = np.where(active, np.cumsum(active) - 1, keeps)
    ours = np.nonzero(active)[0]
    own = np.arange(count)
    beside = active[a] | active[b]
    a, b, length = a[beside], b[beside], length[beside]
    for alpha in [*range(6)] * SWEEPS:
        now = length * (label[a] != label[b])  # what a border costs where neither takes alpha,
        if_b, if_a = length * (label[a] != alpha), length * (label[b] != alpha)  # or one of them does
        change = cost[ours, alpha] - cost[ours, label[ours]]
        change += np.bincount(node[a], if_a - now, count + 1)[:count]
        change -= np.bincount(node[b], if_a, count + 1)[:count]
        between = if_b + if_a - now
        rows = np.r_[np.full(count, keeps), own, node[a]]
        columns = np.r_[own, np.full(count, takes), node[b]]
        capacity = np.r_[np.maximum(change, 0), np.maximum(-change, 0), between]
        capacity = (capacity * (2**28 / max(float(capacity.max()), 1e-30))).astype(np.int32)
        graph = csr_matrix((capacity, (rows, columns)), shape=(count + 2,) * 2)
        label = label.copy()
        label[ours[~side_of(graph, keeps, takes)[:count]]] = alpha
    return label


def side_of(graph: csr_matrix, source: int, sink: int) -> NDArray[np.bool_]:
    """[N] which nodes the least cut between the two leaves with the source; capacities int32."""
    rest = graph - maximum_flow(graph, source, sink).flow
    rest.data = np.maximum(rest.data, 0)
    rest.eliminate_zeros()
    reached = np.zeros(graph.shape[0], bool)
    reached[breadth_first_order(rest, source, return_predecessors=False)] = True
    return reached


def cube_charts(
    v_pos: Floats, tri: Ints, texture_size: int, weight: Floats | None = None
) -> tuple[Floats, Ints, Ints]:
    """Vertices split by chart, and flattened; faces that would be under others get charts of their own.

    v_pos  [V,3] metres; tri [F,3]; weight [F,3] as unwrap's

    Returns uv [U,2] in metres, not packed; corners [F,3], rows of uv; vertex [U], rows of v_pos. Charts
    that share an edge of the mesh do not share one in uv: xatlas would join them again.
    """
    a, b, *_ = pairs = adjacency(tri, len(v_pos))
    label = labels(v_pos, tri, pairs, weight)
    layer = np.zeros(len(tri), np.int64)
    for _ in range(LAYERS):
        group = layer * 6 + label
        joined = group[a] == group[b]
        graph = coo_matrix((np.ones(joined.sum()), (a[joined], b[joined])), shape=(len(tri),) * 2)
        n_charts, chart = connected_components(graph, directed=False)
        split, corners = np.unique((tri * n_charts + chart[:, None]).reshape(-1), return_inverse=True)
        corners = corners.reshape(-1, 3)
        vertex = split // n_charts
        axis = np.empty(n_charts, np.int64)
        axis[chart] = label
        position, axis = v_pos[vertex], axis[split % n_charts]
        uv = np.stack(((position * U[axis]).sum(1), (position * V[axis]).sum(1)), 1)
        height = (v_pos[tri].mean(1) * AXES[label]).sum(1)
        under = hidden(uv[corners], chart, height, max(LEAST_RASTER, texture_size * 3 // 4))
        if len(under) == 0:
            break
        layer[under] += 1
    far = 3 * float(np.ptp(v_pos, axis=0).max())
    apart = np.stack((group % 6, group // 6), 1) * far  # neighbouring charts differ in label or layer
    shift = np.empty_like(uv)
    shift[corners.reshape(-1)] = np.repeat(apart, 3, axis=0)
    return uv + shift, corners, vertex


def halved(
    charts: tuple[Floats, Ints, Ints], ours: Ints, weight: Floats | None = None
) -> tuple[Floats, Ints, Ints]:
    """As cube_charts, with the chart of the faces `ours` cut in two near its middle, where that is shortest."""
    uv, corners, vertex = charts
    count, place = len(ours), uv[corners[ours]].mean(1)
    along = place[:, np.ptp(place, axis=0).argmax()]
    share = (along - along.min()) / max(float(np.ptp(along)), 1e-12) - 0.5
    low, high = (np.nonzero(sign * share > MIDDLE)[0] for sign in (-1, 1))
    a, b, ends, side = adjacency(corners[ours], len(uv))
    length = np.linalg.norm(uv[ends[:, 0]] - uv[ends[:, 1]], axis=1).astype(np.float64)
    if weight is not None:
        length = length * weight[ours[a], side]
    whole = 2**28
    capacity = np.maximum(length * (whole / 64 / max(float(length.max(initial=0)), 1e-30)), 1)
    graph = csr_matrix(
        (
            np.r_[capacity, capacity, np.full(len(low) + len(high), whole)].astype(np.int32),
            (np.r_[a, b, np.full(len(low), count), high], np.r_[b, a, low, np.full(len(high), count + 1)]),
        ),
        shape=(count + 2,) * 2,
    )
    split = 2 * corners
    split[ours] += ~side_of(graph, count, count + 1)[:count, None]
    found, corners = np.unique(split, return_inverse=True)
    return uv[found // 2], corners.reshape(-1, 3), vertex[found // 2]


def hidden(uv: Floats, chart: Ints, height: Floats, across: int) -> Ints:
    """The faces under others of their own chart, seen on a grid of about `across`^2 cells.

    uv [F,3,2] metres, positively oriented; chart [F]; height [F] along the chart's axis
    """
    sides = uv[:, 1:] - uv[:, :1]
    area = sides[:, 0, 0] * sides[:, 1, 1] - sides[:, 1, 0] * sides[:, 0, 1]
    cell = max(np.sqrt(area.sum() / 2), 1e-12) / across
    n_charts = int(chart.max()) + 1
    low = np.full((n_charts, 2), np.inf, np.float32)
    for corner in range(3):
        np.minimum.at(low, chart, uv[:, corner])
    while True:
        local = (uv - low[chart][:, None]) / cell  # F 3 2, cells
        first = np.ceil(local.min(1) - 0.5).astype(np.int64)
        extent = np.maximum(np.floor(local.max(1) - 0.5).astype(np.int64) - first + 1, 0)
        count = extent.prod(1) * (area > 0)
        if count.sum() < CANDIDATES:
            break
        cell *= 2  # long slivers have boxes far larger than themselves
    size = np.zeros((n_charts, 2), np.int64)  # cells of each chart's box
    np.maximum.at(size, chart, first + extent)
    base = np.cumsum(size.prod(1)) - size.prod(1)

    # edge functions a*i + b*j + c at the cell (i, j) of a face's own box, 0 and 1 on two corners
    p, q = (sides / cell).transpose(1, 2, 0)
    scale = 1 / np.maximum(p[0] * q[1] - q[0] * p[1], 1e-12)
    start = (first + 0.5 - local[:, 0]).T
    a1, b1, a2, b2 = q[1] * scale, -q[0] * scale, -p[1] * scale, p[0] * scale
    c1, c2 = a1 * start[0] + b1 * start[1], a2 * start[0] + b2 * start[1]

    face = np.repeat(np.arange(len(uv), dtype=np.int32), count)
    place = np.arange(len(face), dtype=np.int32) - (np.cumsum(count) - count).astype(np.int32)[face]
    width = extent[:, 0].astype(np.int32)
    j = place // width[face]
    i = place - j * width[face]
    e1, e2 = a1[face] * i + b1[face] * j + c1[face], a2[face] * i + b2[face] * j + c2[face]
    slack = np.float32(1e-3)  # a centre on an edge is in neither face
    inside = np.nonzero((e1 > slack) & (e2 > slack) & (e1 + e2 < 1 - slack))[0]
    face, i, j = face[inside], i[inside], j[inside]
    columns = size[chart, 0]
    corner = base[chart] + first[:, 1] * columns + first[:, 0]
    where = corner[face] + j * columns[face] + i
    order = np.argsort(where, kind="stable")
    same = np.nonzero(where[order][1:] == where[order][:-1])[0]
    crowded = order[np.union1d(same, same + 1)]
    face, where = face[crowded], where[crowded]
    order = np.lexsort((height[face], where))
    face, where = face[order], where[order]
    return np.unique(face[:-1][where[:-1] == where[1:]])  # all but the topmost of each cell


def single_triangles(n_faces: int, texture_size: int, padding: int) -> tuple[Floats, Ints]:
    """An atlas in which each face has half a square cell to itself; always valid, never pretty.

    Returns uv [3 F, 2] in [0,1] and corners [F,3].
    """
    across = max(1, int(np.ceil(np.sqrt((n_faces + 1) // 2))))
    gap = min(padding / texture_size * across, 0.5)  # between neighbours, in cells
    near, far = gap / 2, 1 - gap / 2 - gap * np.sqrt(0.5)  # the diagonal's neighbours are apart as well
    lower = np.array([[near, near], [far, near], [near, far]])
    halves = np.stack((lower, 1 - lower))
    face = np.arange(n_faces)
    cell = face // 2
    place = np.stack((cell % across, cell // across), 1)
    uv = (place[:, None] + halves[face % 2]) / across
    return uv.reshape(-1, 2).astype(np.float32), np.arange(3 * n_faces).reshape(-1, 3)
