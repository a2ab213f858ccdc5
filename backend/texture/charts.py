"""Charts by cube projection, packed by xatlas; an atlas of single triangles where that fails.

Faces are grouped by the axis that their smoothed normal follows, and each connected group is flattened
along its axis. That takes a second where xatlas's own charts take minutes (its merging grows faster
than linearly), stretches texels by at most the square root of 3 on a clean surface, and keeps
neighbours together. numpy and scipy only, for the process that imports it must start fast.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# Of each label +x +y +z -x -y -z: the directions of u and v. u x v is the label's own direction, so no
# chart is mirrored; v is up on the sides.
U = np.array([[0, 1, 0], [-1, 0, 0], [1, 0, 0], [0, -1, 0], [1, 0, 0], [1, 0, 0]], np.float32)
V = np.array([[0, 0, 1], [0, 0, 1], [0, 1, 0], [0, 0, 1], [0, 0, 1], [0, -1, 0]], np.float32)
AXES = np.cross(U, V)
SMOOTHINGS, VOTES = 6, 5  # rounds over neighbours: of the normals, then of the labels
LAYERS = 4  # rounds of giving faces under others a chart of their own
RASTER = 700  # cells across the square in which hidden faces are looked for
CANDIDATES = 1 << 24  # of that grid, at most; about 60 bytes each
NOWHERE = 2**32 - 1  # xatlas: the atlas of a vertex that is in no chart
GRAZING = 0.1  # cosine; a face turned farther from its chart's axis follows its own normal


def adjacency(tri: Ints, n_vertices: int) -> tuple[Ints, Ints]:
    """Pairs of faces that share an edge; where more than two meet, consecutive ones are paired."""
    ends = np.concatenate((tri[:, [0, 1]], tri[:, [1, 2]], tri[:, [2, 0]]))
    key = ends.min(1) * n_vertices + ends.max(1)
    order = np.argsort(key, kind="stable")
    same = np.nonzero(key[order][1:] == key[order][:-1])[0]
    face = np.tile(np.arange(len(tri)), 3)[order]
    return face[same], face[same + 1]


def labels(v_pos: Floats, tri: Ints, pairs: tuple[Ints, Ints]) -> Ints:
    """[F] 0..5, the axis along which each face is flattened."""
    a, b = pairs
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
    along = normals @ AXES.T
    folded = along[np.arange(len(tri)), label] < GRAZING * np.linalg.norm(normals, axis=1)
    return np.where(folded, along.argmax(1), label)


def cube_charts(v_pos: Floats, tri: Ints) -> tuple[Floats, Ints, Ints]:
    """Vertices split by chart, and flattened; faces that would be under others get charts of their own.

    v_pos  [V,3] metres; tri [F,3]

    Returns uv [U,2] in metres, not packed; corners [F,3], rows of uv; vertex [U], rows of v_pos. Charts
    that share an edge of the mesh do not share one in uv: xatlas would join them again.
    """
    a, b = adjacency(tri, len(v_pos))
    label = labels(v_pos, tri, (a, b))
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
        under = hidden(uv[corners], chart, height)
        if len(under) == 0:
            break
        layer[under] += 1
    far = 3 * float(np.ptp(v_pos, axis=0).max())
    apart = np.stack((group % 6, group // 6), 1) * far  # neighbouring charts differ in label or layer
    shift = np.empty_like(uv)
    shift[corners.reshape(-1)] = np.repeat(apart, 3, axis=0)
    return uv + shift, corners, vertex


def hidden(uv: Floats, chart: Ints, height: Floats) -> Ints:
    """The faces under others of their own chart, seen on a grid of about RASTER^2 cells.

    uv [F,3,2] metres, positively oriented; chart [F]; height [F] along the chart's axis
    """
    sides = uv[:, 1:] - uv[:, :1]
    area = sides[:, 0, 0] * sides[:, 1, 1] - sides[:, 1, 0] * sides[:, 0, 1]
    cell = max(np.sqrt(area.sum() / 2), 1e-12) / RASTER
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


def pack(v_pos: Floats, tri: Ints, texture_size: int, padding: int) -> tuple[Floats, Ints]:
    """Cube charts packed into the unit square by xatlas.

    Returns uv [T,2] in [0,1] and corners [F,3], rows of uv, faces and corners in the order of tri.
    """
    import xatlas  # has no wheel for every platform; the caller does without

    uv, corners, vertex = cube_charts(v_pos, tri)
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
