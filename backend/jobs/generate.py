"""`generate`: a prompt's job, from its first stage to what it delivers."""

from __future__ import annotations

from collections.abc import Generator as Events
from collections.abc import Iterator
from pathlib import Path

import torch

from backend.config import Preset
from backend.diffusion.prior import Prior
from backend.jobs.folder import locked
from backend.jobs.run import Asked, Delivery, nobody, run
from backend.jobs.telemetry import Told
from backend.results.deliver import finishing
from backend.results.snapshot import with_current_surface, write_snapshot
from backend.scene.scene import settle_colours
from backend.stages.chain import Moment, look_at_hand_over, run_stages
from backend.stages.checkpoint import Saved
from backend.stages.memory import Ladder
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import (
    Event,
    Job,
)


def generate(job: Job, asked: Asked = nobody) -> Events[Event, None, None]:
    """Run a job in its existing folder, from its start. `asked` is looked at between iterations.

    Closing the generator, or a KeyboardInterrupt in it, keeps what there is: a mesh is delivered from the
    last finished iteration before the exception goes on.
    """
    with locked(Path(job.folder)):
        yield from run(job, Generating(job), asked)


class Generating:
    """The work of `generate`."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def moments(
        self, preset: Preset, prior: Prior, refiner: Prior | None, device: torch.device,
        saved: Saved | None, ladder: Ladder,
    ) -> Iterator[Moment]:  # fmt: skip
        return run_stages(self._job, preset, prior, refiner, device, saved, ladder)

    def snapshot(self, moment: Moment) -> Path:
        path = JobFolder(self._job.folder).snapshot
        write_snapshot(path, with_current_surface(moment.scene, moment.stage), self._job.snapshot_faces)
        return path

    def deliver(self, moment: Moment, prior: Prior, preset: Preset, told: Told, asked: Asked) -> Delivery:
        return _deliver(moment, prior, preset, self._job, told, asked)


def _deliver(moment: Moment, prior: Prior, preset: Preset, job: Job, told: Told, asked: Asked) -> Delivery:
    """Deliver what there is, wherever the run was stopped. Raises SceneError where that is nothing."""
    scene = moment.scene if moment.what == "ended" else with_current_surface(moment.scene, moment.stage)
    shaping = moment.stage == "nerf" or (moment.stage == "geometry" and moment.what != "ended")
    if scene.mesh is None:
        look_at_hand_over(scene, prior, preset, job.seed)
    if shaping:
        settle_colours(scene, preset.geometry.colour_grid_rate, preset.geometry.colour_head_rate)
    curves = {name: each.arrays() for name, each in told.curves.items()}
    folder, stop = Path(job.folder), lambda: asked() == "cancel"
    return (yield from finishing(scene, preset.delivery, folder, job, curves, told.sheets, stop))
