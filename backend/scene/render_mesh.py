"""Rasterisation: mesh + camera -> RenderOutput. Differentiable in vertices and in the colours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from backend.kernels.raster import Fragments, depth_image, fragments, interpolate, scatter
from backend.kernels.silhouette import Edges, antialias
from backend.scene.camera import Camera, RenderOutput
from backend.scene.mesh import Mesh, vertex_normals

RasterizeIds = Callable[[Tensor, Tensor, int, int], Tensor]


def clip_positions(v_pos: Tensor, camera: Camera) -> Tensor:
    """[V,4] clip positions of v_pos [V,3] in the one view of `camera`."""
    return F.pad(v_pos, (0, 1), value=1.0) @ camera.mvp[0].T


def _shade(
    mesh: Mesh,
    edges: Edges | None,
    camera: Camera,
    rasterize_ids: RasterizeIds,
    background: Tensor,
    colour: Callable[[Fragments], Tensor],
) -> RenderOutput:
    """One view; `edges` None leaves silhouettes without antialiasing (no gradient to the outline)."""
    height, width = camera.height, camera.width
    clip = clip_positions(mesh.v_pos, camera)
    ids = rasterize_ids(clip.detach(), mesh.t_pos_idx, height, width)
    frags = fragments(clip, mesh.t_pos_idx, ids)
    rgba = F.pad(colour(frags), (0, 1), value=1.0)
    behind = F.pad(background, (0, 1), value=0.0).expand(height * width, 4)
    image = scatter(rgba, frags, behind)
    if edges is not None:
        image = antialias(image, depth_image(frags), clip, mesh.t_pos_idx, edges)
    return RenderOutput(image[None, ..., :3], image[None, ..., 3:])


def render_colour(
    mesh: Mesh,
    edges: Edges | None,
    camera: Camera,
    rasterize_ids: RasterizeIds,
    background: Tensor,
    colour: Callable[[Tensor], Tensor],
) -> RenderOutput:
    """The unlit colour of one view. background [3]; colour maps positions [N,3] to RGB [N,3]."""
    return _shade(
        mesh,
        edges,
        camera,
        rasterize_ids,
        background,
        lambda frags: colour(interpolate(mesh.v_pos, mesh.t_pos_idx, frags)),
    )


def render_texture(
    mesh: Mesh,
    edges: Edges | None,
    camera: Camera,
    rasterize_ids: RasterizeIds,
    background: Tensor,
    sample: Callable[[Tensor], Tensor],
) -> RenderOutput:
    """The unlit texture of one view; sample maps UVs [N,2] to RGB [N,3]. The mesh must have UVs."""
    assert mesh.v_tex is not None and mesh.t_tex_idx is not None, "unwrap before rendering a texture"
    v_tex, t_tex_idx = mesh.v_tex, mesh.t_tex_idx
    return _shade(
        mesh,
        edges,
        camera,
        rasterize_ids,
        background,
        lambda frags: sample(interpolate(v_tex, t_tex_idx, frags)),
    )


def render_normals(
    mesh: Mesh,
    edges: Edges | None,
    camera: Camera,
    rasterize_ids: RasterizeIds,
    background: Tensor,
) -> RenderOutput:
    """Camera-space normals of one view, encoded (n + 1) / 2: x right, y up, z towards the camera."""
    normals = vertex_normals(mesh) @ camera.c2w[0, :3, :3]

    def encode(frags: Fragments) -> Tensor:
        return F.normalize(interpolate(normals, mesh.t_pos_idx, frags), dim=-1) * 0.5 + 0.5

    return _shade(mesh, edges, camera, rasterize_ids, background, encode)


def render_shaded(
    mesh: Mesh, edges: Edges | None, camera: Camera, rasterize_ids: RasterizeIds, background: Tensor
) -> RenderOutput:
    """A grey clay picture of one view, lit from the camera's upper left: for people, not for training."""
    light = F.normalize(torch.tensor([-0.4, 0.5, 0.8], device=mesh.v_pos.device), dim=0)
    normals = vertex_normals(mesh) @ camera.c2w[0, :3, :3]

    def clay(frags: Fragments) -> Tensor:
        lambert = F.normalize(interpolate(normals, mesh.t_pos_idx, frags), dim=-1) @ light
        return (0.25 + 0.6 * lambert.clamp(min=0))[:, None].expand(-1, 3)

    return _shade(mesh, edges, camera, rasterize_ids, background, clay)
