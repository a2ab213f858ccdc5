"""Model folders as they are on the hub: the published configurations with the widths alone reduced, the published
names of files and tensors, the published vocabulary's ids, and everything that lies beside."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tests.tools.published_configs import END, MERGES, MODELS, PREPROCESSOR, START, VOCABULARY, Json

Variants = Literal["full", "fp16", "both"]

# the single files beside them, for other programs
CHECKPOINTS = {
    "sd21-base": "v2-1_512-ema-pruned",
    "sd21": "v2-1_768-ema-pruned",
    "refiner": "sd_xl_refiner_1.0",
    "sd15": "v1-5-pruned-emaonly",
    "sd-turbo": "sd_turbo",
    "sdxl": "sd_xl_base_1.0",
}
UNET_WIDTHS = {320: 8, 640: 16, 1280: 16, 384: 8, 768: 16, 1536: 16}  # 256 and 512 of others are not built
HEADS = {5: 1, 10: 2, 20: 2, 6: 1, 12: 2, 24: 2}
TEXT_WIDTH, PROJECTION, TIME_IDS = 16, 12, 4
OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def reduced(files: dict[str, Json]) -> dict[str, Json]:
    """The same files with smaller numbers of channels, heads, layers and pixels; every other key and value is kept."""
    files = copy.deepcopy(files)
    unet = files["unet/config.json"]
    unet["block_out_channels"] = [UNET_WIDTHS[width] for width in unet["block_out_channels"]]
    heads = unet["attention_head_dim"]
    unet["attention_head_dim"] = [HEADS[count] for count in heads] if isinstance(heads, list) else 2
    encoders = sum(name.startswith("text_encoder") for name in files)
    unet |= {
        "cross_attention_dim": encoders * TEXT_WIDTH,
        "norm_num_groups": 8,
        "sample_size": unet["sample_size"] // 8 if unet["sample_size"] < 128 else 8,
    }
    if unet.get("addition_time_embed_dim"):
        unet |= {
            "addition_time_embed_dim": TIME_IDS,
            "projection_class_embeddings_input_dim": PROJECTION + (6 if encoders == 2 else 5) * TIME_IDS,
            "transformer_layers_per_block": [1, 2, 3] if encoders == 2 else 2,
        }
    files["vae/config.json"] |= {"block_out_channels": [8] * 4, "norm_num_groups": 8}
    for name, text in files.items():
        if name.startswith("text_encoder"):
            text |= {
                "hidden_size": TEXT_WIDTH,
                "intermediate_size": 2 * TEXT_WIDTH,
                "num_attention_heads": 2,
                "num_hidden_layers": 3,
                "projection_dim": PROJECTION if "_2" in name else TEXT_WIDTH,
            }
    return files


def build(folder: Path, kind: str, variants: Variants = "both", seed: int = 0) -> Path:
    """A model of MODELS with random weights. The global generator is left as it was."""
    files = reduced(MODELS[kind])
    write_texts(folder, files)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for component, tensors in make_weights(files).items():
            save(folder / component, tensors, variants)
    (folder / f"{CHECKPOINTS[kind]}.safetensors").write_bytes(b"one file for other programs")
    (folder / f"{CHECKPOINTS[kind]}.ckpt").write_bytes(pickle.dumps("one file for other programs"))
    return folder


def write_texts(folder: Path, files: dict[str, Json]) -> None:
    """Everything but weights: the configurations, the vocabulary, and what lies beside them."""
    rest = {"feature_extractor/preprocessor_config.json": PREPROCESSOR}
    for name, value in (files | rest).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
    for tokenizer in {name.split("/")[0] for name in files if name.startswith("tokenizer")}:
        write_vocabulary(folder / tokenizer)
    (folder / "README.md").write_text("# A model\n", "utf-8")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n", "utf-8")


def write_vocabulary(folder: Path) -> None:
    """All 49408 ids of the published vocabulary; tokens that our prompts do not need have other names."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(byte) for byte in visible]
    letters += [chr(256 + i) for i in range(256 - len(letters))]
    names = [*letters, *(letter + "</w>" for letter in letters)]
    names += [f"(token {i})" for i in range(len(names), VOCABULARY - 2)] + [START, END]
    for (left, right), i in MERGES.items():
        names[i] = left + right
    vocabulary = json.dumps({name: i for i, name in enumerate(names)}, ensure_ascii=False)
    (folder / "vocab.json").write_text(vocabulary, "utf-8")
    merges = [" ".join(pair) for pair in sorted(MERGES, key=lambda pair: MERGES[pair])]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")


def make_weights(files: dict[str, Json]) -> dict[str, dict[str, Tensor]]:
    """Each component's tensors by their published names."""
    weights = {
        "unet": tensors_of(UNet2DConditionModel.from_config(files["unet/config.json"])),
        "vae": {
            old_name(name): tensor
            for name, tensor in tensors_of(AutoencoderKL.from_config(files["vae/config.json"])).items()
        },
    }
    for name, config in files.items():
        if name.startswith("text_encoder"):
            pooled = config["architectures"] == ["CLIPTextModelWithProjection"]
            kind: Any = CLIPTextModelWithProjection if pooled else CLIPTextModel
            tensors = tensors_of(kind(CLIPTextConfig(**config)))
            positions = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
            weights[name.split("/")[0]] = {published_name(key): t for key, t in tensors.items()} | positions
    return weights


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.state_dict())


def old_name(name: str) -> str:
    """How the VAE's attention was called until 2023, as in all published files."""
    for new, old in OLD_ATTENTION.items():
        if ".attentions." in name:
            name = name.replace(f".{new}.", f".{old}.")
    return name


def published_name(name: str) -> str:
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


def save(folder: Path, tensors: dict[str, Tensor], variants: Variants) -> None:
    """In full precision, as fp16 or both, each with its pickle beside it."""
    stem = "model" if folder.name.startswith("text_encoder") else "diffusion_pytorch_model"
    pickled = "pytorch_model" if stem == "model" else stem
    for end, dtype in (("", torch.float32), (".fp16", torch.float16)):
        if variants == "both" or variants == ("fp16" if end else "full"):
            cast = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
            save_file(
                {name: t.contiguous() for name, t in cast.items()},
                folder / f"{stem}{end}.safetensors",
                metadata={"format": "pt"},
            )
            (folder / f"{pickled}{end}.bin").write_bytes(pickle.dumps("weights"))
