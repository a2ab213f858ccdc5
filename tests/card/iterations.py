"""What the iterations of each stage made the pretended card do."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from backend.device import pick_device, prepare_device
from backend.jobs.priors import open_others, open_prior
from backend.jobs.record import resolve_job
from backend.stages.chain import run_stages
from backend.stages.happenings import Stepped
from backend.stages.setup import set_up
from dreamflow_blender.contract.protocol import Job
from tests.card.pretended import Place, PretendedCard

LOOK_EVERY = 16  # iterations; the first of a stage looks for NaNs, too


def waits_by_iteration(card: PretendedCard, job: Job) -> dict[str, list[Counter[Place]]]:
    """By stage, the waits of each iteration, from the end of one to the end of the next; the first, which begins
    with the stage itself, is left out."""
    device = pick_device("cuda")
    prepare_device(device, 1)
    prior = open_prior(job.prior, device, job.phi or None)
    others = open_others(job, prior, device)
    preset = resolve_job(job, prior, others).preset
    Path(job.folder).mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Counter[Place]]] = {}
    before: Counter[Place] | None = None
    for happening in run_stages(set_up(job, preset, prior, others, device)):
        if not isinstance(happening, Stepped):
            before = None
            continue
        if before is not None:
            found.setdefault(happening.at.stage.name, []).append(card.waits - before)
        before = card.waits.copy()
    return found


def by_place(waits: Counter[Place]) -> dict[str, int]:
    """ "backend/scene/camera.py Camera.mvp: inv" -> times, whatever lines were added above."""
    found: Counter[str] = Counter()
    for where, times in waits.items():
        found[f"{where.file} {where.function}: {where.what}"] += times
    return dict(found)
