"""A coarse coloured mesh of a run that goes on, for a viewport. It draws nothing and changes nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import fast_simplification
import numpy as np
import torch

from backend.errors import SceneError
from backend.files import write_bytes
from backend.scene.isosurface import marching_tetrahedra, tetrahedral_grid
from backend.scene.mesh import Mesh
from backend.scene.scene import Scene, detached, surface
from dreamflow_blender.contract import meshfile

CELLS = 24  # along the box's side, for a field
HALF_OPAQUE = 14.0  # per metre: 5 cm of it let half of the light through


@torch.no_grad()
def with_current_surface(scene: Scene, stage: str) -> Scene:
    """The scene with the surface that `stage` is working on; only geometry's mesh moves while it runs."""
    if stage != "geometry" or scene.sdf is None:
        return scene
    try:
        return dataclasses.replace(scene, mesh=detached(surface(scene)))
    except SceneError:  # it has vanished for the moment
        return scene


@torch.no_grad()
def coarse_mesh(scene: Scene, max_faces: int) -> meshfile.SnapshotArrays:
    """At most about `max_faces` triangles. Raises SceneError where there is nothing to see yet."""
    mesh = _isosurface(scene) if scene.mesh is None else scene.mesh
    v, t = mesh.v_pos.cpu().numpy(), mesh.t_pos_idx.cpu().numpy().astype(np.int32)
    if len(t) > max_faces:
        v, t = fast_simplification.simplify(v, t, target_count=max_faces)[:2]
        v = np.asarray(v, np.float32)
    colour = scene.field.albedo(torch.from_numpy(v).to(mesh.v_pos.device))
    return meshfile.SnapshotArrays(v, np.asarray(t, np.int32), colour.cpu().numpy())


def write_snapshot(path: Path, scene: Scene, max_faces: int) -> None:
    """Raises SceneError and DiskError."""
    write_bytes(path, meshfile.to_bytes(coarse_mesh(scene, max_faces)))


def _isosurface(scene: Scene) -> Mesh:
    """Where the field is dense, or half as dense as it gets while it is still thin."""
    half, device = scene.field.extent, scene.field.table.device
    grid = tetrahedral_grid(CELLS, (-half,) * 3, (half,) * 3).to(device)
    density = torch.cat([scene.field.density(chunk) for chunk in grid.vertices.split(2**17)])
    threshold = min(HALF_OPAQUE, 0.5 * float(density.max()))
    level = (density.clamp(min=1e-6) / max(threshold, 1e-6)).log().clamp(-2, 2)
    return marching_tetrahedra(grid.vertices, torch.where(grid.border, level.clamp(max=-0.1), level), grid)
