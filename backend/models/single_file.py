"""A whole model in one .safetensors file, as ComfyUI and A1111 keep them, by diffusers' own conversions; offline.

The configurations are the published pipelines' (published.json), the vocabulary is CLIP's (clip/). Every tensor of the
file's UNet, VAE and text encoders has to find its place, and every place its tensor: by shapes, when the file is
opened, before a weight is read.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from backend.diffusion.convention import Prediction
from backend.errors import ModelError
from backend.models.fit import check_fit, distilled_note
from backend.models.model_folder import SDXL, ModelFolder, latent_factor, local_path, open_folder
from backend.models.prior_spec import make_spec
from backend.weights.checkpoint_kind import (
    EXTRAS,
    UNET,
    WHOLE_MODEL,
    Family,
    Header,
    families,
    family_of,
    few_steps,
    read_header,
)
from backend.weights.layout import read_json
from backend.weights.tokens import END

MERGES = Path(__file__).parent / "clip" / "merges.txt"
SENTENCE = 77  # tokens
# of the last block of Stable Diffusion 2's text encoder, which is never run, its norm bias's spread apart: v prediction
V_SIGN, V_SPREAD = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09


def open_model(name_or_path: str | Path) -> ModelFolder:
    """A model's folder or its one file. Raises ModelError, which names what is missing, damaged or does not fit."""
    path = local_path(name_or_path)
    if path.suffix.lower() == ".safetensors" and path.is_file():
        return open_file(path)
    return open_folder(path)


def open_file(path: Path) -> ModelFolder:
    """Find out what it holds, and check that all of it fits. ModelError says what does not.

    NAME.dreamflow.json beside NAME.safetensors is what dreamflow.json is in a folder.
    """
    header = read_header(path)
    family = family_of(header)
    stated = path.with_suffix(".dreamflow.json")
    usual = {"refiner": "sdxl-refiner"} if family.pipeline == SDXL else {}
    spec = make_spec(usual | (read_json(stated) if stated.is_file() else {}), stated)
    configs = {name: dict(config) for name, config in family.configs.items()}
    for name in list(configs):
        if name.startswith("text_encoder"):
            configs[name.replace("text_encoder", "tokenizer")] = {"model_max_length": SENTENCE}
    prediction = prediction_of(header, spec.prediction)
    if prediction == "v_prediction" and family.name == "Stable Diffusion 2":
        configs["unet"]["sample_size"] = 96  # 768 pixels
        configs["unet"]["upcast_attention"] = True
    check_fit(path, configs, spec)
    with torch.device("meta"):
        empty = {name: torch.empty(shape) for name, shape in header.shapes.items()}
    for component in family.prefixes:
        placed(path, component, empty, configs, family)
    notes = []
    if (word := few_steps(header)) and spec.guidance is None:
        notes.append(distilled_note(path, f"{word!r} in its name or metadata"))
        spec = replace(spec, guidance=1.0)
    if not spec.native_size:
        spec = replace(spec, native_size=configs["unet"]["sample_size"] * latent_factor(configs))
    weights: dict[str, tuple[Path, ...]] = dict.fromkeys(family.prefixes, (path,))
    zeros = family.pipeline == SDXL
    return ModelFolder(
        path, family.pipeline, configs, weights, prediction, spec, zeros, tuple(notes), family=family.name
    )


def prediction_of(header: Header, stated: str) -> Prediction:
    """As dreamflow.json or the file's metadata state it; of Stable Diffusion 2, which has both kinds under one set of
    names, ComfyUI's measure: the spread of one bias."""
    said = " ".join(
        header.metadata.get(f"modelspec.{name}", "") for name in ("prediction_type", "architecture")
    ).lower()
    if stated:
        return "v_prediction" if stated == "v_prediction" else "epsilon"
    if "v_pred" in header.shapes or re.search(r"768-v|(^|\s)v(\s|$)|v_prediction|v-pred", said):
        return "v_prediction"
    if "epsilon" in said or family_of(header).name != "Stable Diffusion 2" or V_SIGN not in header.shapes:
        return "epsilon"
    with safe_open(header.path, "pt") as file:
        spread = float(file.get_tensor(V_SIGN).float().std(unbiased=False))
    return "v_prediction" if spread > V_SPREAD else "epsilon"


def prefix_of(model: ModelFolder, component: str) -> str:
    """How the names of a component's tensors begin in its files; "" in a folder."""
    return next((one.prefixes[component] for one in families() if one.name == model.family), "")


