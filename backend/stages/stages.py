"""The four stages: where the object and the prior meet, and the only place where they do.

Each function builds a `Stage`, whose `steps(start)` goes through its noise levels. What a stage learns
stays in the `Scene` (scene/scene.py), which the next one continues with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from backend.config import UNLEARNT, GeometryStage, NerfStage, StageSchedule, TextureStage
from backend.diffusion.noise import Carried, DrawNoise, OnSurface, fresh
from backend.diffusion.prior import Phi, PriorSpec
from backend.draws import draw_on_host
from backend.errors import SceneError
from backend.kernels.silhouette import Edges, edge_table
from backend.scene import losses
from backend.scene.camera import Camera, RenderOutput, rays
from backend.scene.field import Backdrop
from backend.scene.mesh import Mesh
from backend.scene.optimizer import adamw, decay
from backend.scene.render_mesh import render_colour, render_normals, render_shape
from backend.scene.render_nerf import render_field_normals, render_nerf
from backend.scene.scene import Scene, detached, settle_colours, surface
from backend.stages.apfo import FittedDenoiser, Step, apfo
from backend.stages.guides import Guide, NormalsSometimes, PhiOfColours, standing
from backend.stages.methods import FittedAnywhere, walk
from backend.stages.update import LatentSpace, PictureSpace

EMPTY, FULL = 0.02, 0.90  # mean opacity of a scene that has gone wrong
LOOK_UNTIL = 200  # iterations in which that is looked for


@dataclass(frozen=True)
class Stage:
    """One stage, ready to run; everything that changes is reachable for a checkpoint."""

    name: str
    schedule: StageSchedule
    optimizer: Optimizer
    phi: Phi | None
    generator: Generator  # all that the stage draws comes from it
    updates: Callable[..., Iterator[Step]]  # apfo(start=...) of this stage
    after: Callable[[Step], None]  # what belongs to an iteration, beside its update
    finish: Callable[[], None]  # what belongs to the stage, after its last iteration

    @property
    def iterations(self) -> int:
        return self.schedule.iterations

    def steps(self, start: int) -> Iterator[Step]:
        """The stage from iteration `start` to its end, with the learning rates' decay."""
        decay(self.optimizer, self.schedule, start)
        for step in self.updates(start=start):
            decay(self.optimizer, self.schedule, step.iteration + 1)
            self.after(step)
            yield step  # last: a checkpoint taken here has the whole iteration
        self.finish()


def sample_background(scene: Scene, spec: PriorSpec, generator: Generator) -> Tensor | Backdrop:
    """Of one view: a random solid colour, or the background network."""
    learned = draw_on_host(generator) < spec.backgrounds.learned_share
    return scene.backdrop if learned else spec.backgrounds.sample_solid(generator)


@torch.no_grad()
def _behind(scene: Scene, spec: PriorSpec, camera: Camera, generator: Generator) -> Tensor:
    """The same behind a mesh: [3], or [B*H*W,3] of the network, which learns nothing there."""
    background = sample_background(scene, spec, generator)
    return background(rays(camera)[1].reshape(-1, 3)) if isinstance(background, Backdrop) else background


def nerf_stage(
    scene: Scene, g: Guide | NormalsSometimes, settings: NerfStage, generator: Generator, seed: int,
    turn: int | None = None,
) -> Stage:  # fmt: skip
    """Stage 1: the field from nothing. SceneError where it turns out empty or full.

    turn  a seed for all that is drawn after half of the schedule, for another object that begins as this one
    """
    field = scene.field
    heads = [*field.density_head.parameters(), *field.colour_head.parameters()]
    optimizer = adamw(
        [
            ([field.table], settings.grid_rate),
            (heads, settings.head_rate),
            (scene.backdrop.parameters(), settings.backdrop_rate),
        ]
    )
    phi = _phi(g, settings, seed)
    fitted = _fitted(phi, settings)
    if fitted is not None and isinstance(g, NormalsSometimes):
        fitted = PhiOfColours(fitted, g)
    normal_background = torch.tensor(g.prior.spec.normal_background, device=field.table.device)

    def render(camera: Camera) -> RenderOutput:
        if g.shows_normals:
            return render_field_normals(
                field, scene.occupancy, camera, normal_background, scene.sampling, generator
            )
        background = sample_background(scene, g.spec, generator)
        return render_nerf(field, scene.occupancy, camera, background, scene.sampling, generator)

    def regularize(out: RenderOutput, iteration: int) -> Tensor:
        total = out.opacity.new_zeros(())
        if out.orientation is not None:
            total = total + settings.orientation * out.orientation
        if iteration >= settings.entropy_from * settings.iterations:
            # Only fog is fought: the weight is the share of what is seen that is neither air nor solid.
            foggy = losses.foggy_share(out.opacity.detach())
            entropy = losses.opacity_entropy(out.opacity) / len(out.opacity)  # of a view, as the loss is
            total = total + settings.entropy * foggy * entropy
        return total

    def after(step: Step) -> None:
        done = step.iteration + 1
        if done % settings.occupancy_every == 0:
            scene.occupancy.update(field, generator)
            if done <= LOOK_UNTIL:
                opacity = float(step.output.opacity.detach().mean())
                scene.mean_opacity += 0.3 * (opacity - scene.mean_opacity)
                _check_opacity(scene, done)
        if turn is not None and done == settings.iterations // 2:
            generator.manual_seed(turn)

    return _stage("nerf", settings, g, phi, render, regularize, optimizer, generator, fitted, after)


