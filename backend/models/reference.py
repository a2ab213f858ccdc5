"""A reference picture beside the prompt: IP-Adapter (Ye et al. 2023), in the layout in which it is published.

A file such as ip-adapter_sd15.safetensors holds what turns a CLIP picture embedding into a few more words (image_proj)
and, for every cross-attention, the keys and values by which they are read (ip_adapter). CLIP's picture encoder lies in
a folder image_encoder beside it, or in one of sd's (models/) and SDXL's (sdxl_models/) folders beside each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from backend.errors import InputError, ModelError
from backend.images import read_image
from backend.models.artist_lora import weighted_path
from backend.models.fit import check_counts
from backend.models.load import count_numbers, load_beside
from backend.models.model_folder import ModelFolder, file_hash, find_weights, refuse_pickles
from backend.models.single_file import empty_module
from backend.weights.checkpoint_kind import read_header
from backend.weights.layout import read_json

AN_ADAPTER = (
    "Give an IP-Adapter's .safetensors file for Stable Diffusion 1.5 or SDXL (not a FaceID one), with its image_encoder"
    " in the same folder."
)
ENCODER = "image_encoder"
# of an adapter that reads CLIP's embedding; one that reads its hidden states ("plus") says how many
PLAIN_WORDS = 4


@dataclass(frozen=True)
class Reference:
    """A picture, how much it counts, and the adapter that shows it to a UNet which it fits."""

    picture: Path
    weight: float
    adapter: Path
    encoder: Path
    config: dict[str, Any]  # the encoder's
    files: tuple[Path, ...]  # likewise
    plus: bool

    def describe(self) -> dict[str, Any]:
        """For job.json."""
        files = (self.picture, self.adapter, *self.files)
        return {"weight": self.weight, "sha256": {file.name: file_hash(file) for file in files}}

    def footprint(self, dtype: torch.dtype) -> float:
        """GB that it adds: the encoder works on the processor, once."""
        return count_numbers((self.adapter,)) * dtype.itemsize / 1e9


def open_reference(image: str, adapter: str | Path, model: ModelFolder) -> Reference | None:
    """FILE or FILE:WEIGHT beside an adapter's file or its folder, checked without a weight read.

    None without a picture, and with weight 0, which would show nothing. Raises ModelError and InputError.
    """
    if not image:
        return None
    picture, weight = weighted_path(image, "--image", "a picture")
    try:
        read_image(picture, picture.name)
    except ValueError as error:  # KTX2
        raise InputError(f"{picture.name}: {error}", "Save it as PNG or JPEG.") from error
    path = _adapter_file(Path(adapter).expanduser(), bool(adapter))
    if model.spec.frames > 1 or model.spec.camera == "c2w":
        raise ModelError(f"{model.path} takes no reference picture.", "Use Stable Diffusion 1.5 or SDXL.")
    shapes = read_header(path).shapes
    plus = _check(path, shapes, empty_module("unet", model.configs["unet"]))
    encoder, config = _encoder_of(
        path, shapes["image_proj.proj_in.weight" if plus else "image_proj.proj.weight"], plus
    )
    return (
        Reference(picture, weight, path, encoder, config, find_weights(encoder, "model"), plus)
        if weight
        else None
    )


def _adapter_file(path: Path, given: bool) -> Path:
    if path.is_dir() and given:
        refuse_pickles(path, path / "ip-adapter.safetensors")
        found = sorted(path.glob("ip-adapter*.safetensors"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "no ip-adapter*.safetensors"
            raise ModelError(
                f"{path} holds {names}, expected one.", "Give the file itself: --image-adapter FILE."
            )
        return found[0]
    if not given or not path.is_file():
        raise ModelError(
            f"There is no {path}."
            if given
            else "A reference picture is shown by an IP-Adapter, and none was given.",
            "Name it by --image-adapter FILE. " + AN_ADAPTER,
        )
    return path


def _check(path: Path, shapes: dict[str, tuple[int, ...]], unet: nn.Module) -> bool:
    """Whether it reads CLIP's hidden states. ModelError unless every tensor that it needs is there, and fits."""
    assert isinstance(unet, UNet2DConditionModel)
    wide: int = unet.config.cross_attention_dim
    plus = "image_proj.latents" in shapes
    if plus:
        words = {"image_proj.proj_out.weight": (wide, shapes["image_proj.latents"][-1])}
    else:
        words = {
            "image_proj.proj.weight": (PLAIN_WORDS * wide, shapes.get("image_proj.proj.weight", (0, 0))[-1])
        }
    layers = [name for name in unet.attn_processors if "attn2" in name]
    for place, name in enumerate(layers):
        layer: Any = unet.get_submodule(name.removesuffix(".processor")).to_k
        for what in ("k", "v"):
            words[f"ip_adapter.{2 * place + 1}.to_{what}_ip.weight"] = tuple(layer.weight.shape)
    for name, expected in words.items():
        got = shapes.get(name)
        if got != expected:
            raise ModelError(
                f"{path} does not fit the model: its {name} is {list(got) if got else 'missing'}, expected"
                f" {list(expected)}.",
                AN_ADAPTER,
            )
    if more := {n for n in shapes if n.startswith("ip_adapter.")} - words.keys():
        raise ModelError(f"{path} holds {min(more)} as well, which is not read here.", AN_ADAPTER)
    return plus


