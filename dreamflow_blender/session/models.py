"""Which model makes or refines, whether it is here, and whether it knows the prompt; cheap enough for every redraw."""

from __future__ import annotations

import json
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import bpy

from ..backlog import work
from ..contract.job import Job
from ..contract.language import reading
from ..contract.language.notation import refuse_for
from ..contract.language.unknown import NotUnderstood
from ..settings import addon
from . import findings, loras, service

REFINER, SD, SDXL, MVDREAM = work.SDXL_REFINER, work.STABLE_DIFFUSION, work.SDXL, work.MVDREAM
_FOLDERS = {  # of the sources that `python -m backend models` tries by itself; models.toml may name others
    REFINER: ("stabilityai--stable-diffusion-xl-refiner-1.0",),
    SDXL: ("stabilityai--stable-diffusion-xl-base-1.0",),
    MVDREAM: ("ashawkey--mvdream-sd2.1-diffusers",),
    SD: ("sd2-community--stable-diffusion-2-1-base", "stabilityai--stable-diffusion-2-1-base"),
}
STATED = work.STATED
_LOOK_AGAIN = 3.0  # seconds
_seen: dict[str, tuple[float, bool]] = {}


def is_here(name: str) -> bool:
    """Whether this model is on the machine: as the backend has said, else as its usual folders say."""
    for item in findings.models:
        if item.get("name") == name:
            return bool(item.get("folder"))
    now = time.monotonic()
    if name not in _seen or now - _seen[name][0] > _LOOK_AGAIN:
        _seen[name] = (now, _look(name))
    return _seen[name][1]


def _look(name: str) -> bool:
    home = Path(
        service.variables().get("HF_HOME") or os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface"
    )
    for folder in _FOLDERS[name]:
        if (home / "dreamflow" / folder / "fetched.json").is_file():
            return True
        if any((home / "hub" / f"models--{folder}").glob("snapshots/*/model_index.json")):
            return True
    return False


def cannot_generate_reason(settings: Any) -> str:
    """Why the panel's model cannot make what the panel says; "" where it can."""
    if not settings.prompt.strip():
        return "Enter a prompt"
    if settings.model == "FOLDER" and not addon.setting("prior_folder", ""):
        return "Choose a model's file or folder"
    match to_fetch(settings):
        case work.STABLE_DIFFUSION:
            return "Stable Diffusion is not on this machine: fetch it, or choose the built-in model"
        case work.SDXL:
            return "Stable Diffusion XL is not on this machine: fetch it, or choose another model"
        case work.SDXL_REFINER:
            return "The SDXL refiner is not on this machine: fetch it, or turn Refine off under Advanced"
    if settings.model != "BUILT_IN" and (said := loras.cannot_use_reason(settings.loras)):
        return said
    return misread(settings)


def to_fetch(settings: Any) -> str:
    """The model that Generate needs and that is not here, by its name; "" where there is none."""
    if settings.model == "SDXL_BASE":
        return "" if is_here(SDXL) else SDXL
    if settings.model != "STABLE_DIFFUSION":
        return ""
    if not is_here(stable_diffusion(settings)):
        return SD
    return REFINER if takes_refiner(settings) and not is_here(REFINER) else ""


def stable_diffusion(settings: Any) -> str:
    """The prior of that choice: MVDream, which sees four sides at once, where it has been fetched. Additions are for
    Stable Diffusion itself."""
    return MVDREAM if is_here(MVDREAM) and not settings.loras else SD


def takes_refiner(settings: Any) -> bool:
    """Whether the SDXL refiner does the last stage of Stable Diffusion 2.1: LoRAs are not made for it."""
    return settings.refine and not settings.loras


