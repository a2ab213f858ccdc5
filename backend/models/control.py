"""What --control takes: ControlNets from folders in diffusers' layout, and MV-Adapter's file (backend/sides/).

One of them shows depth or normal maps (by its name, or {"shows": ["normal"]} in a dreamflow.json beside its
config.json), a union model both at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, ControlNetUnionModel, UNet2DConditionModel

from backend.diffusion.control import MAPS, UNION_PLACES, Control
from backend.errors import InputError, ModelError
from backend.models.artist_lora import weighted_path
from backend.models.fit import check_counts, is_count, is_list_of_counts
from backend.models.load import count_numbers, load_beside
from backend.models.model_folder import ModelFolder, file_hash, find_weights, refuse_pickles
from backend.models.single_file import empty_module
from backend.sides.adapter import A_SIX, check_sides
from backend.weights.layout import WEIGHT_STEMS, read_json

A_CONTROLNET = (
    "Give the folder of a ControlNet for depth or normal maps of the prior's own family, in diffusers' layout:"
    " config.json and diffusion_pytorch_model.safetensors."
)
# a union model's configuration may name the first as well
CLASSES = "ControlNetModel", "ControlNetUnionModel"
NAMES = {"depth": ("depth", "zoe"), "normal": ("normal",)}  # what a folder's name says
SAME = (  # of a ControlNet's configuration and the UNet's
    "in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim", "addition_embed_type",
    "addition_time_embed_dim", "class_embed_type", "projection_class_embeddings_input_dim",
)  # fmt: skip


@dataclass(frozen=True)
class ControlFolder:
    """A ControlNet's folder that fits its model, and how much it counts."""

    path: Path
    config: dict[str, Any]
    files: tuple[Path, ...]
    shows: tuple[str, ...]  # of MAPS
    weight: float
    kinds: int  # of a union model; 0: it is none

    def describe(self) -> dict[str, Any]:
        """For job.json."""
        hashes = {file.name: file_hash(file) for file in self.files}
        return {"name": self.path.name, "shows": self.shows, "weight": self.weight, "sha256": hashes}

    def footprint(self, side: int, factor: int, dtype: torch.dtype) -> float:
        """GB that it adds for a picture of `side` pixels: its weights, and what it hands to the UNet of two views."""
        width = side // factor
        layers, channels = self.config.get("layers_per_block", 2), self.config["block_out_channels"]
        passed: int = channels[0] * width**2
        for i, count in enumerate(channels):
            last = i == len(channels) - 1
            passed += count * (layers * width**2 + (0 if last else (width // 2) ** 2))
            width = width if last else width // 2
        passed += channels[-1] * width**2
        return (count_numbers(self.files) + 2 * passed) * dtype.itemsize / 1e9


@dataclass(frozen=True)
class SidesFile:
    """MV-Adapter's file (backend/sides/) that fits its model, and how much it counts."""

    path: Path
    weight: float

    def describe(self) -> dict[str, Any]:
        """For job.json."""
        return {
            "name": self.path.name,
            "weight": self.weight,
            "sha256": {self.path.name: file_hash(self.path)},
        }

    def footprint(self, dtype: torch.dtype) -> float:
        """GB that its weights add."""
        return count_numbers((self.path,)) * dtype.itemsize / 1e9


def open_controls(
    specs: Iterable[str], model: ModelFolder
) -> tuple[tuple[ControlFolder, ...], SidesFile | None]:
    """FOLDER or FOLDER:WEIGHT of ControlNets, and one FILE of MV-Adapter's, checked without a weight read.

    Raises ModelError and InputError. One of weight 0 is left out: it would show nothing.
    """
    controls, sides = [], []
    for text in specs:
        path, weight = weighted_path(text, "--control", "a ControlNet's folder or MV-Adapter's file")
        if path.is_file():
            sides.append(_open_sides(path.resolve(), weight, model))
        else:
            controls.append(_open(path, weight, model))
    if len(sides) > 1:
        raise InputError("Only one MV-Adapter can be used at a time.", "Leave the other --control out.")
    wanted = next((found for found in sides if found.weight), None)
    return tuple(control for control in controls if control.weight), wanted


def _open_sides(path: Path, weight: float, model: ModelFolder) -> SidesFile:
    if (
        model.pipeline not in ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
        or model.spec.frames > 1
    ):
        raise ModelError(f"{model.path} cannot take MV-Adapter's six views.", A_SIX)
    if path.suffix.lower() != ".safetensors":
        raise ModelError(f"{path} is no .safetensors file; pickles can run code when opened.", A_SIX)
    unet = empty_module("unet", model.configs["unet"])
    assert isinstance(unet, UNet2DConditionModel)
    check_sides(path, unet, model.factor)
    return SidesFile(path, weight)


def _open(path: Path, weight: float, model: ModelFolder) -> ControlFolder:
    path = path.resolve()
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} has no config.json.", A_CONTROLNET)
    config = read_json(path / "config.json")
    if config.get("_class_name") not in CLASSES:
        raise ModelError(
            f"{path} holds a {config.get('_class_name')}, expected {' or '.join(CLASSES)}.", A_CONTROLNET
        )
    check_counts(path, config)
    refuse_pickles(path, path / f"{WEIGHT_STEMS['unet']}.safetensors")
    unet, union = model.configs["unet"], config["_class_name"] == CLASSES[1] or "num_control_type" in config
    for name in SAME:
        if config.get(name) != unet.get(name):
            raise ModelError(
                f"{path} does not fit {model.path}: its {name} is {config.get(name)}, the UNet's {unet.get(name)}.",
                "Give a ControlNet for the prior's own family (Stable Diffusion 1, 2 or XL).",
            )
    shows, width = MAPS if union else _shown_by(path), unet["block_out_channels"][0]
    kinds, steps = (
        config.get("num_control_type", 6),
        config.get("conditioning_embedding_out_channels", [1] * 4),
    )
    for what, got, expected in (
        ("conditioning_channels", config.get("conditioning_channels", 3), 3 if union else 3 * len(shows)),
        ("conditioning_embedding_out_channels is a list", is_list_of_counts(steps), True),
        ("pixels per latent pixel", 2 ** (len(steps) - 1) if isinstance(steps, list) else None, model.factor),
        ("num_control_type is above 4", is_count(kinds) and kinds > UNION_PLACES["normal"], True),
        ("num_trans_channel", config.get("num_trans_channel", 320) if union else width, width),
        ("num_proj_channel", config.get("num_proj_channel", 320) if union else width, width),
    ):
        if got != expected:
            raise ModelError(f"{path}: its {what} is {got}, expected {expected}.", A_CONTROLNET)
    return ControlFolder(
        path, config, find_weights(path, WEIGHT_STEMS["unet"]), shows, weight, kinds if union else 0
    )


def _shown_by(path: Path) -> tuple[str, ...]:
    """Which maps it was trained on, as dreamflow.json states, or its name."""
    stated = path / "dreamflow.json"
    if stated.is_file():
        shows = read_json(stated).get("shows")
        if not isinstance(shows, list) or not shows or shows != [name for name in MAPS if name in shows]:
            raise ModelError(
                f"{stated}: shows is {shows!r:.60}, expected depth, normal or both.", "Correct the file."
            )
        return tuple(shows)
    # in the hub's cache the folder is a commit's
    name = (path.parents[1] if path.parent.name == "snapshots" else path).name.lower()
    found = tuple(kind for kind, words in NAMES.items() if any(word in name for word in words))
    if len(found) != 1:
        raise ModelError(
            f"{path}: its name does not tell whether it was trained on depth or on normal maps.",
            'Put {"shows": ["depth"]} or {"shows": ["normal"]} into a dreamflow.json beside its config.json.',
        )
    return found


def load_control(found: ControlFolder, device: torch.device, dtype: torch.dtype) -> Control:
    """The network, frozen. ModelError where its weights are damaged."""
    kind = ControlNetUnionModel if found.kinds else ControlNetModel
    net = load_beside(kind, found.path, found.config, found.files, device, dtype)
    return Control(net, found.shows, found.weight, found.kinds)
