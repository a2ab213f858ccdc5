"""What a folder of another program's, or of the user's own, holds that can be used here: told by headers alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backend.errors import InputError, ModelError
from backend.weights.checkpoint_kind import family_of, other_kind, read_header
from backend.weights.layout import COMPONENTS, read_json

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
BESIDE = {
    "a LoRA": "--lora",
    "an IP-Adapter": "--image-adapter",
    "an MV-Adapter": "--control",
}  # as other_kind begins


@dataclass(frozen=True)
class Found:
    """One file or folder, and the option that takes it; "" where none does."""

    path: Path
    what: str
    option: str = ""


def find_models(folder: Path) -> Iterator[Found]:
    """All of them under `folder`, links to folders not followed. InputError where there is no such folder."""
    if not folder.is_dir():
        raise InputError(
            f"There is no folder {folder}.", "Name the models folder of ComfyUI or A1111, or your own."
        )
    for place, inner, names in os.walk(folder):
        inner.sort()
        here = Path(place)
        for name, describe in (("model_index.json", _pipeline), ("config.json", _control)):
            if name in names and (found := describe(here)):
                yield found
                inner.clear()
                names.clear()
        for name in sorted(names):
            if name.lower().endswith(".safetensors"):
                yield _file(here / name)
            elif name.lower().endswith(PICKLES):
                yield Found(
                    here / name, "a pickle, which can run code when opened: get its .safetensors file"
                )


def _pipeline(folder: Path) -> Found:
    try:
        pipeline = read_json(folder / "model_index.json").get("_class_name")
    except ModelError as error:
        return Found(folder, str(error))
    if pipeline not in COMPONENTS:
        return Found(folder, f"a {pipeline}, which is not known here")
    refiner = pipeline == "StableDiffusionXLImg2ImgPipeline"
    return Found(folder, f"a {pipeline} in diffusers' layout", "--refiner" if refiner else "--prior")


def _control(folder: Path) -> Found | None:
    try:
        kind = str(read_json(folder / "config.json").get("_class_name"))
    except ModelError:
        return None
    return (
        Found(folder, f"a {kind} in diffusers' layout", "--control")
        if kind.startswith("ControlNet")
        else None
    )


def _file(path: Path) -> Found:
    try:
        header = read_header(path)
        what = other_kind(header)
        if what:
            option = next((option for start, option in BESIDE.items() if what.startswith(start)), "")
            return Found(path, what, option)
        family = family_of(header)
    except ModelError as error:
        return Found(path, error.message)
    refiner = family.pipeline == "StableDiffusionXLImg2ImgPipeline"
    return Found(path, f"{family.name}, a whole model in one file", "--refiner" if refiner else "--prior")
