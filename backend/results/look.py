"""Pictures of a scene as a person would look at it: previews, contact sheets, turntables."""

from __future__ import annotations

import torch
from torch import Tensor

from backend.kernels.silhouette import edge_table
from backend.scene.camera import Camera, look_out, orbit
from backend.scene.mesh import Mesh
from backend.scene.render_mesh import render_colour, render_shaded, render_texture
from backend.scene.render_nerf import render_views
from backend.scene.scene import Scene
from backend.texture.bake import sample_texture

# degrees, metres, degrees: an object of radius 0.5 fills the frame
ELEVATION, DISTANCE, FOV = 15.0, 1.5, 45.0
WITHIN_FOV = 75.0  # degrees: from the middle of a scene
BELOW = -60.0  # degrees: from where an underside is seen
BACKGROUND = 0.92  # a light grey, on which no colour of ours disappears


def turntable_cameras(
    count: int, size: int, device: torch.device | str, first: float = 0.0, elevation: float = ELEVATION
) -> Camera:
    """`count` views in a circle, from azimuth `first` (degrees) onwards."""
    azimuth = first + torch.arange(count, device=device) * (360.0 / count)
    same = torch.ones(count, device=device)
    return orbit(azimuth, elevation * same, DISTANCE * same, FOV * same, size, size)


def cameras_round(
    scene: Scene, count: int, size: int, first: float = 0.0, elevation: float = ELEVATION
) -> Camera:
    """`count` views of an object in a circle, or from the middle of a scene all round; on its device."""
    device = scene.field.table.device
    if not scene.field.inside_out:
        return turntable_cameras(count, size, device, first, elevation)
    azimuth = first + torch.arange(count, device=device) * (360.0 / count)
    same = torch.ones(count, device=device)
    return look_out(
        azimuth, -elevation * same, torch.zeros(count, 3, device=device), WITHIN_FOV * same, size, size
    )


@torch.no_grad()
def render_scene(scene: Scene, cameras: Camera, background: Tensor) -> Tensor:
    """[B,H,W,3]: the field while there is no mesh, then the mesh in the field's colours."""
    if scene.mesh is None:
        return render_views(scene.field, scene.occupancy, cameras, background, scene.sampling).image
    edges = edge_table(scene.mesh.t_pos_idx, len(scene.mesh.v_pos))
    return render_colour(scene.mesh, edges, cameras, background, scene.field.albedo).image


@torch.no_grad()
def render_clay(mesh: Mesh, cameras: Camera, background: Tensor) -> Tensor:
    """[B,H,W,3]: the shape alone, in shaded grey."""
    return render_shaded(mesh, edge_table(mesh.t_pos_idx, len(mesh.v_pos)), cameras, background).image


@torch.no_grad()
def render_textured(mesh: Mesh, albedo: Tensor, cameras: Camera, background: Tensor) -> tuple[Tensor, Tensor]:
    """Image [B,H,W,3] and opacity [B,H,W,1] of what is delivered: the mesh under its texture [S,S,3]."""
    edges = edge_table(mesh.t_pos_idx, len(mesh.v_pos))
    out = render_texture(mesh, edges, cameras, background, lambda uv: sample_texture(albedo, uv))
    return out.image, out.opacity
