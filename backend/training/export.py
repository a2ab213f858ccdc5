"""From training states to model folders in diffusers' layout: fp16 weights, what the prior states, a plot, grids."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from matplotlib import pyplot
from torch import nn

from backend.diffusion.view_words import COMPASS
from backend.files import write_text
from backend.training import networks
from backend.training.dataset import BACKGROUNDS, FIRST_KINDS, NORMAL_BACKGROUND, POSES
from backend.training.run import Run
from backend.weights.layout import read_json

GUIDANCE = 2.0  # a trained model this small darkens and saturates from 4 on
# Renders as large as the pictures it learnt: it knows nothing of larger ones. Thin parts (a handle) are lost in
# stage 1 from pictures half that size, with less guidance, or when fog is fought before they stand.
SETTINGS: dict[str, Any] = {
    "nerf.size": 64,
    "nerf.grid_finest": 64,
    "nerf.guidance_scale": 3.0,
    "nerf.entropy_from": 0.5,
    "geometry.size": 64,
    "texture.size": 64,
}
# it mends what it sees; guidance 2 and 3 bring a mushroom 0.4 dB less, and cost a second call
REFINER_GUIDANCE = 1.0
# More and larger steps than a draft's, or a texture's noise outlives them; with 48 levels it drifts (docs/refine.md).
REFINER_SETTINGS = {"refine.size": 128, "refine.levels": 15, "refine.grid_rate": 1e-2}
# SDXL's refiner sees 128^2 latents, ours 32^2. Averaging 4^2 pixels divides noise by 4, so at the same noise level
# ours would lose what SDXL's keeps (a teapot's handle, at t = 0.3). Latents 4 times as large give it the same view.
REFINER_LATENT_SCALE = 4.0
BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
}
SD_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
REFINER_INDEX = {
    "_class_name": "StableDiffusionXLImg2ImgPipeline",
    "_diffusers_version": "0.42.1",
    "force_zeros_for_empty_prompt": False,
    "requires_aesthetics_score": True,
    "add_watermarker": None,
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": [None, None],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": [None, None],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def statement(refiner: bool) -> dict[str, Any]:
    """What dreamflow.json says of a first edition (models/prior_spec.py)."""
    stated = {
        "native_size": networks.NATIVE_SIZE * (2 if refiner else 1),
        "poses": asdict(POSES),
        "backgrounds": asdict(BACKGROUNDS),
        "guidance": GUIDANCE,
        "normal_background": NORMAL_BACKGROUND,
        "kinds": FIRST_KINDS,
        "views": COMPASS,
        "target": "pixel",
        "lora": False,
    }
    if refiner:
        stated["guidance"] = REFINER_GUIDANCE
        return stated | {"vae": "base", "vae_scale": REFINER_LATENT_SCALE, "settings": REFINER_SETTINGS}
    return stated | {"settings": SETTINGS}


def write_model(folder: Path, parts: dict[str, nn.Module], refiner: bool) -> None:
    """A pipeline's folder, whole or as it was before: parts are unet, text_encoder and, for the base, vae."""
    suffix = "_2" if refiner else ""
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    for part, network in parts.items():
        write_part(
            copy.deepcopy(network), new / (f"text_encoder{suffix}" if part == "text_encoder" else part)
        )
    networks.save_tokenizer(new / f"tokenizer{suffix}")
    scheduler: Any = EulerDiscreteScheduler(**BETAS, steps_offset=1)
    if not refiner:
        scheduler = DDIMScheduler(**BETAS, steps_offset=1, clip_sample=False, set_alpha_to_one=False)
    scheduler.save_pretrained(new / "scheduler")
    write_json(new / "model_index.json", REFINER_INDEX if refiner else SD_INDEX)
    write_json(new / "dreamflow.json", statement(refiner))
    if folder.exists():
        shutil.rmtree(folder)
    new.rename(folder)


def write_part(network: Any, folder: Path) -> None:
    """Its weights in fp16, which it has from then on, and its configuration without the path that it was read from."""
    network.to("cpu", torch.float16).save_pretrained(folder)
    config = read_json(folder / "config.json")
    config.pop("_name_or_path", None)
    write_json(folder / "config.json", config)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def plot_losses(runs: list[Run], path: Path) -> None:
    """Every run's loss over pictures, a running mean of 50 notes."""
    figure, axes = pyplot.subplots(1, len(runs), figsize=(4 * len(runs), 3), squeeze=False)
    for run, axis in zip(runs, axes[0], strict=True):
        losses = torch.tensor(run.losses, dtype=torch.float64)
        if len(losses) > 60:
            axis.plot(losses[49:, 0].numpy(), losses[:, 1].unfold(0, 50, 1).mean(1).numpy())
        axis.set(title=run.name, xlabel="pictures", yscale="log")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
