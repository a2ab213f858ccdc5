"""From the first stage's density to the second's signed distances (section D.1's initialisation of DMTet).

A density has no one surface. Its threshold is the one whose silhouettes and distances agree best with what the field
itself shows, and the level set is cleaned (specks dropped, cavities filled, border outside) before distances to it are
measured: density minus threshold itself saturates and would start the geometry badly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

from backend.errors import SceneError
from backend.kernels import rasterize_ids
from backend.scene.camera import Camera, rays
from backend.scene.isosurface import TetGrid, marching_tetrahedra, tetrahedral_grid
from backend.scene.mesh import Mesh, components, face_cross

SPECK = 0.01  # pieces under this share of the largest one's volume are noise
ALIKE = 0.005  # of the silhouettes' IoU that may be lost for a surface that lies where the field's is seen
OPAQUE = 0.9  # opacity from which a field shows a surface
FAR = 0.1  # metres, at most, that a surface counts as apart from the field's
TORN = 0.02  # of the silhouettes' IoU that may be lost for an object in fewer pieces
LEVEL_RANGE = 3.0  # log-densities are clipped this far from the threshold's, or where the inside ends
BAND = 4.0  # distances are measured up to this many cells from the surface
BISECTIONS = 6  # halvings of an edge in search of the threshold
NEIGHBOURS = 12  # nearest triangles looked at for a distance


@dataclass(frozen=True)
class Seen:
    """What K views of a field show.

    silhouettes  [K,h,w] opacity in [0,1]
    distances    [K,h,w] metres from the rays' origins to the middle of what they see
    """

    camera: Camera
    silhouettes: Tensor
    distances: Tensor


@dataclass(frozen=True)
class FieldSDF:
    """A grid round the object with its box's corners, its sdf [N], the threshold, its silhouettes' mean IoU."""

    grid: TetGrid
    sdf: Tensor
    threshold: float
    iou: float
    lower: tuple[float, ...]
    upper: tuple[float, ...]


@dataclass(frozen=True)
class _Made:
    """What a threshold makes of a field."""

    iou: float  # of its silhouettes and the field's, the mean over the views
    apart: float  # mean metres between its surface and what is seen where the field is opaque
    pieces: int


@torch.no_grad()
def field_to_sdf(
    density_at: Callable[[Tensor], Tensor],
    half: float,
    cells: int,
    seen: Seen,
    look: int = 64,
) -> FieldSDF:
    """Everything between the stages: find the object, lay a grid round it, choose a threshold, measure.

    density_at   [N,3] metres to [N] density
    half         half the side of the field's box, which is searched with `look`^3 samples
    cells        the tetrahedral grid's cells along the longest side of the object's box
    seen         what the field itself shows
    Raises SceneError where no threshold gives a surface.
    """
    axis = ((torch.arange(look) + 0.5) / look * 2 - 1) * half
    points = torch.cartesian_prod(axis, axis, axis).to(seen.silhouettes.device)
    coarse = _in_chunks(density_at, points)
    lower, upper = bounding_box((coarse > 0.01 * _top(coarse)).view(look, look, look), half, 4 * half / look)
    grid = tetrahedral_grid(cells, lower, upper).to(points.device)
    density = _in_chunks(density_at, grid.vertices)
    threshold, iou = pick_threshold(density, grid, seen)
    sdf = sdf_from_density(density, threshold, grid, density_at)
    return FieldSDF(grid, sdf, threshold, iou, tuple(lower.tolist()), tuple(upper.tolist()))


def bounding_box(occupied: Tensor, half: float, margin: float) -> tuple[Tensor, Tensor]:
    """Lower and upper corner [3] of what is occupied but for specks, `margin` metres wider on all sides.

    occupied  [G,G,G] bool, axes x, y, z, over the box [-half, half]^3. Raises SceneError where all is empty.
    """
    piece, n = ndimage.label(occupied.cpu().numpy())
    if n == 0:
        raise _empty()
    size = np.bincount(piece.ravel())[1:]
    kept = np.isin(piece, 1 + np.flatnonzero(size >= SPECK * size.max()))
    at = np.argwhere(kept)
    side = 2 * half / len(occupied)
    lower = torch.from_numpy(at.min(0) * side - half - margin)
    upper = torch.from_numpy((at.max(0) + 1) * side - half + margin)
    return lower.float().clamp(min=-half), upper.float().clamp(max=half)


def pick_threshold(density: Tensor, grid: TetGrid, seen: Seen) -> tuple[float, float]:
    """The threshold whose mesh has the field's silhouettes, and the mean IoU of the two.

    Of those whose silhouettes are almost as good, the one whose surface lies where the field's is seen: silhouettes do
    not see into a mug, where a lower one takes the fog for a lid. Where a lower one leaves the object in fewer pieces,
    it is taken: what is thin is faint in a field, and a lamp whose pole falls to the threshold never gets it back.

    density  [N] at the grid's vertices, per metre
    Raises SceneError where no threshold gives a surface.
    """
    top = _top(density[~grid.border])
    tried: dict[float, _Made] = {}

    def look_at(thresholds: list[float]) -> None:
        for threshold in thresholds:
            level = _clean_level(density, threshold, grid)
            if level is not None:
                mesh = marching_tetrahedra(grid.vertices, level, grid)
                tried[threshold] = _Made(*_agreement(mesh, seen), components(mesh)[0])

    look_at(_geometric(top * 1e-3, top * 0.8, 9))
    if max((made.iou for made in tried.values()), default=0.0) < 0.5:
        look_at(_geometric(top * 1e-6, top * 0.99, 25))
    if not tried:
        raise _empty()
    for _ in range(2):
        order = sorted(tried)
        at = order.index(max(order, key=lambda t: tried[t].iou))
        look_at([math.sqrt(order[i] * order[i + 1]) for i in (at - 1, at) if 0 <= i < len(order) - 1])
    best = max(tried, key=lambda t: tried[t].iou)
    lower = sorted(t for t in tried if t <= best and tried[t].iou > tried[best].iou - TORN)
    fewest = min(tried[t].pieces for t in lower)
    if fewest < tried[best].pieces:
        whole = [t for t in lower if tried[t].pieces == fewest]
        threshold = whole[len(whole) // 2]
    else:
        alike = [t for t in tried if tried[t].iou > tried[best].iou - ALIKE and tried[t].pieces == fewest]
        threshold = min(alike, key=lambda t: tried[t].apart)
    return threshold, tried[threshold].iou


def sdf_from_density(
    density: Tensor,
    threshold: float,
    grid: TetGrid,
    density_at: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """[N] signed distances, metres, positive inside, to where density [N] crosses `threshold`.

    Specks are dropped, cavities filled, the border is outside; distances end at BAND cells. With the
    function density_at ([N,3] to [N]) crossings are searched along the edges, else interpolated.
    Raises SceneError where nothing is above the threshold.
    """
    level = _clean_level(density, threshold, grid)
    if level is None:
        raise _empty()
    surface = marching_tetrahedra(grid.vertices, level, grid)
    if density_at is not None:
        ends = grid.edges[(level > 0)[grid.edges].sum(1) == 1]  # in the order of the surface's vertices
        within = torch.where(level[ends[:, 0]] > 0, ends[:, 0], ends[:, 1])
        near, far = grid.vertices[within], grid.vertices[ends.sum(1) - within]
        for _ in range(BISECTIONS):
            middle = (near + far) / 2
            dense = (_in_chunks(density_at, middle) > threshold)[:, None]
            near, far = torch.where(dense, middle, near), torch.where(dense, far, middle)
        surface = Mesh((near + far) / 2, surface.t_pos_idx)
    return signed_distances(level, surface, grid)


def signed_distances(level: Tensor, surface: Mesh, grid: TetGrid) -> Tensor:
    """[N] metres to a surface on the grid, at most BAND cells, positive where level [N] is."""
    distance = surface_distance(grid.vertices, surface, BAND * grid.spacing)
    return torch.where(level > 0, 1.0, -1.0) * distance.clamp(min=1e-3 * grid.spacing)


def _clean_level(density: Tensor, threshold: float, grid: TetGrid) -> Tensor | None:
    """[N] log(density / threshold), clipped, cleaned; None where nothing is left of the inside.

    The logarithm places crossings well: a density grows by factors, not by steps, towards its surface.
    Both sides are clipped alike, or crossings would lean towards the flatter one.
    """
    reach = min(LEVEL_RANGE, max(0.1, math.log(_top(density[~grid.border]) / threshold)))
    level = (density.detach().clamp(min=1e-20) / threshold).log().clamp(-reach, reach)
    level = torch.where(level.abs() < 1e-6, -1e-6, level)
    solid = ((level > 0) & ~grid.border).cpu().numpy()
    edges, border = grid.edges.cpu().numpy(), grid.border.cpu().numpy()
    if not solid.any():
        return None
    piece = _pieces(solid, edges)
    size = np.bincount(piece[solid], minlength=len(solid))
    solid &= (size >= SPECK * size.max())[piece]
    piece = _pieces(~solid, edges)
    solid |= ~np.isin(piece, np.unique(piece[border]))
    keep = torch.from_numpy(solid).to(level.device)
    changed = keep != (level > 0)
    return torch.where(changed, torch.where(keep, reach, -reach), level)


def _pieces(mask: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """[N] int labels of the graph's pieces when only edges within the mask [N] bool hold."""
    a, b = edges[mask[edges[:, 0]] & mask[edges[:, 1]]].T
    graph = coo_matrix((np.ones(len(a), np.int8), (a, b)), shape=(len(mask), len(mask)))
    return connected_components(graph, directed=False)[1]