def model_named(prior: str) -> str:
    """What the panel calls a job's prior; "" for a file or folder that is not the one in the preferences."""
    named = {
        work.BUILT_IN: "BUILT_IN",
        SD: "STABLE_DIFFUSION",
        MVDREAM: "STABLE_DIFFUSION",
        SDXL: "SDXL_BASE",
    }
    own = addon.setting("prior_folder", "")
    return named.get(prior, "FOLDER" if own and bpy.path.abspath(own) == prior else "")


def lacking(job: Job) -> str:
    """The model that this job needs and that is not here, by its name; "" where there is none that can be fetched."""
    return next(
        (name for name in (job.prior, job.texturer, job.refiner) if name in STATED and not is_here(name)), ""
    )


def cannot_refine_reason(settings: Any) -> str:
    """Why this model cannot refine what the settings say; "" where it can."""
    if not settings.prompt.strip():
        return "Enter a prompt that says what the object is"
    return missing(settings) or misread(settings)


def missing(settings: Any) -> str:
    """Why this model cannot be used with any prompt; "" where it can."""
    if settings.model == "BUILT_IN":
        return ""
    if settings.model == "FOLDER":
        named = addon.setting("refiner_folder", "") or addon.setting("prior_folder", "")
        return (
            loras.cannot_use_reason(bpy.context.scene.dreamflow.loras)
            if named
            else "Choose a model's file or folder"
        )
    if not is_here(REFINER):
        return "The SDXL refiner is not on this machine: fetch it, or choose the built-in model"
    if settings.from_scratch and not is_here(SD):
        return "Repainting from scratch also needs Stable Diffusion: fetch it, or turn that off"
    return ""


def choose(settings: Any) -> dict[str, str]:
    """The job's prior and refiner. Raises ValueError with why not."""
    said = cannot_refine_reason(settings)
    if said:
        raise ValueError(f"{said.removesuffix('.')}.")
    if settings.model == "BUILT_IN":
        return {"prior": work.BUILT_IN, "refiner": ""}
    if settings.model == "FOLDER":
        paths = [addon.setting(name, "") for name in ("prior_folder", "refiner_folder")]
        prior, refiner = (bpy.path.abspath(path) if path else "" for path in paths)
        return {"prior": prior or refiner, "refiner": refiner if prior else ""}
    if is_here(SD):
        return {"prior": SD, "refiner": REFINER}
    return {"prior": REFINER, "refiner": ""}


def misread(settings: Any) -> str:
    """Why the chosen model cannot read the prompt, and what to write instead; "" where it can."""
    try:
        read_by_chosen(settings)
    except NotUnderstood as error:
        return str(error)
    return ""


def read_by_chosen(settings: Any) -> str:
    """What the user should know of how the chosen model reads the prompt; "": as it stands. Raises NotUnderstood."""
    if settings.model == "BUILT_IN":
        return read_as(settings.prompt, settings.negative)
    named = [addon.setting(name, "") for name in ("prior_folder", "refiner_folder")]
    own = tuple(bpy.path.abspath(path) if path else "" for path in named)
    refuse_for(own if settings.model == "FOLDER" else (SD,), settings.prompt, settings.negative)
    return ""


def unknown_words(prompt: str, negative: str = "") -> str:
    """Why the built-in model cannot make this, and what to write instead; "" where it can."""
    try:
        read_as(prompt, negative)
    except NotUnderstood as error:
        return str(error)
    return ""


def read_as(prompt: str, negative: str = "") -> str:
    """What the user should know of how the built-in model reads this; "": as it stands. Raises NotUnderstood."""
    kinds = known_kinds()
    return reading.note(prompt, reading.read_object(prompt, negative, kinds)) if kinds else ""


@cache
def known_kinds() -> tuple[str, ...]:
    """() where it does not say."""
    folder = Path(__file__).resolve().parents[2] / "backend" / "mini" / "base"
    try:
        stated = json.loads((folder / "dreamflow.json").read_text(encoding="utf-8"))["kinds"]
    except (OSError, ValueError, KeyError):
        return ()
    return tuple(str(kind) for kind in stated)
