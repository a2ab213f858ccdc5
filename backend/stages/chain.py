"""The stages of a job, one after the other, with the hand-overs guarded: from the start or from a checkpoint."""

from __future__ import annotations

from collections.abc import Generator as Events
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from backend.config import STAGES, Preset
from backend.diffusion.prior import Prior
from backend.errors import NumericsError, SceneError
from backend.scene.scene import Scene, field_to_surface, new_scene, settle_colours
from backend.stages.apfo import Step
from backend.stages.checkpoint import Saved, restore_scene, restore_stage
from backend.stages.memory import Ladder, is_out_of_memory, let_go
from backend.stages.stages import Stage, geometry_stage, guide, nerf_guide, nerf_stage, texture_stage
from dreamflow_blender.contract.protocol import Job

ATTEMPTS = 3  # seeds tried before an empty or full scene is an error
THRESHOLD_VIEWS = 24  # silhouettes that choose the iso level


@dataclass(frozen=True)
class Moment:
    """Something that happened: a stage began, made a step, ended, goes on with less memory, is tried again, or
    lies behind."""

    what: str  # "began", "step", "ended", "eased", "again", "restored"
    stage: str
    scene: Scene
    step: Step | None = None
    total: int = 0
    note: str = ""
    done: int = 0  # iterations of the stage
    work: Stage | None = None  # what a checkpoint is taken of; None for "again" and "restored"
    attempt: int = 0  # at stage 1, counted from 0


def stage_generator(device: torch.device, seed: int, stage: str, attempt: int = 0) -> torch.Generator:
    """Each stage draws from its own generator, so leaving one out changes nothing in the others."""
    number = seed * 64 + STAGES.index(stage) * 8 + attempt
    return torch.Generator(device).manual_seed(number)


def run_stages(
    job: Job,
    preset: Preset,
    prior: Prior,
    refiner: Prior | None,
    device: torch.device,
    saved: Saved | None = None,
    ladder: Ladder | None = None,
    scene: Scene | None = None,
) -> Iterator[Moment]:
    """Every moment of a job's stages. `refiner` None: the prior refines, too. `saved`: go on from there.
    `scene`: the mesh and colours that a refine job begins with, or has been restored to.

    Raises SceneError after three empty or full scenes, NumericsError naming stage, iteration and tensor, and
    OutOfMemory where memory runs out at the foot of the ladder.
    """
    ladder = ladder or Ladder(preset, prior, refiner)
    if scene is not None:
        attempt = 0
    elif saved is None or saved.stage == "nerf":
        scene, attempt = yield from _shape(job, preset, prior, device, saved, ladder)
    else:
        attempt = saved.attempt
        scene = new_scene(preset.nerf, device, _seed(job, attempt))
        restore_scene(saved, scene)
        yield Moment("restored", saved.stage, scene, attempt=attempt)

    def stage(name: str) -> Stage:
        generator = stage_generator(device, job.seed, name)
        if name == "geometry":
            g = guide(prior, job.prompt, job.negative, preset.geometry, "normal")
            return geometry_stage(scene, g, preset.geometry, generator)
        if name == "texture":
            g = guide(prior, job.prompt, job.negative, preset.texture)
            return texture_stage(scene, g, preset.texture, generator, job.seed)
        if refiner is not None:
            let_go(prior)  # the networks of one prior at a time
        g = guide(refiner or prior, job.prompt, job.negative, preset.refine)
        return texture_stage(scene, g, preset.refine, generator, job.seed, "refine")

    for name in job.stages:
        if name != "nerf" and (saved is None or not saved.passed(name)):
            yield from _moments(stage(name), scene, attempt, saved, ladder)  # and nothing holds on to it


