"""Weights into memory: the only place that calls `from_pretrained`, from checked folders, offline, safetensors only."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from backend.device import give_back_blocks
from backend.diffusion.denoiser import Network
from backend.diffusion.graphs import Graphs, wanted
from backend.diffusion.joint_attention import join_frames
from backend.diffusion.models import ModelFolder
from backend.errors import ModelError

LARGE = 2**30  # bytes of a network

transformers_logging.disable_progress_bar()  # the terminal belongs to the command line


def network_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the card computes in it, else float32: SD 2.1's attention overflows float16."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


def load_network(model: ModelFolder, device: torch.device) -> Network:
    """The UNet, frozen."""
    dtype = network_dtype(device)
    unet = _load(UNet2DConditionModel, model, "unet", device, torch_dtype=dtype)
    assert isinstance(unet, UNet2DConditionModel)
    told, frames = model.statement.camera == "c2w", model.statement.frames
    if frames > 1:
        join_frames(unet, frames)
    return Network(unet, model.prediction, dtype, Graphs() if wanted(device) else None, told, frames)


def load_vae(model: ModelFolder, device: torch.device) -> AutoencoderKL:
    """The VAE in float32, frozen: SDXL's overflows float16, and a render's gradient passes through it."""
    vae = _load(AutoencoderKL, model, "vae", device, torch_dtype=torch.float32)
    assert isinstance(vae, AutoencoderKL)
    vae.register_to_config(scaling_factor=vae.config.scaling_factor * model.statement.vae_scale)
    return vae


def load_text(model: ModelFolder, device: torch.device) -> tuple[CLIPTokenizer, nn.Module]:
    """Tokenizer and text encoder in float32. They are needed once a prompt, so the caller lets go of them."""
    refiner = "text_encoder_2" in model.configs
    kind = CLIPTextModelWithProjection if refiner else CLIPTextModel
    encoder = _load(kind, model, "text_encoder_2" if refiner else "text_encoder", device, dtype=torch.float32)
    tokenizer = load_tokenizer(model)
    if len(tokenizer) > encoder.config.vocab_size:
        raise ModelError(
            f"{model.path}: tokenizer with {len(tokenizer)} tokens, expected at most {encoder.config.vocab_size}"
            " (text encoder).",
            "Use a folder whose parts belong together.",
        )
    return tokenizer, encoder


def load_tokenizer(model: ModelFolder) -> CLIPTokenizer:
    """Quick, without the encoder's weights."""
    suffix = "_2" if "text_encoder_2" in model.configs else ""
    try:
        return CLIPTokenizer.from_pretrained(
            model.path, subfolder=f"tokenizer{suffix}", local_files_only=True
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{model.path / f'tokenizer{suffix}'}: {error}", "Copy the model again.") from error


def _load(kind: Any, model: ModelFolder, component: str, device: torch.device, **dtype: torch.dtype) -> Any:
    variant = "fp16" if ".fp16" in model.weights[component][0].name else None
    try:
        module, info = kind.from_pretrained(
            model.home(component),
            subfolder=component,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **dtype,
        )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        raise ModelError(
            f"{model.home(component) / component} cannot be loaded: {error}", "Copy the model again."
        ) from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(
            f"{model.home(component) / component} lacks {len(missing)} tensors, {missing[0]} first.",
            "Copy the model again.",
        )
    module.to(device).eval().requires_grad_(False)
    if device.type == "cpu" and sum(p.numel() * p.element_size() for p in module.parameters()) > LARGE:
        give_back_blocks()
    if device.type == "cuda":  # how its convolutions read images
        module.to(memory_format=torch.channels_last)
    return module
