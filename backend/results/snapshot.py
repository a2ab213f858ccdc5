"""A coarse coloured mesh of a run that goes on, for a viewport. It draws nothing and changes nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import fast_simplification
import numpy as np
import torch

from backend.errors import SceneError
from backend.files import write_bytes
from backend.scene.scene import Scene, dense_surface, detached, surface
from dreamflow_blender.contract import meshfile

CELLS = 24  # along the box's side, for a field


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
    mesh = dense_surface(scene, CELLS) if scene.mesh is None else scene.mesh
    v, t = mesh.v_pos.cpu().numpy(), mesh.t_pos_idx.cpu().numpy().astype(np.int32)
    if len(t) > max_faces:
        v, t = fast_simplification.simplify(v, t, target_count=max_faces)[:2]
        v = np.asarray(v, np.float32)
    colour = scene.field.albedo(torch.from_numpy(v).to(mesh.v_pos.device))
    return meshfile.SnapshotArrays(v, np.asarray(t, np.int32), colour.cpu().numpy())


def write_snapshot(path: Path, scene: Scene, max_faces: int) -> None:
    """Raises SceneError and DiskError."""
    write_bytes(path, meshfile.to_bytes(coarse_mesh(scene, max_faces)))
