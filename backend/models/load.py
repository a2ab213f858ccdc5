"""Weights into memory: the only place that calls `from_pretrained`, from checked folders, offline, safetensors only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache, partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from backend.device import give_back_blocks
from backend.diffusion.denoiser import Network
from backend.diffusion.graphs import Graphs, wanted
from backend.diffusion.joint_attention import join_frames
from backend.diffusion.savings import Savings
from backend.errors import ModelError
from backend.models import mvdream
from backend.models.model_folder import ModelFolder
from backend.models.single_file import load_part, prefix_of, tokenizer
from backend.weights.resident import RESIDENT
from backend.weights.tokens import END, check_vocabulary, expected_filler, filler

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
    if model.pipeline == mvdream.PIPELINE:
        files = tuple(file for part in ("unet", mvdream.CAMERA) for file in model.weights.get(part, ()))
        unet: Any = RESIDENT.get(
            json.dumps(model.configs["unet"]),
            files,
            dtype,
            lambda: mvdream.load_unet(model.path, model.configs["unet"], model.weights, dtype),
        )
        _placed(unet, device)
    else:
        unet = _load(UNet2DConditionModel, model, "unet", device, torch_dtype=dtype)
    assert isinstance(unet, UNet2DConditionModel)
    takes_camera, frames = model.spec.camera == "c2w", model.spec.frames
    if frames > 1:
        join_frames(unet, frames)
    return Network(unet, model.prediction, dtype, Graphs() if wanted(device) else None, takes_camera, frames)


def load_vae(model: ModelFolder, device: torch.device) -> AutoencoderKL:
    """The VAE in float32, frozen: SDXL's overflows float16, and a render's gradient passes through it."""
    vae = _load(AutoencoderKL, model, "vae", device, torch_dtype=torch.float32)
    assert isinstance(vae, AutoencoderKL)
    vae.register_to_config(scaling_factor=vae.config.scaling_factor * model.spec.vae_scale)
    return vae


def load_text(
    model: ModelFolder, device: torch.device, component: str = ""
) -> tuple[CLIPTokenizer, nn.Module]:
    """Tokenizer and text encoder in float32. They are needed once a prompt, so the caller releases them.

    component  one of model.encoders; the first where it is left out
    """
    component = component or model.encoders[0]
    kind = CLIPTextModelWithProjection if component == "text_encoder_2" else CLIPTextModel
    encoder = _load(kind, model, component, device, dtype=torch.float32)
    words = load_tokenizer(model, component)
    if len(words) > encoder.config.vocab_size:
        raise ModelError(
            f"{model.path}: tokenizer with {len(words)} tokens, expected at most {encoder.config.vocab_size}"
            " (text encoder).",
            "Use a folder whose parts belong together.",
        )
    return words, encoder


def load_tokenizer(model: ModelFolder, component: str = "") -> CLIPTokenizer:
    """Of one of model.encoders, by default the first. Quick, without the encoder's weights. Remembered while the files'
    sizes and times stay the same: a job asks for it in each of its stages."""
    if model.family:
        return tokenizer(expected_filler(model.configs[component or model.encoders[0]]) or END)
    folder = model.path / (component or model.encoders[0]).replace("text_encoder", "tokenizer")
    try:
        stats = [(file.name, file.stat()) for file in sorted(folder.iterdir())]
    except OSError as error:
        raise ModelError(f"{folder} cannot be read ({error.strerror}).", "Copy the model again.") from error
    return _tokenizer(folder, tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))


@lru_cache(maxsize=4)
def _tokenizer(folder: Path, _files: tuple[tuple[str, int, int], ...]) -> CLIPTokenizer:
    expected = filler(folder)
    check_vocabulary(folder)
    try:
        read = CLIPTokenizer.from_pretrained(folder.parent, subfolder=folder.name, local_files_only=True)
    except Exception as error:
        if type(error) is not Exception and not isinstance(
            error, OSError | ValueError | TypeError | KeyError
        ):
            raise
        raise ModelError(f"{folder}: {error!s:.300}", "Copy the model again.") from error
    if read.pad_token != expected:
        raise ModelError(
            f"{folder}: transformers fills sentences up with {read.pad_token!r}, expected {expected!r}.",
            "Install the versions of the requirements.",
        )
    return read


def _load(kind: Any, model: ModelFolder, component: str, device: torch.device, **dtype: torch.dtype) -> Any:
    (numbers,) = dtype.values()
    config, files = json.dumps([component, model.configs[component]]), model.weights[component]
    if model.family:
        read = partial(load_part, model, component, numbers)
    else:
        read = partial(_read, kind, model.home(component) / component, files, **dtype)
    return _placed(RESIDENT.get(config, files, numbers, read), device)


def load_beside(
    kind: Any, folder: Path, config: Any, files: tuple[Path, ...], device: torch.device, dtype: torch.dtype
) -> Any:
    """A network of its own folder, frozen. Raises ModelError."""
    read = partial(_read, kind, folder, files, torch_dtype=dtype)
    return _placed(RESIDENT.get(json.dumps([str(kind), config]), files, dtype, read), device)


def _read(kind: Any, folder: Path, files: tuple[Path, ...], **dtype: torch.dtype) -> nn.Module:
    variant = "fp16" if ".fp16" in files[0].name else None
    try:
        module, info = kind.from_pretrained(
            folder.parent,
            subfolder=folder.name,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **dtype,
        )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        raise ModelError(f"{folder} cannot be loaded: {error}", "Copy the model again.") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(
            f"{folder} lacks {len(missing)} tensors, {missing[0]} first.", "Copy the model again."
        )
    found: nn.Module = module
    return found


def _placed(module: Any, device: torch.device) -> Any:
    """On the device, frozen."""
    module.to(device).eval().requires_grad_(False)
    if device.type == "cpu" and sum(p.numel() * p.element_size() for p in module.parameters()) > LARGE:
        give_back_blocks()
    if device.type == "cuda":  # how its convolutions read images
        module.to(memory_format=torch.channels_last)
    return module


# GB a view beside the weights: as it comes, with the VAE's encoder checkpointed, and with D_phi's step as well
COUNTED = {
    ("sd", torch.bfloat16): (4.23, 1.78, 1.25),
    ("sd", torch.float32): (4.78, 2.33, 1.47),
    ("sdxl", torch.bfloat16): (20.71, 10.91, 4.98),
    ("sdxl", torch.float32): (24.27, 14.47, 5.15),  # the refiner's, and by how much that is more in bfloat16
    ("refiner", torch.bfloat16): (20.24, 10.44, 4.95),
    ("refiner", torch.float32): (23.80, 14.00, 5.12),
}

# GB that a captured pass of two rows (guided D_p) keeps: D_phi's, of one, shares it on the same network
CAPTURED = {
    ("sd", torch.bfloat16): 0.14,
    ("sd", torch.float32): 0.28,
    ("sdxl", torch.bfloat16): 0.33,
    ("sdxl", torch.float32): 0.66,
    ("refiner", torch.bfloat16): 0.40,
    ("refiner", torch.float32): 0.80,
}
SIDE = {"sd": 512, "sdxl": 1024, "refiner": 1024}  # pixels, at which that was
WIDTH = {"sd": 320, "sdxl": 320, "refiner": 384}  # channels of the UNet's first block
VAE_WIDTH = 128  # likewise


def footprint(
    model: ModelFolder,
    phi: ModelFolder | None,
    side: int,
    dtype: torch.dtype,
    savings: Savings,
    views: float = 0,
) -> float:
    """GB for the networks of `model` and of D_phi's own model, fed with images of `side` pixels a side.

    views  at once, or times what one takes; 0: those of a ring
    """
    bytes_each = dtype.itemsize
    weights = parameters(model, "unet") * bytes_each + parameters(model, "vae") * 4
    if phi is not None:
        weights += parameters(phi, "unet") * bytes_each
    kind = (
        "sd" if "text_encoder_2" not in model.configs else "sdxl" if len(model.encoders) == 2 else "refiner"
    )
    rung = savings.checkpoint_encode + savings.checkpoint_fit
    width: float = max(
        model.configs["unet"]["block_out_channels"][0] / WIDTH[kind],
        model.configs["vae"]["block_out_channels"][0] / VAE_WIDTH,
    )
    frames = model.spec.frames + bool(model.picture_words)
    passes = COUNTED[kind, dtype][rung]
    if savings.graphs:
        passes += CAPTURED[kind, dtype] * (1 if phi is None else 1.5)
    return weights / 1e9 + passes * width * (side / SIDE[kind]) ** 2 * (views or frames)


def parameters(model: ModelFolder, component: str) -> int:
    """How many numbers a component's files hold."""
    return count_numbers(model.weights[component], prefix_of(model, component))


def count_numbers(files: Sequence[Path], prefix: str = "") -> int:
    """How many numbers safetensors files hold, in tensors whose names begin so."""
    count = 0
    for path in files:
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118  no mapping
            count += sum(prod(file.get_slice(name).get_shape()) for name in names)
    return count
