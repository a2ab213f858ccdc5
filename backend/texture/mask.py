"""How much each point of the surface may change: the artist's weights, softened where they end, and what is seen."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from backend.kernels import rasterize_ids
from backend.kernels.raster import depth_image, fragments
from backend.scene.camera import Camera
from backend.scene.mesh import Mesh
from backend.scene.render_mesh import clip_positions

WIDTH = 0.04  # metres of the placed object: over so much the change fades in
SHARE = 0.4  # at most this much of the way to the middle of what may change
SPACING = 0.004  # metres between the points that stand for a border
# metres that a point may be behind what a camera sees and still be seen: coarse pixels, flat views
NEAR = 0.008


def border(
    v_pos: NDArray[np.float32], tri: NDArray[np.int64], kept: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """[N,3] points along the edges where kept [F] faces meet others. Corners in one place count as one."""
    _, weld = np.unique(v_pos + np.float32(0), axis=0, return_inverse=True)
    tri = weld.reshape(-1)[tri]
    ends = np.concatenate((tri[:, [0, 1]], tri[:, [1, 2]], tri[:, [2, 0]]))
    low, high = ends.min(1), ends.max(1)
    of_kept = np.tile(kept, 3)
    key = low * (int(tri.max(initial=0)) + 1) + high
    unique, which = np.unique(key, return_inverse=True)
    which = which.reshape(-1)
    some_kept = np.bincount(which, of_kept, len(unique)) > 0
    some_free = np.bincount(which, ~of_kept, len(unique)) > 0
    rows = np.zeros(len(unique), np.int64)
    rows[which] = np.arange(len(key))
    rows = rows[some_kept & some_free]
    if not len(rows):
        return np.zeros((0, 3), np.float32)
    place = np.zeros((int(weld.max()) + 1, 3), np.float32)
    place[weld.reshape(-1)] = v_pos
    a, b = place[low[rows]], place[high[rows]]
    count = np.ceil(np.linalg.norm(b - a, axis=1) / SPACING).astype(np.int64) + 1
    edge = np.repeat(np.arange(len(rows)), count + 1)
    nth = np.arange(len(edge)) - np.repeat(np.cumsum(count + 1) - (count + 1), count + 1)
    share = (nth / count[edge])[:, None].astype(np.float32)
    return a[edge] * (1 - share) + b[edge] * share


def to_border(points: Tensor, edge: NDArray[np.float32]) -> Tensor:
    """[P] metres from points [P,3] to the nearest of the border's [N,3]; inf where there is no border."""
    if not len(edge):
        return torch.full((len(points),), torch.inf, device=points.device)
    distance, _ = cKDTree(edge).query(points.cpu().numpy())
    return torch.from_numpy(distance.astype(np.float32)).to(points.device)


def fade(distance: Tensor) -> Tensor:
    """[P] from 0 at the border to 1 well within, by the distances [P] of all that may change."""
    if not len(distance):
        return distance
    width = min(WIDTH, SHARE * float(distance.max()))
    share = (distance / max(width, 1e-9)).clamp(0, 1)
    return share * share * (3 - 2 * share)


@torch.no_grad()
def seen(points: Tensor, mesh: Mesh, cameras: Camera) -> Tensor:
    """[P] bool: which of the surface's points [P,3] some camera sees, from either side."""
    found = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    height, width = cameras.height, cameras.width
    for i in range(len(cameras)):
        left = (~found).nonzero()[:, 0]
        if not len(left):
            break
        camera = cameras[i : i + 1]
        clip = clip_positions(mesh.v_pos, camera)
        frags = fragments(clip, mesh.t_pos_idx, rasterize_ids(clip, mesh.t_pos_idx, height, width))
        behind = _distance(depth_image(frags), camera)
        at = clip_positions(points[left], camera)
        ahead = (camera.position - points[left]) @ camera.c2w[0, :3, 2]  # metres
        x = ((at[:, 0] / at[:, 3] + 1) / 2 * width).floor().long()
        y = ((at[:, 1] / at[:, 3] + 1) / 2 * height).floor().long()
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (ahead > 0)
        pixel = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
        found[left] = inside & (ahead <= behind.flatten()[pixel] + NEAR)
    return found


def _distance(depth: Tensor, camera: Camera) -> Tensor:
    """Metres along the camera's axis, from z/w; inf stays inf."""
    (a, b), (c, d) = camera.proj[0, 2:, 2:]  # depth = (b - a distance) / (d - c distance)
    return torch.where(depth.isfinite(), (b - d * depth) / (a - c * depth), torch.inf)
