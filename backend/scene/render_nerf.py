"""Volume rendering: field + camera -> RenderOutput."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from backend.kernels import march_rays
from backend.kernels.march import Samples, composite
from backend.scene.camera import Camera, RenderOutput, rays
from backend.scene.field import Backdrop, Field, Occupancy


@dataclass(frozen=True)
class Sampling:
    """How a ray is sampled."""

    samples: int  # along the box's diagonal (the paper's 512)
    budget: int  # most samples of one view, whatever the occupancy
    near: float  # metres round the camera that stay empty, against floaters
    orientation_points: int  # samples of a view that the orientation loss looks at


def render_nerf(
    field: Field,
    occupancy: Occupancy,
    camera: Camera,
    background: Tensor | Backdrop,
    sampling: Sampling,
    generator: Generator | None = None,
) -> RenderOutput:
    """Render B views. background: [3] RGB or the background network.

    With a generator, samples are jittered along the rays and the orientation loss is computed; without
    one (previews) the render draws nothing and is the same every time.
    """
    origins, directions = (r.reshape(-1, 3) for r in rays(camera))
    budget = sampling.budget * len(camera)
    samples = march_rays(
        origins, directions, occupancy.cells, field.extent, sampling.near, sampling.samples, generator, budget
    )
    points = samples.points(origins, directions)
    features = field.features(points)
    density, albedo = field.density(points, features), field.albedo(points, features)
    opacity, colour, depth, weights = composite(density, albedo, samples)
    behind = background(directions) if isinstance(background, Backdrop) else background
    image = colour + (1 - opacity) * behind
    orientation = None
    if generator is not None and sampling.orientation_points:
        orientation = orientation_loss(
            field, points, directions, samples, weights, sampling.orientation_points * len(camera), generator
        ) / len(camera)
    shape = (len(camera), camera.height, camera.width)
    distance = None if generator is not None else (depth / opacity.clamp(min=1e-6)).view(*shape, 1)
    return RenderOutput(image.view(*shape, 3), opacity.view(*shape, 1), orientation, distance)


def render_field_normals(
    field: Field,
    occupancy: Occupancy,
    camera: Camera,
    background: Tensor,
    sampling: Sampling,
    generator: Generator | None = None,
) -> RenderOutput:
    """Camera-space normals of B views, encoded (n + 1) / 2 as render_mesh.render_normals, before background [3].

    Every sample has a normal, from the density round it, and they are composited as colours are: what a ray shows is
    the mean over all that it sees, so gradients reach the density behind the surface as well as the surface's own.
    """
    origins, directions = (r.reshape(-1, 3) for r in rays(camera))
    samples = march_rays(
        origins,
        directions,
        occupancy.cells,
        field.extent,
        sampling.near,
        sampling.samples,
        generator,
        sampling.budget * len(camera) // 4,  # a normal takes four look-ups: as many as colours in all
    )
    density, normal = field.density_and_normal(samples.points(origins, directions), difference_step(field))
    view = samples.ray // (camera.height * camera.width)
    seen = torch.einsum("si,sij->sj", normal, camera.c2w[:, :3, :3].index_select(0, view))
    opacity, encoded, _, _ = composite(density, seen * 0.5 + 0.5, samples)
    shape = (len(camera), camera.height, camera.width)
    image = encoded + (1 - opacity) * background
    return RenderOutput(image.view(*shape, 3), opacity.view(*shape, 1))


def difference_step(field: Field) -> float:
    """Metres over which the density's gradient is taken: a cell of the finest grid, and at least a millimetre."""
    return max(2 * field.extent / field.layout.finest, 1e-3)


def orientation_loss(
    field: Field,
    points: Tensor,
    directions: Tensor,
    samples: Samples,
    weights: Tensor,
    count: int,
    generator: Generator,
) -> Tensor:
    """Visible surfaces that face away from the camera (Ref-NeRF, Eq. 11), the sum over a view's rays.

    Estimated on `count` random samples: each costs four more field queries, and the mean over samples
    times their number is unbiased.
    """
    total = len(points)
    if total == 0:
        return weights.sum()
    chosen = torch.randint(total, (min(count, total),), generator=generator, device=points.device)
    _, normals = field.density_and_normal(points[chosen], difference_step(field))
    away = (normals * directions[samples.ray[chosen]]).sum(-1).clamp(min=0)
    # only normals are moved: with the weights free, it thins the surface instead
    weight = weights.detach()[chosen]
    return (weight * away.square()).sum() * (total / len(chosen))


@torch.no_grad()
def render_views(
    field: Field, occupancy: Occupancy, camera: Camera, background: Tensor, sampling: Sampling
) -> RenderOutput:
    """Like `render_nerf`, one view at a time, without gradients or randomness: for pictures and measures."""
    outputs = [
        render_nerf(field, occupancy, camera[i : i + 1], background, sampling) for i in range(len(camera))
    ]
    image, opacity = torch.cat([o.image for o in outputs]), torch.cat([o.opacity for o in outputs])
    return RenderOutput(
        image, opacity, None, torch.cat([o.distance for o in outputs if o.distance is not None])
    )
