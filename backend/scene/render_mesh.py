"""Rasterisation: mesh + camera -> RenderOutput. Differentiable in vertices and in the colours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from backend.kernels import rasterize_ids
from backend.kernels.raster import Fragments, depth_image, fragments, interpolate, scatter
from backend.kernels.silhouette import Edges, antialias
from backend.scene.camera import Camera, RenderOutput
from backend.scene.mesh import Mesh, vertex_normals

# a view's fragments and camera-to-world matrix [4,4] to RGB [P,3]
Shade = Callable[[Fragments, Tensor], Tensor]


def clip_positions(v_pos: Tensor, camera: Camera) -> Tensor:
    """[V,4] clip positions of v_pos [V,3] in the one view of `camera`."""
    assert len(camera) == 1, "views are drawn one by one"
    return F.pad(v_pos, (0, 1), value=1.0) @ camera.mvp[0].T


def _shade(
    mesh: Mesh,
    edges: Edges | None,
    camera: Camera,
    background: Tensor,
    colour: Shade,
) -> RenderOutput:
    """All views, one after the other.

    background  [3], or [B*H*W,3] of all views' pixels
    edges       None leaves silhouettes without antialiasing (no gradient to the outline)
    """
    pixels = camera.height * camera.width
    views = []
    for i in range(len(camera)):
        here = background if background.ndim == 1 else background[i * pixels : (i + 1) * pixels]
        views.append(_shade_view(mesh, edges, camera[i : i + 1], here, colour))
    if len(views) == 1:
        return views[0]
    return RenderOutput(torch.cat([v.image for v in views]), torch.cat([v.opacity for v in views]))


def _shade_view(
    mesh: Mesh,
    edges: Edges | None,
    camera: Camera,
    background: Tensor,
    colour: Shade,
) -> RenderOutput:
    """One view."""
    height, width = camera.height, camera.width
    clip = clip_positions(mesh.v_pos, camera)
    ids = rasterize_ids(clip.detach(), mesh.t_pos_idx, height, width)
    frags = fragments(clip, mesh.t_pos_idx, ids)
    rgba = F.pad(colour(frags, camera.c2w[0]), (0, 1), value=1.0)
    behind = F.pad(background, (0, 1), value=0.0).expand(height * width, 4)
    image = scatter(rgba, frags, behind)
    if edges is not None:
        image = antialias(image, depth_image(frags), clip, mesh.t_pos_idx, edges)
    return RenderOutput(image[None, ..., :3], image[None, ..., 3:])


def render_colour(
    mesh: Mesh,
    edges: Edges | None,
    camera: Camera,
    background: Tensor,
    colour: Callable[[Tensor], Tensor],
) -> RenderOutput:
    """The unlit colour of B views. background [3]; colour maps positions [N,3] to RGB [N,3]."""
    return _shade(
        mesh,
        edges,
        camera,
        background,
        lambda frags, c2w: colour(interpolate(mesh.v_pos, mesh.t_pos_idx, frags)),
    )


def render_texture(
    mesh: Mesh,
    edges: Edges | None,
    camera: Camera,
    background: Tensor,
    sample: Callable[[Tensor], Tensor],
) -> RenderOutput:
    """The unlit texture of B views; sample maps UVs [N,2] to RGB [N,3]. The mesh must have UVs."""
    assert mesh.v_tex is not None and mesh.t_tex_idx is not None, "unwrap before rendering a texture"
    v_tex, t_tex_idx = mesh.v_tex, mesh.t_tex_idx
    return _shade(
        mesh,
        edges,
        camera,
        background,
        lambda frags, c2w: sample(interpolate(v_tex, t_tex_idx, frags)),
    )


def render_normals(
    mesh: Mesh,
    edges: Edges | None,
    camera: Camera,
    background: Tensor,
) -> RenderOutput:
    """Camera-space normals of B views, encoded (n + 1) / 2: x right, y up, z towards the camera."""
    normals = vertex_normals(mesh)

    def encode(frags: Fragments, c2w: Tensor) -> Tensor:
        return F.normalize(interpolate(normals @ c2w[:3, :3], mesh.t_pos_idx, frags), dim=-1) * 0.5 + 0.5

    return _shade(mesh, edges, camera, background, encode)


@torch.no_grad()
def render_shape(mesh: Mesh, camera: Camera) -> Tensor:
    """[B,H,W,4] of B views: depth along the view in metres, infinite where nothing is, and the normals in camera space
    (x right, y up, z towards the camera), zero there."""
    normals, views = vertex_normals(mesh), []
    for i in range(len(camera)):
        one = camera[i : i + 1]
        c2w, clip = one.c2w[0], clip_positions(mesh.v_pos, one)
        ids = rasterize_ids(clip, mesh.t_pos_idx, one.height, one.width)
        frags = fragments(clip, mesh.t_pos_idx, ids)
        depth = (c2w[:3, 3] - mesh.v_pos) @ c2w[:3, 2:3]
        seen = interpolate(torch.cat((depth, normals @ c2w[:3, :3]), 1), mesh.t_pos_idx, frags)
        seen = torch.cat((seen[:, :1], F.normalize(seen[:, 1:], dim=-1)), 1)
        nothing = seen.new_zeros(one.height * one.width, 4)
        nothing[:, 0] = torch.inf
        views.append(scatter(seen, frags, nothing))
    return torch.stack(views)


def render_shaded(mesh: Mesh, edges: Edges | None, camera: Camera, background: Tensor) -> RenderOutput:
    """Grey clay pictures of B views, lit from the camera's upper left: for people, not for training."""
    light = F.normalize(torch.tensor([-0.4, 0.5, 0.8], device=mesh.v_pos.device), dim=0)
    normals = vertex_normals(mesh)

    def clay(frags: Fragments, c2w: Tensor) -> Tensor:
        lambert = F.normalize(interpolate(normals @ c2w[:3, :3], mesh.t_pos_idx, frags), dim=-1) @ light
        return (0.25 + 0.6 * lambert.clamp(min=0))[:, None].expand(-1, 3)

    return _shade(mesh, edges, camera, background, clay)
