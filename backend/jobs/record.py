"""job.json: what was asked, and everything that it was resolved to."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import torch

import backend
from backend.config import Preset
from backend.diffusion.prior import Prior
from backend.files import disk_errors, write_text
from backend.kernels import select
from backend.stages.memory import Plan
from dreamflow_blender.contract.protocol import Job


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
    preset: Preset,
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
        "settings": asdict(preset),
        "versions": versions(),
        "platform": platform.platform(),
        "device": str(device) if device.type != "cuda" else torch.cuda.get_device_name(device),
        "threads": threads,
        "kernels": kernels.names,
        "kernels_why": kernels.why,
        "memory": plan.record(),
        "models": {"prior": prior.describe(), "refiner": (refiner or prior).describe()},
    }
    write_text(Path(job.folder) / "job.json", json.dumps(record, indent=2) + "\n")


def add_note(folder: Path, note: str) -> None:
    """To job.json's "notes": how a run was carried out otherwise than planned. Raises DiskError."""
    path = folder / "job.json"
    with disk_errors(path):
        record = json.loads(path.read_text(encoding="utf-8"))
    record["notes"] = [*record.get("notes", []), note]
    write_text(path, json.dumps(record, indent=2) + "\n")
