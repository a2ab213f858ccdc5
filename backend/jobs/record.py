"""job.json: a job as it was given, and everything that it was resolved to."""

from __future__ import annotations

import json
import platform
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from backend.config import PAPER, RECIPES, SCENE, Layers, Preset, Resolved, preset_of, resolve
from backend.diffusion.prior import Prior
from backend.errors import InputError
from backend.files import disk_errors, replacing, write_text
from backend.jobs.folder import versions
from backend.kernels import select
from backend.stages.checkpoint import RunState
from backend.stages.memory import Plan
from dreamflow_blender.contract.files import read_plain
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import STAGES, Job

# what may change between two runs of a job without another result; of models the hashes count
FREE = (
    "job.folder", "job.mesh", "job.prior", "job.texturer", "job.refiner", "job.phi", "job.lora", "job.control",
    "job.image", "job.image_adapter", "job.checkpoint_seconds", "job.snapshot_seconds", "job.snapshot_faces",
)  # fmt: skip
# who does a stage in the prior's place: in job.json, and of config.LAYERS
ROLES = {"texture": "texturer", "refine": "refiner"}
MOST_THREADS = 1024  # as Job's own bound
# where nothing is kept of an object's colours: from higher noise, or a grey object stays greyish, and with larger steps
# where there are few
ANEW = {"texture.start": 0.9}
ANEW_IN_FEW = {"texture.grid_rate": 3e-2, "texture.head_rate": 1e-2}


def resolve_job(job: Job, prior: Prior, others: Mapping[str, Prior]) -> Resolved:
    """The job's settings: its preset, and over it config.LAYERS. A stage's are those of who does it.

    others  by stage, who does it in the prior's place
    Raises InputError.
    """
    below, stated = _asked_for(job), _stated_by(prior)
    below["prior"] = {key: value for key, value in stated.items() if key.split(".")[0] not in others}
    for stage, other in others.items():
        stated = _stated_by(other)
        below[ROLES[stage]] = {key: v for key, v in stated.items() if key.startswith(f"{stage}.")}
    return resolve(job.preset, {**below, **_own_layers(job, resolve(job.preset, below).preset)})


def check_settings(job: Job) -> None:
    """InputError for a mistake in the job's own settings, before anything is loaded."""
    below = _asked_for(job)
    resolve(job.preset, {**below, **_own_layers(job, resolve(job.preset, below).preset)})


def _asked_for(job: Job) -> dict[str, dict[str, Any]]:
    """The layers under what the models state."""
    return {"recipe": RECIPES[job.recipe], "scene": SCENE if job.scene else {}}


def _stated_by(prior: Prior) -> dict[str, Any]:
    """A prior's guidance in every stage, where it states one, then its settings."""
    if prior.spec.guidance is None:
        return prior.spec.settings
    return {f"{stage}.guidance_scale": float(prior.spec.guidance) for stage in STAGES} | prior.spec.settings


def _own_layers(job: Job, below: Preset) -> Layers:
    """What a texture from nothing needs; a refine job's strength is refine.start, with the levels of `below` as close;
    then the job's overrides."""
    anew: dict[str, Any] = ANEW if job.kind == "refine" and "texture" in job.stages else {}
    if anew and job.preset == "draft":
        anew = anew | ANEW_IN_FEW
    without_phi = {f"{stage}.phi": "none" for stage in ("nerf", "texture", "refine") if job.phi == "none"}
    if job.kind != "refine" or job.strength is None:
        return {"anew": anew, "job": without_phi | job.overrides}
    if "refine.start" in job.overrides:
        raise InputError(
            f"The strength is {job.strength:g} and refine.start is {job.overrides['refine.start']}, but they are one"
            " setting.",
            "Give one of the two.",
        )
    levels = max(1, round(below.refine.levels * job.strength / PAPER.refine.start))
    return {
        "anew": anew,
        "strength": {"refine.start": job.strength, "refine.levels": levels},
        "job": without_phi | job.overrides,
    }


