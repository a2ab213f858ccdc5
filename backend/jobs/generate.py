"""`generate`: a prompt's job, from its first stage to what it delivers."""

from __future__ import annotations

from collections.abc import Generator as Events
from collections.abc import Iterator
from pathlib import Path

from backend.diffusion.prior import PoseRange
from backend.jobs.recorder import Control, Delivery, Outcome, Start, no_control
from backend.jobs.run import run
from backend.jobs.telemetry import RunLog
from backend.results.deliver import deliver_generated
from backend.results.snapshot import with_current_surface, write_snapshot
from backend.scene.scene import Scene, settle_colours
from backend.stages.chain import extract_surface, run_stages
from backend.stages.checkpoint import RunState
from backend.stages.happenings import Happening
from backend.stages.setup import Setup
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import Event, Job


def generate(job: Job, control: Control = no_control, until: float = 0.0) -> Events[Event, None, None]:
    """Run a job in its existing folder, from its start. `control` is looked at between iterations.

    until  a candidate stops after this share of stage 1, with a checkpoint that it goes on from; 0: all of the job

    Closing the generator, or a KeyboardInterrupt in it, keeps what there is: a mesh is delivered from the
    last finished iteration before the exception goes on.
    """
    return run(Path(job.folder), lambda: Start(Generating(job), until=until), control)


class Generating:
    """The work of `generate`."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def kept(self) -> dict[str, bytes]:
        """See Work."""
        return {}

    def happenings(self, setup: Setup, saved: RunState | None) -> Iterator[Happening]:
        """See Work."""
        return run_stages(setup, saved)

    def snapshot(self, scene: Scene, stage: str) -> Path:
        """See Work."""
        path = JobFolder(self.job.folder).snapshot
        write_snapshot(path, with_current_surface(scene, stage), self.job.snapshot_faces)
        return path

    def deliver(self, setup: Setup, outcome: Outcome, log: RunLog, control: Control) -> Delivery:
        """What there is, wherever the run was stopped."""
        settings, stage, ended = setup.preset.geometry, outcome.stage, outcome.ended
        scene = outcome.scene if ended else with_current_surface(outcome.scene, stage)
        if scene.mesh is None:
            extract_surface(scene, setup)
        if stage == "nerf" or (stage == "geometry" and not ended and settings.shows == "normals"):
            settle_colours(scene, settings.colour_grid_rate, settings.colour_head_rate)
        curves = {name: each.arrays() for name, each in log.curves.items()}
        folder, delivery, poses = Path(self.job.folder), setup.preset.delivery, setup.prior.spec.poses
        lowest = poses.elevation[0] if isinstance(poses, PoseRange) else -90.0  # a scene's stand in it
        return (
            yield from deliver_generated(
                scene,
                delivery,
                folder,
                self.job,
                curves,
                log.sheets,
                lambda: control() == "cancel",
                lowest,
            )
        )
