"""Random pipelines with exactly the configuration shape of SD 2.1-base, SD 2.1 and the SDXL refiner.

`size="tiny"` keeps every class, block type, list and flag and shrinks the numbers; `size="full"` has the real
numbers and takes gigabytes. Saved in diffusers' layout with the hub's file names.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

Size = Literal["tiny", "full"]
Kind = Literal["sd21-base", "sd21", "refiner"]

BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


@dataclass(frozen=True)
class Numbers:
    """What differs between a tiny and a full model."""

    unet_channels: tuple[int, ...]
    heads: tuple[int, ...]
    transformer_layers: int
    groups: int
    latent_size: int
    vae_channels: tuple[int, ...]
    text_width: int
    text_inner: int
    text_layers: int
    text_heads: int
    projection: int
    time_ids: int
    vocab: int


TINY_SD = Numbers(
    unet_channels=(8, 16, 16, 16),
    heads=(1, 2, 2, 2),
    transformer_layers=1,
    groups=8,
    latent_size=8,
    vae_channels=(8, 8, 8, 8),
    text_width=16,
    text_inner=32,
    text_layers=2,
    text_heads=2,
    projection=16,
    time_ids=4,
    vocab=600,
)
TINY_REFINER = replace(TINY_SD, transformer_layers=2, text_layers=3, projection=12)
FULL_SD = Numbers(
    unet_channels=(320, 640, 1280, 1280),
    heads=(5, 10, 20, 20),
    transformer_layers=1,
    groups=32,
    latent_size=64,
    vae_channels=(128, 256, 512, 512),
    text_width=1024,
    text_inner=4096,
    text_layers=23,
    text_heads=16,
    projection=512,
    time_ids=256,
    vocab=49408,
)
FULL_REFINER = replace(
    FULL_SD,
    unet_channels=(384, 768, 1536, 1536),
    heads=(6, 12, 24, 24),
    transformer_layers=4,
    latent_size=128,
    text_width=1280,
    text_inner=5120,
    text_layers=32,
    text_heads=20,
    projection=1280,
)
NUMBERS = {
    ("sd21-base", "tiny"): TINY_SD,
    ("sd21", "tiny"): replace(TINY_SD, latent_size=12),
    ("refiner", "tiny"): TINY_REFINER,
    ("sd21-base", "full"): FULL_SD,
    ("sd21", "full"): replace(FULL_SD, latent_size=96),
    ("refiner", "full"): FULL_REFINER,
}


def build(
    folder: Path, kind: Kind, size: Size = "tiny", seed: int = 0, dtype: torch.dtype = torch.float32
) -> Path:
    """Save a random pipeline into `folder` and return it. The global generator is left as it was."""
    numbers = NUMBERS[kind, size]
    suffix = "_2" if kind == "refiner" else ""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        save(unet(kind, numbers), folder / "unet", dtype)
        save(vae(kind, numbers), folder / "vae", dtype)
        save(text_encoder(kind, numbers), folder / f"text_encoder{suffix}", dtype)
    save_tokenizer(folder / f"tokenizer{suffix}")
    scheduler: Any
    if kind == "sd21-base":
        scheduler = PNDMScheduler(**BETAS, skip_prk_steps=True, prediction_type="epsilon")
    elif kind == "sd21":
        scheduler = DDIMScheduler(
            **BETAS, clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction"
        )
    else:
        scheduler = EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", prediction_type="epsilon")
    scheduler.save_pretrained(folder / "scheduler")
    write_json(folder / "model_index.json", index(kind, type(scheduler).__name__))
    return folder


def save(module: Any, folder: Path, dtype: torch.dtype) -> None:
    if dtype != torch.float32:
        module.to(dtype)
    module.save_pretrained(folder, safe_serialization=True)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), "utf-8")


def index(kind: Kind, scheduler: str) -> dict[str, Any]:
    if kind == "refiner":
        return {
            "_class_name": "StableDiffusionXLImg2ImgPipeline",
            "_diffusers_version": "0.19.0.dev0",
            "force_zeros_for_empty_prompt": False,
            "requires_aesthetics_score": True,
            "add_watermarker": None,
            "scheduler": ["diffusers", scheduler],
            "text_encoder": [None, None],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer": [None, None],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }
    return {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.8.0",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def unet(kind: Kind, numbers: Numbers) -> UNet2DConditionModel:
    shared: dict[str, Any] = {
        "sample_size": numbers.latent_size,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": numbers.unet_channels,
        "attention_head_dim": numbers.heads,  # diffusers' name for the number of heads
        "layers_per_block": 2,
        "cross_attention_dim": numbers.text_width,
        "norm_num_groups": numbers.groups,
        "use_linear_projection": True,
    }
    if kind != "refiner":
        return UNet2DConditionModel(**shared, upcast_attention=kind == "sd21")
    return UNet2DConditionModel(
        **shared,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=numbers.transformer_layers,
        addition_embed_type="text_time",
        addition_time_embed_dim=numbers.time_ids,
        projection_class_embeddings_input_dim=numbers.projection + 5 * numbers.time_ids,
    )


def vae(kind: Kind, numbers: Numbers) -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=numbers.vae_channels,
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=numbers.groups,
        sample_size=numbers.latent_size * 8,
        scaling_factor=0.13025 if kind == "refiner" else 0.18215,
        force_upcast=kind == "refiner",
    )


def text_encoder(kind: Kind, numbers: Numbers) -> CLIPTextModel | CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=numbers.vocab,
        hidden_size=numbers.text_width,
        intermediate_size=numbers.text_inner,
        num_hidden_layers=numbers.text_layers,
        num_attention_heads=numbers.text_heads,
        projection_dim=numbers.projection,
        max_position_embeddings=77,
        hidden_act="gelu",
        bos_token_id=0,
        eos_token_id=2,  # as on the hub: it means that a sentence ends at its highest token
        pad_token_id=1,
    )
    return CLIPTextModelWithProjection(config) if kind == "refiner" else CLIPTextModel(config)


def save_tokenizer(folder: Path) -> None:
    """A byte tokenizer in the hub's layout: bytes, bytes that end a word, start and end of text."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    letters = [chr(byte) for byte in visible] + [chr(256 + i) for i in range(len(hidden))]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n", "utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",  # as Stable Diffusion 2.1's, which is wrong: the next file is right
        "do_lower_case": True,
        "add_prefix_space": False,
    }
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", {"pad_token": "!"})