def write_job(
    job: Job,
    settings: Resolved,
    device: torch.device,
    threads: int,
    prior: Prior,
    others: Mapping[str, Prior],
    plan: Plan,
    kept: Mapping[str, bytes],
) -> None:
    """job.json of a job that begins, and the files that it keeps (Work.kept): all of them, or none and a DiskError."""
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
        "models": models_record(prior, others),
        "object": {name: sha256(content).hexdigest() for name, content in kept.items()},
    }
    folder = JobFolder(job.folder)
    files = {folder.job: (json.dumps(record, indent=2) + "\n").encode()}
    files |= {path: kept[path.name] for path in folder.object_files if path.name in kept}
    with ExitStack() as stack:  # which ends with job.json: what is there before it belongs to no job yet
        for path, content in files.items():
            stack.enter_context(replacing(path)).write_bytes(content)
        with disk_errors(folder.events):
            folder.events.unlink(missing_ok=True)  # an older job's: they would say that this one is finished
    drop_objects(folder, kept)


def drop_objects(folder: JobFolder, kept: Collection[str]) -> None:
    """Removes what an older job has kept and this one has not. Raises DiskError."""
    for path in folder.object_files:
        if path.name not in kept:
            with disk_errors(path):
                path.unlink(missing_ok=True)


def models_record(prior: Prior, others: Mapping[str, Prior]) -> dict[str, Any]:
    """Names, folders and hashes of the weights in use."""
    all_of_it = {"prior": prior, "refiner": prior} | {ROLES[stage]: other for stage, other in others.items()}
    return {role: each.describe() for role, each in all_of_it.items()}


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


def settings_of(record: Mapping[str, Any]) -> Resolved:
    """The settings that a job was begun with. Raises InputError."""
    return Resolved(preset_of(record.get("settings", {})), record.get("set_by", {}))


def begin_again(folder: Path | str) -> str:
    """The command that begins a job again where it cannot be resumed."""
    return f"python -m backend resume {folder} --overwrite"


def recorded_threads(folder: Path) -> int:
    """Of job.json; 0 where it has no number of threads. Raises InputError and DiskError."""
    threads = read_record(folder).get("threads")
    return threads if isinstance(threads, int) and 0 < threads <= MOST_THREADS else 0


def add_note(folder: Path, note: str) -> None:
    """To job.json's "notes": how a run was carried out otherwise than planned. Raises DiskError."""
    record = read_record(folder)
    record["notes"] = [*record.get("notes", []), note]
    write_text(JobFolder(folder).job, json.dumps(record, indent=2) + "\n")


def begun_as(record: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a job's result, of its job.json: one level, "nerf.levels": 10. For every checkpoint's notes."""
    found = {"job": record.get("job"), "object": record.get("object"), "models": record.get("models")}
    named = {**dict(_flat(found)), **dict(_flat(record.get("settings")))}
    return {n: value for n, value in named.items() if not n.startswith(FREE) and not n.endswith(".folder")}


def check_unchanged(job: Job, record: Mapping[str, Any], saved: RunState | None) -> None:
    """InputError where job.json has been changed since the job was begun."""
    settings = settings_of(record).preset
    differences = []
    if saved is not None:
        differences = _differences(saved.notes["begun"], begun_as(record))
    now = dict(_flat(vars(resolve(job.preset, {"job": job.overrides}).preset)))
    kept = dict(_flat(vars(settings)))
    wanted = {name: now[name] for name in job.overrides}
    differences = differences or _differences({name: kept[name] for name in wanted}, wanted)
    if differences:
        _refuse(job, "job.json has been changed since this job was begun", differences)


def check_models(job: Job, record: Mapping[str, Any], prior: Prior, others: Mapping[str, Prior]) -> None:
    """InputError where the models are others than the job was begun with, wherever they are now."""
    now = json.loads(json.dumps(models_record(prior, others)))
    found = [dict(_flat(models)) for models in (record.get("models"), now)]
    before, after = ({k: v for k, v in each.items() if not k.endswith(".folder")} for each in found)
    if differences := _differences(before, after):
        _refuse(job, "The models are not those that this job was begun with", differences)


def _refuse(job: Job, what: str, differences: list[str]) -> None:
    more = f", and {len(differences) - 3} more" if len(differences) > 3 else ""
    raise InputError(
        f"{what}: {', '.join(differences[:3])}{more}.",
        f"Put that back, or begin the job again: {begin_again(job.folder)}",
    )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} was {before.get(name)!r:.60} and is {now.get(name)!r:.60}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts and dataclasses, by their path."""
    inner = value if isinstance(value, Mapping) else getattr(value, "__dict__", None)
    if inner is None:
        yield name, value
        return
    for key, each in inner.items():
        yield from _flat(each, f"{name}.{key}".strip("."))
