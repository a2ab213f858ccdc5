"""job.json: a job as it was given, and everything that it was resolved to."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import backend
from backend.config import PAPER, Layers, Preset, Resolved, preset_of, resolve
from backend.diffusion.prior import Prior
from backend.errors import InputError
from backend.files import disk_errors, write_text
from backend.kernels import select
from backend.stages.memory import Plan
from dreamflow_blender.contract.files import read_plain
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import STAGES, Job

MOST_THREADS = 1024  # as Job's own bound


def resolve_job(job: Job, prior: Prior, refiner: Prior | None) -> Resolved:
    """The job's settings: its preset, and over it config.LAYERS. The last stage is the refiner's where there is one.

    Raises InputError.
    """
    stated = _stated_by(prior)
    if refiner is None:
        below: Layers = {"prior": stated}
    else:
        below = {
            "prior": {key: value for key, value in stated.items() if not key.startswith("refine.")},
            "refiner": {k: value for k, value in _stated_by(refiner).items() if k.startswith("refine.")},
        }
    return resolve(job.preset, {**below, **_own_layers(job, resolve(job.preset, below).preset)})


def check_settings(job: Job) -> None:
    """InputError for a mistake in the job's own settings, before anything is loaded."""
    resolve(job.preset, _own_layers(job, resolve(job.preset).preset))


def _stated_by(prior: Prior) -> dict[str, Any]:
    """A prior's guidance in every stage, where it states one, then its settings."""
    if prior.spec.guidance is None:
        return prior.spec.settings
    return {f"{stage}.guidance_scale": float(prior.spec.guidance) for stage in STAGES} | prior.spec.settings


def _own_layers(job: Job, below: Preset) -> Layers:
    """A refine job's strength is refine.start, with the levels of `below` as close; then the job's overrides."""
    if job.kind != "refine" or job.strength is None:
        return {"job": job.overrides}
    if "refine.start" in job.overrides:
        raise InputError(
            f"The strength is {job.strength:g} and refine.start is {job.overrides['refine.start']}, but they are one"
            " setting.",
            "Give one of the two.",
        )
    levels = max(1, round(below.refine.levels * job.strength / PAPER.refine.start))
    return {"strength": {"refine.start": job.strength, "refine.levels": levels}, "job": job.overrides}


def versions() -> dict[str, str]:
    """Of everything that can change a result."""
    found = {"dreamflow": backend.__version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "diffusers", "transformers", "peft", "warp-lang", "xatlas"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def write_job(
    job: Job,
    settings: Resolved,
    device: torch.device,
    threads: int,
    prior: Prior,
    refiner: Prior | None,
    plan: Plan,
) -> None:
    """Raises DiskError."""
    kernels = select(device)
    record = {
        "job": asdict(job),
        "settings": asdict(settings.preset),
        "set_by": settings.set_by,
        "versions": versions(),
        "platform": platform.platform(),
        "device": str(device) if device.type != "cuda" else torch.cuda.get_device_name(device),
        "threads": threads,
        "kernels": kernels.names,
        "kernels_why": kernels.why,
        "memory": plan.record(),
        "models": {"prior": prior.describe(), "refiner": (refiner or prior).describe()},
    }
    write_text(JobFolder(job.folder).job, json.dumps(record, indent=2) + "\n")


def read_record(folder: Path) -> dict[str, Any]:
    """What write_job recorded. Raises InputError and DiskError."""
    path = JobFolder(folder).job
    with disk_errors(path):
        content = read_plain(path)
    try:
        record = json.loads(content)
        if isinstance(record, dict):
            return record
        reason = "it is no object"
    except (ValueError, RecursionError) as error:
        reason = str(error)
    raise InputError(f"{path} cannot be read: {reason}.", "Generate the object again.")


def read_settings(folder: Path) -> Resolved:
    """The settings in job.json, so that a resumed job keeps them. Raises InputError and DiskError."""
    record = read_record(folder)
    return Resolved(preset_of(record.get("settings", {})), record.get("set_by", {}))


def recorded_threads(folder: Path) -> int:
    """Of job.json; 0 where it has no number of threads. Raises InputError and DiskError."""
    threads = read_record(folder).get("threads")
    return threads if isinstance(threads, int) and 0 < threads <= MOST_THREADS else 0


def add_note(folder: Path, note: str) -> None:
    """To job.json's "notes": how a run was carried out otherwise than planned. Raises DiskError."""
    record = read_record(folder)
    record["notes"] = [*record.get("notes", []), note]
    write_text(JobFolder(folder).job, json.dumps(record, indent=2) + "\n")
