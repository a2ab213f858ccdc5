"""Models in one file, as ComfyUI and A1111 keep them: the names that LDM and OpenCLIP gave their tensors.

The names are those of the published files (v1-5-pruned-emaonly, v2-1_512-ema-pruned, sd_xl_base_1.0,
sd_xl_refiner_1.0); the other way round than diffusers' conversions, and written without them.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from backend.weights.checkpoint_kind import Family, families
from backend.weights.layout import read_json
from tests.tools.published_configs import REFINER, SD15, SD21_BASE, SDXL_BASE
from tests.tools.real_folders import reduced

KINDS = {"sd15": SD15, "sd21-base": SD21_BASE, "sdxl": SDXL_BASE, "refiner": REFINER}
NAMES = dict(zip(KINDS, ("Stable Diffusion 1", "Stable Diffusion 2", "SDXL", "SDXL refiner"), strict=True))

PREFIXES = {
    "sd15": {"text_encoder": "cond_stage_model.transformer."},
    "sd21-base": {"text_encoder": "cond_stage_model.model."},
    "sd21": {"text_encoder": "cond_stage_model.model."},
    "sdxl": {
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
    "refiner": {"text_encoder_2": "conditioner.embedders.0.model."},
}
V_BIAS = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


def unet_name(name: str, config: dict[str, Any]) -> str:
    """LDM's name of a tensor, or of a module, of diffusers' UNet."""
    for ours, theirs in ENDS.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    block, rest = re.fullmatch(r"((?:down_blocks|up_blocks)\.\d+|mid_block)\.(.*)", name).groups()  # type: ignore[union-attr]
    part, j, inner = re.fullmatch(r"(\w+)\.(\d+)\.(.*)", rest).groups()  # type: ignore[union-attr]
    if part == "resnets":
        module = inner.split(".")[0]
        inner = RESNET[module] + inner.removeprefix(module)
    if block == "mid_block":
        return f"middle_block.{1 if part == 'attentions' else 2 * int(j)}.{inner}"
    i = int(block.split(".")[1])
    if block.startswith("down"):
        if part == "downsamplers":
            return f"input_blocks.{3 * i + 3}.0.{inner.replace('conv', 'op')}"
        return f"input_blocks.{3 * i + int(j) + 1}.{int(part == 'attentions')}.{inner}"
    if part == "upsamplers":
        return f"output_blocks.{3 * i + 2}.{2 if 'Cross' in config['up_block_types'][i] else 1}.{inner}"
    return f"output_blocks.{3 * i + int(j)}.{int(part == 'attentions')}.{inner}"


def vae_name(name: str) -> str:
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    name = name.replace("mid_block.attentions.0.", "mid.attn_1.").replace("group_norm", "norm")
    if "mid.attn_1." in name:
        for old, new in (("query", "q"), ("key", "k"), ("value", "v"), ("proj_attn", "proj_out")):
            name = name.replace(f".{old}.", f".{new}.")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{3 - int(m[1])}.block", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)


def openclip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("text_model.").replace("encoder.layers.", "transformer.resblocks.")
        for ours, theirs in (
            ("layer_norm", "ln_"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"), ("self_attn.", "attn."),
            ("final_ln_.", "ln_final."), ("embeddings.token_embedding", "token_embedding"),
            ("embeddings.position_embedding.weight", "positional_embedding"),
        ):  # fmt: skip
            name = name.replace(ours, theirs)
        name = name.replace("final_ln_", "ln_final")
        if name == "text_projection.weight":
            name, tensor = "text_projection", tensor.T.contiguous()
        found[name] = tensor
    for name in [n for n in found if ".q_proj." in n]:
        parts = [found.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        found[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return found


def write_one_file(
    folder: Path, kind: str, path: Path, dtype: torch.dtype = torch.float32, metadata: dict[str, str] | None = None
) -> Path:  # fmt: skip
    """The model in `folder` (real_folders.build, full precision) as one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cast = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors_of(folder, kind).items()}
    save_file({name: t.contiguous() for name, t in cast.items()}, path, metadata=metadata)
    return path


def tensors_of(folder: Path, kind: str) -> dict[str, Tensor]:
    config = read_json(folder / "unet" / "config.json")
    stem = "diffusion_pytorch_model.safetensors"
    found = {
        f"model.diffusion_model.{unet_name(name, config)}": t
        for name, t in load_file(folder / "unet" / stem).items()
    }
    for name, t in load_file(folder / "vae" / stem).items():
        attention = "attentions" in name and name.endswith("weight") and t.ndim == 2
        found[f"first_stage_model.{vae_name(name)}"] = t[:, :, None, None] if attention else t
    for component, prefix in PREFIXES[kind].items():
        text = load_file(folder / component / "model.safetensors")
        if prefix.endswith("model."):
            text.pop("text_model.embeddings.position_ids", None)
            text = openclip(text)
        found |= {prefix + name: t for name, t in text.items()}
    if kind in ("sd21-base", "sd21"):  # its last block is not run, and nothing is projected
        prefix = "cond_stage_model.model."
        last = {
            n.replace("blocks.0.", "blocks.23."): t.clone()
            for n, t in found.items()
            if f"{prefix}transformer.resblocks.0." in n
        }
        found |= last
        found |= {f"{prefix}text_projection": torch.zeros(16, 16), f"{prefix}logit_scale": torch.ones(())}
    return found | {"alphas_cumprod": torch.ones(1000), "model_ema.decay": torch.ones(())}


@lru_cache(maxsize=1)
def small_families() -> tuple[Family, ...]:
    """The published configurations with real_folders' widths, in the place of checkpoint_kind.families."""
    found = []
    for family in families():
        kind = next(kind for kind, name in NAMES.items() if name == family.name)
        configs = {
            name: {key: value for key, value in config.items() if key in family.configs[name]}
            for name, config in (
                (n.split("/")[0], c) for n, c in reduced(KINDS[kind]).items() if n.endswith("/config.json")
            )
        }
        found.append(Family(family.name, family.pipeline, family.prefixes, configs))
    return tuple(found)