def surface_distance(points: Tensor, mesh: Mesh, limit: float) -> Tensor:
    """[N] unsigned distance, metres, from points [N,3] to the mesh, at most `limit`.

    Exact up to about a triangle's size from the surface; farther away it is that to the nearest
    triangle's centre.
    """
    at = points.detach().cpu().double().numpy()
    corners = mesh.v_pos.detach().cpu().double().numpy()[mesh.t_pos_idx.cpu().numpy()]
    centre = corners.mean(1)
    size = float(np.linalg.norm(corners - centre[:, None], axis=2).max())
    tree = cKDTree(centre)
    distance = np.minimum(tree.query(at, distance_upper_bound=limit)[0], limit)
    close = np.flatnonzero(distance < 2 * size)
    for some in np.array_split(close, 1 + len(close) // 2**15):
        _, face = tree.query(at[some], k=[*range(1, min(NEIGHBOURS, len(centre)) + 1)])
        distance[some] = _triangle_distance(at[some, None], *np.moveaxis(corners[face], 2, 0)).min(1)
    return torch.from_numpy(np.minimum(distance, limit)).to(points)


def _triangle_distance(p: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Distances [...] between points and triangles [...,3]."""
    normal = np.cross(b - a, c - a)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-30)
    above = np.ones(np.broadcast_shapes(p.shape, a.shape)[:-1], bool)
    to_edges = np.full(above.shape, np.inf)
    for start, end in ((a, b), (b, c), (c, a)):
        edge, to_p = end - start, p - start
        above &= (np.cross(edge, to_p) * normal).sum(-1) >= 0
        share = (to_p * edge).sum(-1) / np.maximum((edge * edge).sum(-1), 1e-30)
        offset = to_p - np.clip(share, 0, 1)[..., None] * edge
        to_edges = np.minimum(to_edges, np.linalg.norm(offset, axis=-1))
    return np.where(above, np.abs(((p - a) * normal).sum(-1)), to_edges)


def _agreement(mesh: Mesh, seen: Seen) -> tuple[float, float]:
    """Mean IoU of the silhouettes; mean metres between the surface and what is seen where the field is opaque."""
    camera = seen.camera.resized(*seen.silhouettes.shape[1:])
    corners, cross = torch.nn.functional.pad(mesh.v_pos, (0, 1), value=1.0), face_cross(mesh)
    total, apart = 0.0, []
    for i, (mvp, target) in enumerate(zip(camera.mvp, seen.silhouettes, strict=True)):
        ids = rasterize_ids(corners @ mvp.T, mesh.t_pos_idx, camera.height, camera.width)
        mask = (ids >= 0).to(target.dtype)
        both, either = torch.minimum(mask, target).sum(), torch.maximum(mask, target).sum()
        total += float(both / either.clamp(min=1e-6))
        solid = (ids >= 0) & (target > OPAQUE)
        origins, directions = (of_all[0][solid] for of_all in rays(camera[i : i + 1]))
        face = ids[solid].long()
        corner, across = mesh.v_pos[mesh.t_pos_idx[face, 0]], cross[face]
        found = ((corner - origins) * across).sum(-1) / (directions * across).sum(-1)  # to the face's plane
        apart.append((found - seen.distances[i][solid]).abs().nan_to_num(FAR).clamp(max=FAR))
    of_pixels = torch.cat(apart)
    return total / len(seen.silhouettes), float(of_pixels.mean()) if len(of_pixels) else FAR


def _empty() -> SceneError:
    return SceneError(
        "The first stage left no shape to make a mesh of.", "Try another seed or more iterations."
    )


def _top(density: Tensor) -> float:
    """A density that the object's inside reaches, ignoring the last thousandth's spikes."""
    top = float(torch.quantile(density[:: max(1, len(density) // 2**20)].float(), 0.999))
    if not top > 0 or not math.isfinite(top):
        raise _empty()
    return top


def _geometric(first: float, last: float, count: int) -> list[float]:
    return [first * (last / first) ** (i / (count - 1)) for i in range(count)]


def _in_chunks(function: Callable[[Tensor], Tensor], points: Tensor, size: int = 2**16) -> Tensor:
    return torch.cat([function(chunk) for chunk in points.split(size)])
