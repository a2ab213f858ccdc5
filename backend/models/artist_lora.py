"""An artist's LoRAs: low-rank products from .safetensors files, added to the weights of D_p and its text encoders.

W becomes W + s (alpha / r) B A with A [r,in] and B [out,r] (Hu et al. 2022), s being the weight that was typed.
Files of kohya's trainers (lora_unet_..., in diffusers' or LDM's module names), of diffusers and of peft (unet.*.lora_A)
are read.
D_phi's adapter (diffusion/lora.py) is another one, on top, and knows nothing of these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diffusers.loaders.lora_conversion_utils import _maybe_map_sgm_blocks_to_diffusers
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from backend.errors import InputError, ModelError
from backend.models.model_folder import file_hash
from backend.weights.checkpoint_kind import read_header
from dreamflow_blender.contract.language.trigger import trigger_words

A_LORA = "Give a LoRA for the prior's own family, in diffusers' or kohya's layout."
MOST = 10.0  # of a weight, either way
KOHYA = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
ENDS = {  # how A's and B's names end
    r"\.lora_down\.weight|\.lora_A(\.default)?\.weight|(\.lora|\.lora_linear_layer|_lora)\.down\.weight": "A",
    r"\.lora_up\.weight|\.lora_B(\.default)?\.weight|(\.lora|\.lora_linear_layer|_lora)\.up\.weight": "B",
    r"\.alpha": "alpha",
}
OTHER_KINDS = {
    "hada_": "LoHa", "lokr_": "LoKr", "dora_scale": "DoRA", "lora_magnitude": "DoRA", "lora_mid": "a CP decomposition",
    "oft_": "OFT", r"diff(_b)?$": "whole differences",
}  # fmt: skip
LDM_MODULES = (  # in kohya's spelling: LDM's modules as diffusers calls them
    ("in_layers_2", "conv1"), ("out_layers_3", "conv2"), ("emb_layers_1", "time_emb_proj"),
    ("skip_connection", "conv_shortcut"), ("samplers_0_op", "samplers_0_conv"), ("input_blocks_0_0", "conv_in"),
    ("time_embed_0", "time_embedding_linear_1"), ("time_embed_2", "time_embedding_linear_2"),
    ("label_emb_0_0", "add_embedding_linear_1"), ("label_emb_0_2", "add_embedding_linear_2"),
    ("input_blocks", "down_blocks"), ("middle_block", "mid_block"), ("output_blocks", "up_blocks"),
)  # fmt: skip


@dataclass(frozen=True)
class ArtistLora:
    """A file and how much of it is added. Tensors' names by component and by module as the file spells it."""

    path: Path
    weight: float
    parts: dict[str, dict[str, dict[str, str]]]  # component -> module -> "A", "B", "alpha" -> tensor's name
    alphas: dict[str, float]  # of peft's files: by component, of all modules
    words: tuple[str, ...]  # that it was trained with

    def describe(self) -> dict[str, Any]:
        """For job.json, and for what depends on it."""
        return {"file": self.path.name, "sha256": file_hash(self.path), "weight": self.weight}

    def note(self) -> str:
        """The words that call it; "" where the file names none."""
        return (
            f"{self.path.name} was trained with these words: {', '.join(self.words)}." if self.words else ""
        )


def weighted_path(text: str, option: str, what: str) -> tuple[Path, float]:
    """PATH or PATH:WEIGHT, as `option` takes it. InputError for a weight out of bounds, or where no `what` is."""
    name, colon, tail = text.rpartition(":")
    path, weight = Path(text), 1.0
    with suppress(ValueError):
        if colon and not Path(text).exists():  # C:\lora.safetensors has one as well
            path, weight = Path(name), float(tail)
    if not abs(weight) <= MOST:
        raise InputError(
            f"The weight of {path.name} is -{MOST:g} to {MOST:g}, got {weight:g}.",
            f"Correct {option} {path.name}:WEIGHT.",
        )
    if not path.expanduser().exists():
        raise InputError(f"There is no {path}, expected {what}.", f"Correct {option} PATH or PATH:WEIGHT.")
    return path.expanduser(), weight


def open_loras(specs: Iterable[str], configs: dict[str, dict[str, Any]]) -> tuple[ArtistLora, ...]:
    """Read the headers. ModelError for what is no LoRA; InputError for a file that is not there.

    configs  of the model that they are for, by component
    """
    return tuple(
        _open(*weighted_path(text, "--lora", "a LoRA's .safetensors file"), configs) for text in specs
    )


def _open(path: Path, weight: float, configs: dict[str, dict[str, Any]]) -> ArtistLora:
    if path.suffix.lower() != ".safetensors" or not path.is_file():
        raise ModelError(f"{path} is no .safetensors file; pickles can run code when opened.", A_LORA)
    header = read_header(path)
    for mark, kind in OTHER_KINDS.items():
        if odd := next((name for name in header.shapes if re.search(rf"\.{mark}", name)), ""):
            raise ModelError(f"{path} holds {kind} ({odd}), expected plain low-rank products.", A_LORA)
    parts: dict[str, dict[str, dict[str, str]]] = {}
    for name in header.shapes:
        end = next((end for end in ENDS if re.search(f"({end})$", name)), None)
        if end is None:
            raise ModelError(f"{path} is no LoRA that is known here: {name}.", A_LORA)
        component, module = _place(re.sub(f"({end})$", "", name))
        if component not in configs:
            raise ModelError(f"{path} changes a {component}, which this model has not ({name}).", A_LORA)
        parts.setdefault(component, {}).setdefault(module, {})[ENDS[end]] = name
    if not parts:
        raise ModelError(f"{path} holds nothing.", A_LORA)
    if "unet" in parts:
        parts["unet"] = _in_diffusers_names(path, parts["unet"], configs["unet"])
    for module, found in ((m, f) for part in parts.values() for m, f in part.items()):
        if not {"A", "B"} <= found.keys():
            raise ModelError(f"{path} lacks one of the two factors of {module}.", "Copy the file again.")
    return ArtistLora(path, weight, parts, _alphas(path, header.metadata), trigger_words(header.metadata))