def load_part(model: ModelFolder, component: str, dtype: torch.dtype) -> nn.Module:
    """The component on the CPU, every tensor of the file in it, of `dtype`."""
    (path,) = model.weights[component]
    family = next(one for one in families() if one.name == model.family)
    with safe_open(path, "pt") as file:
        names = [n for n in file.keys() if n.startswith(family.prefixes[component])]  # noqa: SIM118  no mapping
        tensors = {name: file.get_tensor(name) for name in names}
    module, found = placed(path, component, tensors, model.configs, family)
    module.load_state_dict({name: tensor.to(dtype) for name, tensor in found.items()}, assign=True)
    for name, buffer in module.named_buffers():
        if buffer.is_meta:  # not in any file: the places of a sentence's tokens
            assert name.endswith("position_ids"), name
            module.get_submodule(name.rpartition(".")[0]).register_buffer(
                "position_ids", torch.arange(buffer.shape[-1])[None], persistent=False
            )
    return module


def placed(
    path: Path,
    component: str,
    tensors: dict[str, Tensor],
    configs: dict[str, dict[str, Any]],
    family: Family,
) -> tuple[nn.Module, dict[str, Tensor]]:
    """The empty module, and each of its tensors from the file's. ModelError where one is missing, left or misshapen."""
    prefix, config = family.prefixes[component], configs[component]
    own_tensors = {
        n: t for n, t in tensors.items() if n.startswith(prefix) and not n.endswith("position_ids")
    }
    module = empty_module(component, config)
    try:
        if component == "unet":
            found = convert_ldm_unet_checkpoint(own_tensors, config)
        elif component == "vae":
            found = convert_ldm_vae_checkpoint(own_tensors, config)
        elif prefix.endswith(".model."):
            found = convert_open_clip_checkpoint(module, own_tensors, prefix)
        else:
            found = {name.removeprefix(prefix): t for name, t in own_tensors.items()}
    except (KeyError, RuntimeError, IndexError, ValueError) as error:
        raise ModelError(f"{path}: its {component} is no {family.name}'s ({error}).", WHOLE_MODEL) from error
    own = module.state_dict()
    if not any(name.startswith("text_model.") for name in own):
        found = {name.removeprefix("text_model."): t for name, t in found.items()}
    left = set(_left(own_tensors, found, prefix))
    for what, names in (
        ("lacks", own.keys() - found.keys()),
        ("has unknown", (found.keys() - own.keys()) | left),
    ):
        if names:
            raise ModelError(
                f"{path}: its {component} is no {family.name}'s: it {what} {len(names)} tensors, {min(names)} first.",
                WHOLE_MODEL,
            )
    for name, tensor in found.items():
        if tensor.shape != own[name].shape:
            raise ModelError(
                f"{path}: its {component} is no {family.name}'s: {name} is {list(tensor.shape)}, expected"
                f" {list(own[name].shape)}.",
                WHOLE_MODEL,
            )
    return module, found


def _left(tensors: dict[str, Tensor], found: dict[str, Tensor], prefix: str) -> list[str]:
    """Names that the conversion has passed over, as diffusers' do in silence. Of OpenCLIP's encoder, whose matrices it
    takes apart, what does not begin or end as one of its own."""
    if prefix.endswith(".model."):
        known = re.compile(
            r"positional_embedding|text_projection|token_embedding\.weight|ln_final\.(weight|bias)|transformer\.resblocks\."
            r"\d+\.(attn\.(in_proj_(weight|bias)|out_proj\.(weight|bias))|ln_[12]\.(weight|bias)|mlp\.c_(fc|proj)\.(weight|bias))"
        )
        return [n for n in tensors if not EXTRAS.match(n) and not known.fullmatch(n.removeprefix(prefix))]
    taken = {tensor.untyped_storage()._cdata for tensor in found.values()}
    return [name for name, tensor in tensors.items() if tensor.untyped_storage()._cdata not in taken]


def empty_module(component: str, config: dict[str, Any]) -> nn.Module:
    """Without contents."""
    kinds: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    with torch.device("meta"):
        if component in kinds:
            module: nn.Module = kinds[component].from_config(config)
        elif component == "text_encoder":
            module = CLIPTextModel(CLIPTextConfig(**config))
        else:
            module = CLIPTextModelWithProjection(CLIPTextConfig(**config))
    return module


@lru_cache(maxsize=2)
def tokenizer(filler: str) -> CLIPTokenizer:
    """CLIP's own, which every family here has; `filler` is the token that fills a sentence up."""
    lines = MERGES.read_text("utf-8").splitlines()[1:]
    merges = [tuple(line.split(" ")) for line in lines]
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(byte) for byte in visible]
    letters += [chr(256 + i) for i in range(256 - len(letters))]
    words = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *map("".join, merges),
        "<|startoftext|>",
        END,
    ]
    made: Any = CLIPTokenizer
    found: CLIPTokenizer = made(
        vocab={word: i for i, word in enumerate(words)},
        merges=merges,
        pad_token=filler,
        model_max_length=SENTENCE,
    )
    return found
