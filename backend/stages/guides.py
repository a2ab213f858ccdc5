"""The prior's side of a stage.

Stage 1 shows normal maps for a share of its updates: what colours cannot tell, a vessel's inside, normals can. A
filled mug whose lid is painted like an inside differs from a hollow one by 2 in colours and by 100 in normal maps
(squared error a view, docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from backend.diffusion.prior import Prior, PriorSpec
from backend.diffusion.schedule import NoiseLevel, noise_levels
from backend.draws import draw_on_host
from backend.kernels.silhouette import edge_table
from backend.scene.camera import Camera, rings_of
from backend.scene.mesh import Mesh, face_normals, surface_points
from backend.scene.render_mesh import render_normals
from backend.sides.views import SixSides
from backend.stages.apfo import Denoiser, FittedDenoiser
from backend.texture.mask import seen

# cameras that are drawn for a normal map, so that a prior that knows views from above shows them
HIGHEST_OF = 8
JUDGED = 16  # views by which a surface is judged
JUDGED_AT = 0.6  # the noise in them, as t
POINTS = 20_000  # of a surface, by which it is said what cameras see of it
GRAZING = 0.1  # cosine: a surface that is seen flatter than so is not seen


@dataclass(frozen=True)
class Guide:
    """A prior and what it was told to look for."""

    prior: Prior
    conditioning: Any  # what the prior has prepared for the prompt
    guidance_scale: float
    guidance_rescale: float = 0.0
    still: PriorSpec | None = None  # what holds for the mesh that it textures; None: none stands still
    shows_normals = False  # beside colours, as NormalsSometimes does

    @property
    def spec(self) -> PriorSpec:
        """What the prior wants to be shown."""
        return self.still or self.prior.spec

    @property
    def denoise(self) -> Denoiser:
        """D_p(z) for this prompt."""
        return partial(
            self.prior.denoise,
            conditioning=self.conditioning,
            guidance_scale=self.guidance_scale,
            guidance_rescale=self.guidance_rescale,
        )

    def camera(self, generator: Generator, size: int) -> Camera:
        """A ring, or a view, of the prior's poses."""
        return rings_of(self.spec.poses.sample(generator, 1, size, size), self.spec.frames)


def standing(spec: PriorSpec, mesh: Mesh) -> PriorSpec:
    """What a prior wants to be shown of a mesh that stands still: six sides as often as it takes to see it."""
    still = spec.still or spec
    if not isinstance(still.poses, SixSides):
        return still
    points, face = surface_points(mesh, POINTS, 0)
    points, normals = points.to(mesh.v_pos), face_normals(mesh)[face.to(mesh.v_pos.device)]

    def sees(cameras: Camera) -> Tensor:
        found = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        for i in range(len(cameras)):
            one = cameras[i : i + 1].to(points.device)
            found |= seen(points, mesh, one) & ((normals @ one.c2w[0, :3, 2]).abs() > GRAZING)
        return found

    return replace(still, poses=still.poses.around(sees))


def normals_error(g: Guide, size: int, generator: Generator) -> Callable[[Mesh], float]:
    """How far a surface's normal maps are from what the prior makes of them: the mean of |D_p(x + sigma n) - x|^2.

    Always by the same cameras, which look into things, and the same noise.

    g          told to look for normals
    size       pixels a side
    generator  draws the cameras and the noise
    """
    device, seed = generator.device, generator.initial_seed()
    drawn = [_highest(g.spec, HIGHEST_OF, generator, size) for _ in range(max(1, JUDGED // g.spec.frames))]
    rings = [rings_of(one, g.spec.frames) for one in drawn]
    background = torch.tensor(g.spec.normal_background, device=device)
    (level,) = noise_levels(JUDGED_AT, 0.0, 1)

    @torch.no_grad()
    def error_of(mesh: Mesh) -> float:
        edges, total = edge_table(mesh.t_pos_idx, len(mesh.v_pos)), 0.0
        for i, ring in enumerate(rings):
            x = g.prior.encode(render_normals(mesh, edges, ring, background).image)
            noise = torch.Generator(device).manual_seed(seed + i)
            z = x + level.sigma * torch.randn(x.shape, generator=noise, device=device)
            total += float((g.denoise(z, level, ring) - x).square().mean())
        return total / len(rings)

    return error_of


def _highest(spec: PriorSpec, of: int, generator: Generator, size: int) -> Camera:
    """The highest of so many cameras of the prior's poses."""
    drawn = spec.poses.sample(generator, of, size, size)
    highest = drawn.elevation.argmax().reshape(1)
    return Camera(drawn.c2w.index_select(0, highest), drawn.proj.index_select(0, highest), size, size)


@dataclass
class NormalsSometimes:
    """Two guides as one: that of colours, and for a share of the updates that of normal maps.

    An update begins with `camera`, which decides what it shows.
    """

    colours: Guide
    normals: Guide
    share: float  # of the updates, in (0, 1]
    shows_normals: bool = False

    @property
    def prior(self) -> Prior:
        return self.colours.prior

    @property
    def spec(self) -> PriorSpec:
        return self.prior.spec

    @property
    def conditioning(self) -> Any:
        """What D_phi is told: it learns colours alone."""
        return self.colours.conditioning

    def camera(self, generator: Generator, size: int) -> Camera:
        """A ring, or a view, of the prior's poses; for normals the highest of a few, which looks into things."""
        self.shows_normals = draw_on_host(generator) < self.share
        one = _highest(self.prior.spec, HIGHEST_OF if self.shows_normals else 1, generator, size)
        return rings_of(one, self.prior.spec.frames)

    def denoise(self, z: Tensor, level: NoiseLevel, camera: Camera) -> Tensor:
        """D_p(z) of what this update shows."""
        return (self.normals if self.shows_normals else self.colours).denoise(z, level, camera)


@dataclass
class PhiOfColours:
    """D_phi, which knows colours alone: of normal maps D_phi(x) = x, as in stage 2a (section D.1)."""

    phi: FittedDenoiser
    views: NormalsSometimes
    x: Tensor | None = None  # the render of this update, where it is a normal map

    def fit(self, x: Tensor, level: NoiseLevel, camera: Camera, generator: Generator) -> Tensor:
        """Nothing is learnt from a normal map."""
        self.x = x.detach() if self.views.shows_normals else None
        return x.new_zeros(()) if self.x is not None else self.phi.fit(x, level, camera, generator)

    def __call__(self, z: Tensor, level: NoiseLevel, camera: Camera) -> Tensor:
        return self.phi(z, level, camera) if self.x is None else self.x
