"""All that is decided before a run's first iteration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from backend.config import Preset
from backend.diffusion.prior import Kind, Prior
from backend.stages.checkpoint import RunState
from backend.stages.memory import MemorySavings, Plan, make_plan
from dreamflow_blender.contract.protocol import Job


@dataclass(frozen=True)
class Setup:
    """A job with everything that its name, its settings and this machine resolve to.

    others   by stage, who does it in the prior's place: another model that textures, a refiner
    prompts  by stage and what it shows: what its prior has prepared for the prompt, parsed and embedded once
    savings  how memory is saved now; it starts as `plan` says, and is the one thing here that changes
    """

    job: Job
    preset: Preset
    prior: Prior
    others: Mapping[str, Prior]
    device: torch.device
    threads: int
    plan: Plan
    savings: MemorySavings
    prompts: Mapping[tuple[str, Kind], Any]

    def prior_for(self, stage: str) -> Prior:
        """Who does this stage."""
        return self.others.get(stage, self.prior)


def kind_of(stage: str, preset: Preset) -> Kind:
    """What the renders of a stage show."""
    return "normal" if stage == "geometry" and preset.geometry.shows == "normals" else "colour"


def stages_left(job: Job, saved: RunState | None) -> Sequence[str]:
    """The job's stages that a checkpoint has not finished."""
    return [name for name in job.stages if saved is None or not saved.passed(name)]


def set_up(
    job: Job,
    preset: Preset,
    prior: Prior,
    others: Mapping[str, Prior],
    device: torch.device,
    threads: int = 1,
    saved: RunState | None = None,
) -> Setup:
    """Checks the prompt for every stage, plans the memory, and embeds the prompt; loads no denoiser.

    The text encoders come first and are gone before the denoisers are loaded: both at once are a third more.
    Raises InputError for a prompt or a size that a prior cannot take, ModelError where an encoder is damaged.
    """

    shown: list[tuple[str, Kind]] = [(name, kind_of(name, preset)) for name in job.stages]
    if "nerf" in job.stages and preset.nerf.normal_share:
        shown.append(("nerf", "normal"))
    for name, kind in shown:
        others.get(name, prior).check(job.prompt, job.negative, kind, getattr(preset, name).size)
    at_least = saved.notes.get("rung", 0) if saved else 0
    plan = make_plan(stages_left(job, saved), preset, prior, others, device, at_least)
    savings = MemorySavings(preset, prior, others, plan.rung, plan.graphs)
    prompts = {
        (name, kind): others.get(name, prior).prepare(
            job.prompt, job.negative, kind, getattr(preset, name).size
        )
        for name, kind in shown
    }
    return Setup(job, preset, prior, others, device, threads, plan, savings, prompts)