def shape(scene: Scene, prior: Prior, preset: Preset, seed: int, ladder: Ladder) -> None:
    """From the field to a coloured surface, where there is none; without the networks if memory is short.

    Raises SceneError, and OutOfMemory with the setting to lower.
    """
    settings = preset.geometry
    if scene.mesh is None:
        ladder.with_room(
            lambda: look_at_hand_over(scene, prior, preset, seed),
            "The hand-over to a surface",
            f"Lower geometry.cells: --set geometry.cells={max(2, settings.cells // 2)}",
        )
    ladder.with_room(
        lambda: settle_colours(scene, settings.colour_grid_rate, settings.colour_head_rate),
        "Colouring the surface",
        f"Lower geometry.size: --set geometry.size={max(8, settings.size // 16 * 8)}",
    )


def look_at_hand_over(scene: Scene, prior: Prior, preset: Preset, seed: int) -> None:
    """From the field to a surface, judged by the views of its own generator. Raises SceneError."""
    device = scene.field.table.device
    size = max(preset.nerf.size, min(preset.geometry.size, 256))  # sharp enough to settle colours on
    viewers = prior.spec.poses.sample(torch.Generator(device).manual_seed(seed), THRESHOLD_VIEWS, size, size)
    field_to_surface(scene, viewers, preset.geometry.cells)


def _seed(job: Job, attempt: int) -> int:
    return job.seed + 7919 * attempt


def _shape(
    job: Job,
    preset: Preset,
    prior: Prior,
    device: torch.device,
    saved: Saved | None,
    ladder: Ladder,
) -> Events[Moment, None, tuple[Scene, int]]:
    """Stage 1 and the hand-over to a surface, with another seed where they come out empty or full."""
    settings = preset.nerf
    g = nerf_guide(prior, job.prompt, job.negative, settings)
    for attempt in range(0 if saved is None else saved.attempt, ATTEMPTS):
        seed = _seed(job, attempt)
        generator = stage_generator(device, job.seed, "nerf", attempt)
        scene = new_scene(settings, device, seed)
        here = saved if saved is not None and saved.attempt == attempt else None
        if here is not None:
            restore_scene(here, scene)
        try:
            yield from _moments(nerf_stage(scene, g, settings, generator, seed), scene, attempt, here, ladder)
            shape(scene, prior, preset, job.seed, ladder)
            return scene, attempt
        except SceneError as error:
            if attempt == ATTEMPTS - 1:
                raise SceneError(f"Three seeds gave no object. {error.message}", error.todo) from error
            yield Moment("again", "nerf", scene, note=f"{error.message} Trying another seed.")
    raise AssertionError("unreachable")


def _moments(
    stage: Stage, scene: Scene, attempt: int, saved: Saved | None, ladder: Ladder
) -> Iterator[Moment]:
    """A stage's moments; from the checkpoint's iteration, where it was taken in this stage.

    An iteration that runs out of memory is done again, on the next rung of the ladder, with the same draws.
    """
    total, done = stage.walk.iterations, 0
    if saved is not None and saved.stage == stage.name:
        restore_stage(saved, stage)
        done = saved.iteration
    yield Moment("began", stage.name, scene, None, total, "", done, stage, attempt)
    drawn, fits = stage.generator.get_state(), stage.phi.steps if stage.phi else 0
    note: str | None = ""
    while note is not None:
        note = None
        try:
            for step in stage.steps(done):
                done = step.iteration + 1
                drawn, fits = stage.generator.get_state(), stage.phi.steps if stage.phi else 0
                yield Moment("step", stage.name, scene, step, total, "", done, stage, attempt)
        except NumericsError as error:
            raise NumericsError(f"Stage {stage.name}, {error.message}", error.todo) from error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            note = ladder.step_down(stage.name, done, error, stage.generator.device)
        if note is not None:  # the error, which held on to the iteration's tensors, is gone by now
            stage.optimizer.zero_grad(set_to_none=True)
            if stage.generator.device.type == "cuda":
                torch.cuda.empty_cache()
            stage.generator.set_state(drawn)
            if stage.phi is not None:
                stage.phi.repeat(fits)
            yield Moment("eased", stage.name, scene, None, total, note, done, stage, attempt)
    yield Moment("ended", stage.name, scene, None, total, "", total, stage, attempt)