def _check_opacity(scene: Scene, iteration: int) -> None:
    mean = scene.mean_opacity
    if mean < EMPTY or (mean > FULL and not scene.field.inside_out):
        word = "empty" if mean < EMPTY else "full"
        raise SceneError(
            f"The scene is {word} after {iteration} iterations (mean opacity {mean:.0%}).",
            "Try another seed or a plainer prompt.",
        )


def _phi(g: Guide | NormalsSometimes, settings: NerfStage | TextureStage, seed: int) -> Phi | None:
    if settings.method in UNLEARNT or settings.phi == "none":
        return None
    if settings.phi == "prior" and not g.prior.spec.lora:
        return None
    warmup = min(settings.lora.warmup, settings.iterations // 10)
    return g.prior.phi(g.conditioning, settings.lora.rank, settings.lora.learning_rate, warmup, seed)


def _fitted(phi: Phi | None, settings: NerfStage | TextureStage) -> FittedDenoiser | None:
    return FittedAnywhere(phi) if phi is not None and settings.phi_level == "random" else phi


def _stage(
    name: str,
    schedule: StageSchedule,
    g: Guide | NormalsSometimes,
    phi: Phi | None,
    render: Callable[[Camera], RenderOutput],
    regularize: Callable[[RenderOutput, int], Tensor],
    optimizer: Optimizer,
    generator: Generator,
    fitted: FittedDenoiser | None = None,
    after: Callable[[Step], None] = lambda step: None,
    finish: Callable[[], None] = lambda: None,
    noise: DrawNoise = fresh,
) -> Stage:
    """APFO with this stage's cameras, prior and target space. fitted: what it fits in place of phi, round it."""
    prior = g.prior
    between_pictures = (prior.spec.target if schedule.target == "prior" else schedule.target) == "pixel"
    levels, views = walk(schedule, generator.initial_seed())
    updates = partial(
        apfo,
        levels,
        views,
        sample_camera=partial(g.camera, generator, schedule.size),
        render=render,
        space=PictureSpace(prior.encode, prior.decode) if between_pictures else LatentSpace(prior.encode),
        prior=g.denoise,
        phi=fitted or phi,
        regularize=regularize,
        optimizer=optimizer,
        generator=generator,
        noise=noise,
    )
    return Stage(name, schedule, optimizer, phi, generator, updates, after, finish)


def geometry_stage(scene: Scene, g: Guide, settings: GeometryStage, generator: Generator) -> Stage:
    """Stage 2a: the shape, from its normal maps, or with its colours from pictures of both.

    D_phi(x) = x, as the paper found (section D.1).
    """
    assert scene.sdf is not None and scene.offsets is not None and scene.grid is not None, "hand over first"
    spacing, field, colours = scene.grid.spacing, scene.field, settings.shows == "colours"
    groups: list[tuple[Iterable[nn.Parameter], float]] = [
        ([scene.sdf], settings.sdf_rate), ([scene.offsets], settings.offset_rate),
    ]  # fmt: skip
    if colours:
        groups += [([field.table], settings.colour_grid_rate)]
        groups += [(field.colour_head.parameters(), settings.colour_head_rate)]
    optimizer = adamw(groups, weight_decay=0.0)
    background = torch.tensor(g.prior.spec.normal_background, device=scene.sdf.device)
    current: list[tuple[Mesh, Edges]] = []

    def render(camera: Camera) -> RenderOutput:
        mesh = surface(scene)
        edges = edge_table(mesh.t_pos_idx, len(mesh.v_pos))
        current[:] = [(mesh, edges)]
        if colours:
            behind = _behind(scene, g.spec, camera, generator)
            return render_colour(mesh, edges, camera, behind, field.albedo)
        return render_normals(mesh, edges, camera, background)

    def regularize(out: RenderOutput, iteration: int) -> Tensor:
        mesh, edges = current[0]
        smooth = settings.consistency * losses.normal_consistency(mesh, edges.face, edges.other)
        return smooth + settings.laplacian * losses.laplacian(mesh) / spacing**2

    def finish() -> None:
        scene.mesh = detached(surface(scene))
        if not colours:
            settle_colours(scene, settings.colour_grid_rate, settings.colour_head_rate)

    return _stage("geometry", settings, g, None, render, regularize, optimizer, generator, finish=finish)


def texture_stage(
    scene: Scene,
    g: Guide,
    settings: TextureStage,
    generator: Generator,
    seed: int,
    name: str = "texture",
) -> Stage:
    """Stages 2b and 3: the field's colours on a mesh that stands still. Only prior and size differ."""
    assert scene.mesh is not None, "hand over first"
    mesh = detached(scene.mesh)
    edges = edge_table(mesh.t_pos_idx, len(mesh.v_pos))
    field = scene.field
    optimizer = adamw(
        [([field.table], settings.grid_rate), (field.colour_head.parameters(), settings.head_rate)]
    )
    shape = partial(render_shape, mesh)
    still = standing(g.prior.spec, mesh)
    g = replace(g, conditioning=g.prior.shown(g.conditioning, shape), still=still)
    phi = _phi(g, settings, seed)

    def render(camera: Camera) -> RenderOutput:
        behind = _behind(scene, g.spec, camera, generator)
        return render_colour(mesh, edges, camera, behind, field.albedo)

    def no_loss(out: RenderOutput, iteration: int) -> Tensor:
        return out.image.new_zeros(())  # the paper regularises neither texture stage

    noise, drawn_by = (
        fresh,
        generator.initial_seed() + 1,
    )  # not of the generator: a resumed stage has the same
    if settings.noise == "carried":
        noise = Carried(drawn_by)
    if settings.noise == "surface":
        noise = OnSurface(shape, g.prior.channels, generator.device, drawn_by)
    fitted = _fitted(phi, settings)
    return _stage(name, settings, g, phi, render, no_loss, optimizer, generator, fitted, noise=noise)
