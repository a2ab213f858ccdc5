"""The stages of a job, one after the other, with what lies between them: from the start or from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from backend.config import STAGES
from backend.errors import NumericsError, SceneError
from backend.scene.scene import Scene, dig_hollows, field_to_surface, new_scene, seen_surface, settle_colours
from backend.stages.checkpoint import RunState, restore_scene, restore_stage
from backend.stages.guides import Guide, NormalsSometimes, normals_error
from backend.stages.happenings import (
    Happening,
    Note,
    Reached,
    Restored,
    StageBegan,
    StageEnded,
    Stepped,
)
from backend.stages.memory import release_networks
from backend.stages.setup import Setup, kind_of, stages_left
from backend.stages.stages import Stage, geometry_stage, nerf_stage, texture_stage

ATTEMPTS = 3  # seeds tried before an empty or full scene is an error
THRESHOLD_VIEWS = 24  # silhouettes that choose the iso level


def run_stages(
    setup: Setup, saved: RunState | None = None, make_scene: Callable[[int], Scene] | None = None
) -> Iterator[Happening]:
    """Everything that happens in a job's stages, from the checkpoint where there is one.

    make_scene  from the attempt at stage 1 to a fresh scene; None: an empty field of the preset's settings

    Raises SceneError after three empty or full scenes, NumericsError naming stage, iteration and tensor, and
    whatever the device raises where memory runs out.
    """
    make_scene = make_scene or (
        lambda attempt: new_scene(setup.preset.nerf, setup.device, _seed(setup, attempt))
    )
    attempt = 0 if saved is None else saved.attempt
    scene = make_scene(attempt)
    left = list(stages_left(setup.job, saved))
    if saved is not None:
        restore_scene(saved, scene)
        yield Restored(scene, saved.stage, saved.ended)
        if saved.stage == "nerf" and saved.ended:
            left.insert(0, "nerf")  # for the surface that comes after it
    while left:
        name, failure, done = left[0], None, 0
        try:
            stage = make_stage(name, setup, scene, attempt)
            if saved is not None and (saved.stage, saved.attempt) == (name, attempt):
                restore_stage(saved, stage)
                done = saved.iteration
            yield StageBegan(Reached(scene, stage, attempt, done))
            for step in stage.steps(done):
                yield Stepped(Reached(scene, stage, attempt, step.iteration + 1), step)
            yield StageEnded(Reached(scene, stage, attempt, stage.schedule.iterations, ended=True))
            del stage  # with its D_phi, before the next one is made
            if name == "nerf":
                extract_coloured_surface(scene, setup)
            left.pop(0)
        except NumericsError as error:
            raise NumericsError(f"Stage {name}, {error.message}", error.todo) from error
        except SceneError as error:
            if name != "nerf":
                raise
            if attempt == ATTEMPTS - 1:
                raise SceneError(f"Three seeds gave no object. {error.message}", error.todo) from error
            failure = error.message
        if failure is not None:
            attempt += 1
            yield Note(f"{failure} Trying another seed, {attempt + 1} of {ATTEMPTS}.")
            scene = make_scene(attempt)


def make_stage(name: str, setup: Setup, scene: Scene, attempt: int) -> Stage:
    """The stage of this name on the scene, from its first iteration; the networks of one prior at a time are kept."""
    job, prior, schedule = setup.job, setup.prior_for(name), getattr(setup.preset, name)
    release_networks(*(other for other in (setup.prior, *setup.others.values()) if other is not prior))
    strength = schedule.guidance_scale, schedule.guidance_rescale
    g = Guide(prior, setup.prompts[name, kind_of(name, setup.preset)], *strength)
    if name == "nerf":
        views: Guide | NormalsSometimes = g
        if schedule.normal_share:
            normals = Guide(prior, setup.prompts[name, "normal"], *strength)
            views = NormalsSometimes(g, normals, schedule.normal_share)
        generator = stage_generator(setup.device, job.first_seed, name, attempt)
        turn = None if job.like is None else stage_seed(job.seed, name, attempt)
        return nerf_stage(scene, views, schedule, generator, _seed(setup, attempt), turn)
    generator = stage_generator(setup.device, job.seed, name)
    if name == "geometry":
        if scene.grid is None:  # there was no stage 1: the surface of its fresh field is a ball
            extract_surface(scene, setup)
        return geometry_stage(scene, g, schedule, generator)
    return texture_stage(scene, g, schedule, generator, job.seed, name)


def stage_generator(device: torch.device, seed: int, stage: str, attempt: int = 0) -> torch.Generator:
    """Each stage draws from its own generator, so leaving one out changes nothing in the others."""
    return torch.Generator(device).manual_seed(stage_seed(seed, stage, attempt))


def stage_seed(seed: int, stage: str, attempt: int) -> int:
    """Of its generator, from the job's."""
    return seed * 64 + STAGES.index(stage) * 8 + attempt


def _seed(setup: Setup, attempt: int) -> int:
    return setup.job.first_seed + 7919 * attempt


def extract_coloured_surface(scene: Scene, setup: Setup) -> None:
    """From the field to a coloured surface with its hollows; all but them without networks where memory is short.

    Raises SceneError, and OutOfMemory with the setting to lower.
    """
    settings = setup.preset.geometry
    if scene.mesh is None:
        setup.savings.retry_without_networks(
            lambda: extract_surface(scene, setup),
            "The hand-over to a surface",
            f"Lower geometry.cells: --set geometry.cells={max(2, settings.cells // 2)}",
        )
        deepen(scene, setup)
    setup.savings.retry_without_networks(
        lambda: settle_colours(scene, settings.colour_grid_rate, settings.colour_head_rate),
        "Colouring the surface",
        f"Lower geometry.size: --set geometry.size={max(8, settings.size // 16 * 8)}",
    )


def deepen(scene: Scene, setup: Setup) -> None:
    """The hollows of a surface as the prior likes them, where the job shows it normal maps."""
    stage = next((name for name in ("nerf", "geometry") if (name, "normal") in setup.prompts), None)
    if stage is None or scene.sdf is None:  # a scene round the cameras has no sdf
        return
    plainly = 1.0  # of guidance, which would exaggerate
    g = Guide(setup.prior_for(stage), setup.prompts[stage, "normal"], plainly)
    generator = torch.Generator(setup.device).manual_seed(setup.job.seed)
    dig_hollows(scene, normals_error(g, getattr(setup.preset, stage).size, generator))


def extract_surface(scene: Scene, setup: Setup) -> None:
    """From the field to a surface, judged by the views of its own generator. Raises SceneError."""
    preset, generator = setup.preset, torch.Generator(setup.device).manual_seed(setup.job.seed)
    size = max(preset.nerf.size, min(preset.geometry.size, 256))  # sharp enough to settle colours on
    viewers = setup.prior.spec.poses.sample(generator, THRESHOLD_VIEWS, size, size)
    if scene.field.inside_out:
        seen_surface(scene, viewers, preset.geometry.cells)
    else:
        field_to_surface(scene, viewers, preset.geometry.cells)
