"""A job from its beginning to its end: stages chained, hand-overs guarded, progress told as events."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Generator as Events
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

import backend
from backend.apfo import Step
from backend.config import STAGES, Preset, resolve
from backend.device import pick_device, prepare_device
from backend.diffusion.open_prior import open_prior
from backend.diffusion.prior import Prior
from backend.errors import NumericsError, SceneError
from backend.files import write_text
from backend.finish import finish
from backend.kernels import Kernels, select
from backend.pictures import BACKGROUND, around, look, look_at_clay
from backend.report import write_preview
from backend.stages import (
    Scene,
    Stage,
    geometry_stage,
    guide,
    hand_over,
    nerf_stage,
    new_scene,
    settle_colours,
    texture_stage,
)
from dreamflow_blender.contract.protocol import (
    Event,
    Finished,
    Job,
    Preview,
    Progress,
    Ready,
    Started,
    Warned,
)

ATTEMPTS = 3  # seeds tried before an empty or full scene is an error
THRESHOLD_VIEWS = 24  # silhouettes that choose the iso level


@dataclass(frozen=True)
class Moment:
    """Something that happened: a stage began, made a step, ended, or is tried again."""

    what: str  # "began", "step", "ended", "again"
    stage: str
    scene: Scene
    step: Step | None = None
    total: int = 0
    note: str = ""


@dataclass
class Curves:
    """Per iteration of one stage; the tensors stay on their device until they are read."""

    loss: list[Tensor] = field(default_factory=list)
    gap: list[Tensor] = field(default_factory=list)
    gradient: list[Tensor] = field(default_factory=list)

    def add(self, step: Step) -> None:
        self.loss.append(step.loss)
        self.gap.append(step.gap)
        self.gradient.append(step.gradient)

    def arrays(self) -> dict[str, Tensor]:
        return {
            name: torch.stack(values).cpu() if values else torch.zeros(0)
            for name, values in vars(self).items()
        }


def stage_generator(device: torch.device, seed: int, stage: str, attempt: int = 0) -> torch.Generator:
    """Each stage draws from its own generator, so leaving one out changes nothing in the others."""
    number = seed * 64 + STAGES.index(stage) * 8 + attempt
    return torch.Generator(device).manual_seed(number)


def run_stages(
    job: Job, preset: Preset, prior: Prior, refiner: Prior | None, kernels: Kernels, device: torch.device
) -> Iterator[Moment]:
    """The stages of a job, one after the other. `refiner` None: the prior refines, too.

    Raises SceneError after three empty or full scenes, NumericsError naming stage, iteration and tensor.
    """
    scene = yield from _shape(job, preset, prior, kernels, device)
    for name in job.stages:
        if name == "nerf":
            continue
        generator = stage_generator(device, job.seed, name)
        if name == "geometry":
            g = guide(prior, job.prompt, job.negative, preset.geometry, "normal")
            stage = geometry_stage(scene, g, preset.geometry, kernels, generator)
        elif name == "texture":
            g = guide(prior, job.prompt, job.negative, preset.texture)
            stage = texture_stage(scene, g, preset.texture, kernels, generator, job.seed)
        else:
            g = guide(refiner or prior, job.prompt, job.negative, preset.refine)
            stage = texture_stage(scene, g, preset.refine, kernels, generator, job.seed, "refine")
        yield from _moments(stage, scene)


def _shape(
    job: Job, preset: Preset, prior: Prior, kernels: Kernels, device: torch.device
) -> Events[Moment, None, Scene]:
    """Stage 1 and the hand-over to a surface, with another seed where they come out empty or full."""
    settings = preset.nerf
    g = guide(prior, job.prompt, job.negative, settings)
    for attempt in range(ATTEMPTS):
        seed = job.seed + 7919 * attempt
        generator = stage_generator(device, job.seed, "nerf", attempt)
        scene = new_scene(settings, kernels, device, seed)
        try:
            yield from _moments(nerf_stage(scene, g, settings, generator, seed), scene)
            viewers = prior.poses.sample(
                torch.Generator(device).manual_seed(job.seed), THRESHOLD_VIEWS, settings.size, settings.size
            )
            hand_over(scene, viewers, preset.geometry.cells, kernels)
            settle_colours(
                scene, kernels, preset.geometry.colour_grid_rate, preset.geometry.colour_head_rate
            )
            return scene
        except SceneError as error:
            if attempt == ATTEMPTS - 1:
                raise SceneError(f"Three seeds gave no object. {error.message}", error.todo) from error
            yield Moment("again", "nerf", scene, note=f"{error.message} Trying another seed.")
    raise AssertionError("unreachable")


def _moments(stage: Stage, scene: Scene) -> Iterator[Moment]:
    yield Moment("began", stage.name, scene, total=stage.walk.iterations)
    try:
        for step in stage.steps(0):
            yield Moment("step", stage.name, scene, step, stage.walk.iterations)
    except NumericsError as error:
        raise NumericsError(f"Stage {stage.name}, {error.message}", error.todo) from error
    yield Moment("ended", stage.name, scene, total=stage.walk.iterations)


def generate(job: Job) -> Events[Event, None, None]:
    """Run a job in its existing folder. Closing the generator, or a KeyboardInterrupt in it, keeps what
    there is: a mesh is delivered from the last finished iteration before the exception goes on.
    """
    began = time.monotonic()
    preset = resolve(job.preset, job.overrides)
    device = pick_device(job.device)
    threads = prepare_device(device, job.threads)
    folder = Path(job.folder)
    kernels = select(device)
    prior = open_prior(job.prior, device)
    refiner = open_prior(job.refiner, device) if job.refiner and job.refiner != job.prior else None
    for name in job.stages:  # before anything is written, or hours are spent
        judge = refiner if refiner and name == "refine" else prior
        judge.check(
            job.prompt, job.negative, "normal" if name == "geometry" else "colour", getattr(preset, name).size
        )
    _write_job(job, preset, device, threads, kernels, prior, refiner)
    yield Ready(versions(), (str(device),), kernels.names, threads)

    curves: dict[str, Curves] = {}
    sheets: dict[str, Tensor] = {}
    seconds: dict[str, float] = {}
    scene: Scene | None = None
    background = torch.full((3,), BACKGROUND, device=device)
    watch = Watch()
    try:
        for moment in run_stages(job, preset, prior, refiner, kernels, device):
            scene = moment.scene
            if moment.what == "began":
                watch.start(moment.total)
                curves[moment.stage] = Curves()
                yield Started(moment.stage, moment.total)
            elif moment.what == "again":
                yield Warned(moment.note)
            elif moment.step is not None:
                curves[moment.stage].add(moment.step)
                if watch.due_report(moment.step.iteration + 1):
                    yield watch.progress(moment.stage, moment.step, getattr(preset, moment.stage).levels)
                if watch.due_preview():
                    camera = around(1, 256, device, first=watch.turn)
                    path = folder / "preview.png"
                    write_preview(path, look(scene, camera, kernels, background)[0].cpu())
                    watch.previewed()
                    yield Preview(str(path))
            else:
                seconds[moment.stage] = watch.elapsed()
                sheets[moment.stage] = look(scene, around(8, 192, device), kernels, background).cpu()
                if moment.stage == "geometry" and scene.mesh is not None:
                    clay = look_at_clay(scene.mesh, around(8, 192, device), kernels, background)
                    sheets[moment.stage] = clay.cpu()
    except (GeneratorExit, KeyboardInterrupt):
        if scene is not None and curves:
            finish_early(scene, prior, preset, kernels, job, curves, sheets)
        raise
    assert scene is not None, "a job has stages"
    yield Started("deliver", 1)
    arrays = {name: c.arrays() for name, c in curves.items()}
    done = finish(scene, preset.delivery, kernels, folder, job, arrays, sheets)
    figures = done.figures | {f"seconds_{name}": round(s, 2) for name, s in seconds.items()}
    figures["seconds"] = round(time.monotonic() - began, 2)
    yield Finished(done.paths, figures)


def finish_early(
    scene: Scene,
    prior: Prior,
    preset: Preset,
    kernels: Kernels,
    job: Job,
    curves: dict[str, Curves],
    sheets: dict[str, Tensor],
) -> None:
    """Deliver what there is. A field that has no surface yet leaves its pictures and curves only."""
    try:
        if scene.mesh is None:
            size = preset.nerf.size
            device = scene.field.table.device
            viewers = prior.poses.sample(
                torch.Generator(device).manual_seed(job.seed), THRESHOLD_VIEWS, size, size
            )
            hand_over(scene, viewers, preset.geometry.cells, kernels)
    except SceneError:
        return  # nothing to deliver yet; the events say how far it came
    arrays = {name: c.arrays() for name, c in curves.items()}
    finish(scene, preset.delivery, kernels, Path(job.folder), job, arrays, sheets)


class Watch:
    """When to report and to preview, by the clock; it changes nothing of the run."""

    REPORT_EVERY = 0.5  # seconds
    PREVIEW_EVERY = 5.0  # seconds, and at most a fortieth of the time

    def __init__(self) -> None:
        self.turn = 0.0  # degrees of the preview's camera
        self._begin = self._reported = self._previewed = self._asked = time.monotonic()
        self._cost = 0.0
        self._total = 1

    def start(self, total: int) -> None:
        self._begin = self._reported = time.monotonic()
        self._total = total

    def elapsed(self) -> float:
        return time.monotonic() - self._begin

    def due_report(self, done: int) -> bool:
        return done == self._total or time.monotonic() - self._reported >= self.REPORT_EVERY

    def progress(self, stage: str, step: Step, levels: int) -> Progress:
        self._reported = time.monotonic()
        done = step.iteration + 1
        left = self.elapsed() / done * (self._total - done)
        level = done * levels // self._total
        return Progress(
            stage, level, levels, done, self._total, round(left, 1), float(step.loss), float(step.gap)
        )

    def due_preview(self) -> bool:
        self._asked = time.monotonic()
        return self._asked - self._previewed >= max(self.PREVIEW_EVERY, 40 * self._cost)

    def previewed(self) -> None:
        self._previewed = time.monotonic()
        self._cost = self._previewed - self._asked
        self.turn += 37.0


def versions() -> dict[str, str]:
    """Of everything that can change a result."""
    found = {"dreamflow": backend.__version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "diffusers", "transformers", "peft", "warp-lang", "xatlas"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def _write_job(
    job: Job,
    preset: Preset,
    device: torch.device,
    threads: int,
    kernels: Kernels,
    prior: Prior,
    refiner: Prior | None,
) -> None:
    """job.json: what was asked, and everything it was resolved to."""
    record = {
        "job": asdict(job),
        "settings": asdict(preset),
        "versions": versions(),
        "platform": platform.platform(),
        "device": str(device) if device.type != "cuda" else torch.cuda.get_device_name(device),
        "threads": threads,
        "kernels": kernels.names,
        "kernels_why": kernels.why,
        "models": {"prior": prior.describe(), "refiner": (refiner or prior).describe()},
    }
    write_text(Path(job.folder) / "job.json", json.dumps(record, indent=2) + "\n")