def _encoder_of(path: Path, reader: tuple[int, ...], plus: bool) -> tuple[Path, dict[str, Any]]:
    """The folder whose picture embeddings are as wide as the adapter reads them, and its configuration."""
    width = "hidden_size" if plus else "projection_dim"
    homes = [path.parent, *(path.parent.parent / name for name in ("models", "sdxl_models"))]
    seen = []
    for folder in dict.fromkeys(home / ENCODER for home in homes):
        if (folder / "config.json").is_file():
            config = read_json(folder / "config.json")
            check_counts(folder, config)
            if config.get(width) == reader[-1] and config.get("model_type") == "clip_vision_model":
                return folder, config
            seen.append(f"{folder} ({width} {config.get(width)})")
    why = f": {', '.join(seen)}" if seen else ""
    raise ModelError(
        f"{path} has no {ENCODER} beside it whose {width} is {reader[-1]}{why}.",
        f"Put the folder {ENCODER} that it was published with beside it.",
    )


def add_reference(found: Reference, unet: nn.Module) -> nn.Module:
    """Let the UNet's cross-attentions read a picture's words; what makes them of its embedding comes back."""
    assert isinstance(unet, UNet2DConditionModel)
    tensors: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    with safe_open(found.adapter, "pt") as file:
        for name in file.keys():  # noqa: SIM118  no mapping
            part, _, rest = name.partition(".")
            if part in tensors:
                tensors[part][rest] = file.get_tensor(name)
    try:
        unet._load_ip_adapter_weights([tensors], low_cpu_mem_usage=False)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ModelError(f"{found.adapter} cannot be loaded: {error!s:.300}", AN_ADAPTER) from error
    for processor in unet.attn_processors.values():
        if hasattr(processor, "to_k_ip"):
            processor.scale = [found.weight]
    reader: nn.Module = unet.encoder_hid_proj.image_projection_layers[0]
    unet.encoder_hid_proj = None  # words come ready made, or not at all (Network.picture_words)
    unet.config.encoder_hid_dim_type = None
    unet.requires_grad_(False)
    return reader.requires_grad_(False)


@torch.no_grad()
def picture_words(found: Reference, reader: nn.Module, device: torch.device) -> Tensor:
    """[2,L,E] float32: what the picture says, and what a guided pass without it is told."""
    pixels = clip_pixels(read_image(found.picture, found.picture.name), found.config.get("image_size", 224))
    cpu = torch.device("cpu")
    encoder = load_beside(
        CLIPVisionModelWithProjection, found.encoder, found.config, found.files, cpu, torch.float32
    )
    if found.plus:
        both = torch.cat((pixels, torch.zeros_like(pixels)))
        seen = encoder(both, output_hidden_states=True).hidden_states[-2]
    else:
        embedding = encoder(pixels).image_embeds
        seen = torch.cat((embedding, torch.zeros_like(embedding)))
    words: Tensor = reader.to(cpu, torch.float32)(seen)
    return words.to(device)


def clip_pixels(picture: np.ndarray[Any, np.dtype[np.uint8]], side: int) -> Tensor:
    """[1,3,side,side] as CLIP is shown [H,W,4]: before white, its middle square."""
    opaque = Image.new("RGBA", (picture.shape[1], picture.shape[0]), "white")
    opaque.alpha_composite(Image.fromarray(picture))
    shown = CLIPImageProcessorPil(size=side, crop_size=side)(opaque.convert("RGB"), return_tensors="pt")
    pixels: Tensor = shown.pixel_values
    return pixels
