"""Which files of a model's folder are read, in diffusers' layout.

models/model_folder.py checks them, models/load.py has the libraries read them, and `models fetch` brings exactly
them. Nothing heavy is imported: `models` lists without torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from backend.errors import ModelError
from dreamflow_blender.contract.files import read_linked

COMPONENTS: dict[str, dict[str, str | None]] = {  # pipeline: its components that we use, and their classes
    "StableDiffusionPipeline": {
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "scheduler": None,  # of any class: only its betas and prediction type are read
    },
    "StableDiffusionXLPipeline": {
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "tokenizer_2": "CLIPTokenizer",
        "scheduler": None,
    },
    "StableDiffusionXLImg2ImgPipeline": {  # the refiner
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "tokenizer_2": "CLIPTokenizer",
        "scheduler": None,
    },
    "MVDreamPipeline": {  # models/mvdream.py
        "unet": None,
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "scheduler": None,
    },
}
ADAPTERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # what is added to a prior: the JSON that its folder has to have, and its weights without their ends
    "ControlNet": (("config.json",), ("diffusion_pytorch_model",)),
    "MV-Adapter": ((), ("mvadapter_tg2mv_sdxl",)),
    "IP-Adapter": (
        ("models/image_encoder/config.json",),
        ("models/image_encoder/model", "models/ip-adapter_sd15", "sdxl_models/ip-adapter_sdxl_vit-h"),
    ),
}
WEIGHT_STEMS = {
    "unet": "diffusion_pytorch_model",
    "camera_proj": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
    "image_encoder": "model",
}
CONFIG_NAMES = {
    "scheduler": "scheduler_config.json",
    "tokenizer": "tokenizer_config.json",
    "tokenizer_2": "tokenizer_config.json",
}
VOCABULARY = (
    "vocab.json",
    "merges.txt",
)  # a CLIP tokenizer without them makes up a vocabulary of three tokens
# What transformers reads beside them where it is there. The first says with what Stable Diffusion 2's sentences are
# filled up, which its tokenizer_config.json states wrongly.
TOKENIZER_EXTRAS = ("special_tokens_map.json", "added_tokens.json", "tokenizer.json")


MOST_JSON = 64 << 20  # bytes
MOST_DEPTH = 32  # of lists and objects in each other: of published ones 4


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model's folder; ModelError where it is missing, damaged or out of all proportion."""
    try:
        value = json.loads(read_linked(path, MOST_JSON))
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing.", "Copy the model again, whole.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({error}).", "Copy the model again.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object.", "Copy the model again.")
    level: list[Any] = [value]
    for _ in range(MOST_DEPTH):
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)
                 if isinstance(inner, dict | list)]  # fmt: skip
    if level:
        raise ModelError(f"{path} is nested more than {MOST_DEPTH} deep.", "Copy the model again.")
    return value


def config_file(component: str) -> str:
    """The path of a component's configuration inside the model's folder."""
    return f"{component}/{CONFIG_NAMES.get(component, 'config.json')}"


def text_files(pipeline: str) -> tuple[str, ...]:
    """The JSON and text files that a folder has to have."""
    if pipeline in ADAPTERS:
        return ADAPTERS[pipeline][0]
    tokenizers = [name for name in COMPONENTS[pipeline] if name.startswith("tokenizer")]
    return (
        "model_index.json",
        *(config_file(component) for component in COMPONENTS[pipeline]),
        *(f"{tokenizer}/{name}" for tokenizer in tokenizers for name in VOCABULARY),
    )


def optional_files(pipeline: str) -> tuple[str, ...]:
    """The JSON and text files that change what is read where they are there."""
    if pipeline in ADAPTERS:
        return ()
    tokenizers = [name for name in COMPONENTS[pipeline] if name.startswith("tokenizer")]
    return tuple(f"{tokenizer}/{name}" for tokenizer in tokenizers for name in TOKENIZER_EXTRAS)


def weight_stems(pipeline: str) -> tuple[str, ...]:
    """The weight files without their ends, which say the precision."""
    if pipeline in ADAPTERS:
        return ADAPTERS[pipeline][1]
    return tuple(
        f"{name}/{WEIGHT_STEMS[name]}" for name in sorted(COMPONENTS[pipeline]) if name in WEIGHT_STEMS
    )