def _place(base: str) -> tuple[str, str]:
    """Component, and module in kohya's spelling, with _ for every dot."""
    for start, component in KOHYA.items():
        if base.startswith(start):
            return component, _flat(base.removeprefix(start))
    base = base.removeprefix("base_model.model.")
    component, _, module = base.partition(".")
    if component not in ("unet", "text_encoder", "text_encoder_2"):
        component, module = "unet", base  # peft's own, of a UNet
    module = module.replace(".processor.", ".").replace("to_out_lora", "to_out.0")  # of diffusers before 2024
    return component, _flat(module)


def _flat(module: str) -> str:
    name = module.replace(".", "_").removeprefix("text_model_")
    return f"{name}_0" if name.endswith("_to_out") else name


def _in_diffusers_names(
    path: Path, modules: dict[str, dict[str, str]], config: dict[str, Any]
) -> dict[str, dict[str, str]]:
    """LDM's modules, as kohya's trainers name SDXL's, in diffusers' names; others as they are.

    diffusers' own function finds the block and the layer of an LDM number; LDM_MODULES has the rest.
    """
    named: dict[str, Any] = {f"lora_unet_{module}": found for module, found in modules.items()}
    try:
        named = _maybe_map_sgm_blocks_to_diffusers(named, SimpleNamespace(**config))
    except (ValueError, IndexError) as error:
        raise ModelError(f"{path} names modules that are not known here: {error}.", A_LORA) from error
    renamed = {}
    for module, found in named.items():
        name = module.removeprefix("lora_unet_")
        for ldm, ours in LDM_MODULES:
            name = name.replace(ldm, ours)
        renamed["conv_out" if name == "out_2" else name] = found
    return renamed


def _alphas(path: Path, metadata: dict[str, str]) -> dict[str, float]:
    """Of the metadata that peft's files have since 2025. ModelError for what is more than one number a component."""
    try:
        stated = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        found = {}
        for key, value in stated.items():
            component, _, name = key.rpartition(".")
            if name in ("alpha_pattern", "rank_pattern", "use_dora", "use_rslora") and value:
                raise ModelError(f"{path}: its {name} is {value}, which is not supported.", A_LORA)
            if name == "lora_alpha":
                found[component or "unet"] = float(value)
        return found
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: its metadata cannot be read ({error}).", "Copy the file again.") from error


def check_loras(loras: Sequence[ArtistLora], component: str, module: nn.Module) -> None:
    """ModelError unless all that the files have for this component fits it; `module` may be on the meta device."""
    for lora in loras:
        shapes = read_header(lora.path).shapes
        for name, found in lora.parts.get(component, {}).items():
            layer = _layers(module).get(name)
            weight = getattr(layer, "weight", None)
            if weight is None:
                raise ModelError(
                    f"{lora.path} changes {name}, which the model's {component} has not.", A_LORA
                )
            a, b = shapes[found["A"]], shapes[found["B"]]
            if (b[0], a[1], a[0]) != (weight.shape[0], weight.shape[1], b[1]):
                raise ModelError(
                    f"{lora.path} does not fit: for {name} it has {list(b)} times {list(a)}, expected"
                    f" {weight.shape[0]} rows and {weight.shape[1]} columns.",
                    A_LORA,
                )


def add_loras(loras: Sequence[ArtistLora], component: str, module: nn.Module) -> None:
    """Put W + s (alpha / r) B A in the place of W, in every layer that a file names; weight 0 leaves all as it is.

    The old tensors are not written to: other copies of the network may share them.
    """
    layers = _layers(module)
    for lora in loras:
        if lora.weight == 0 or component not in lora.parts:
            continue
        try:
            with safe_open(lora.path, "pt") as file:
                for name, found in lora.parts[component].items():
                    layer = layers[name]
                    tensors = {kind: file.get_tensor(tensor).float() for kind, tensor in found.items()}
                    delta = low_rank_product(tensors, lora.alphas.get(component)) * lora.weight
                    weight = layer.weight
                    assert isinstance(weight, Tensor)
                    changed = weight.float() + delta.reshape(weight.shape).to(weight.device)
                    layer.weight = nn.Parameter(changed.to(weight.dtype), requires_grad=False)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{lora.path} cannot be read ({error}).", "Copy the file again.") from error


def low_rank_product(tensors: dict[str, Tensor], alpha: float | None = None) -> Tensor:
    """[out, in...] (alpha / r) B A; without an alpha of its own or of its file's, alpha is r."""
    a, b = tensors["A"], tensors["B"]
    rank = a.shape[0]
    scale = float(tensors["alpha"]) if "alpha" in tensors else rank if alpha is None else alpha
    return scale / rank * (b.flatten(1) @ a.flatten(1))


def _layers(module: nn.Module) -> dict[str, nn.Module]:
    """Linear layers and convolutions by name, as the files' modules are spelt."""
    kinds = (nn.Linear, nn.Conv2d)
    return {_flat(name): layer for name, layer in module.named_modules() if isinstance(layer, kinds)}
