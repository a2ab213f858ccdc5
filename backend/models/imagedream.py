"""ImageDream (Wang and Shi 2023): MVDream that is told a picture of the object as well.

Its UNet holds MVDream's tensors, what turns the picture's CLIP states into a few words (image_embed.*) and the keys and
values by which every cross-attention reads them (*_ip), as IP-Adapter's do. A ring has one view more: the picture's own
latents without noise, whose camera is told as zeros and whose answer is thrown away (its "pixel" controller).
Without a picture, all of that is zeros, and so it is in the half of a guided pass that is told none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPVisionModel

from backend.diffusion.joint_attention import JointAttention, join_frames
from backend.errors import InputError, ModelError
from backend.images import read_image
from backend.models import mvdream
from backend.models.artist_lora import weighted_path
from backend.models.load import load_beside
from backend.models.model_folder import ModelFolder, file_hash
from backend.models.reference import clip_pixels

ENCODER = "image_encoder"
GREY = 0.5  # behind the object; in training it was any grey
ALIKE = 12  # of 255, that a plain background's colours differ by
FILLS = 0.8  # of the picture's side, the object
NO_PICTURE = "For words alone use MVDream: python -m backend models fetch mvdream"


@dataclass(frozen=True)
class Thing:
    """The picture of an object, alone before grey, and how much its words count."""

    model: ModelFolder
    file: Path
    weight: float
    note: str

    @cached_property
    def picture(self) -> NDArray[np.uint8]:
        """[S,S,3]"""
        return alone(read_image(self.file, self.file.name), self.file.name)[0]

    def describe(self) -> dict[str, Any]:
        """For job.json."""
        return {"weight": self.weight, "sha256": {self.file.name: file_hash(self.file)}}


def open_thing(image: str, adapter: str | Path, model: ModelFolder) -> Thing | None:
    """FILE or FILE:WEIGHT for an ImageDream, None for any other model. Raises InputError and ModelError."""
    if not model.picture_words:
        return None
    if adapter:
        raise InputError("ImageDream looks at the picture itself.", "Leave --image-adapter out.")
    if not image:
        raise InputError(
            f"{model.path} is ImageDream, which makes an object after a picture, and none was given.",
            f"Give one: --image FILE. {NO_PICTURE}",
        )
    file, weight = weighted_path(image, "--image", "a picture")
    try:
        _, note = alone(read_image(file, file.name), file.name)
    except ValueError as error:  # KTX2
        raise InputError(f"{file.name}: {error}", "Save it as PNG or JPEG.") from error
    return Thing(model, file, weight, note)


def alone(pixels: NDArray[np.uint8], name: str) -> tuple[NDArray[np.uint8], str]:
    """[H,W,4] to the object in the middle of [S,S,3] before grey, and what was taken for its background.

    By its alpha; where it has none, what has the colour of the whole border. InputError where that has several.
    """
    coverage, note = pixels[..., 3].astype(np.float32) / 255, ""
    if coverage.min() == 1:
        colour = pixels[..., :3].astype(np.int16)
        border = np.concatenate((colour[0], colour[-1], colour[:, 0], colour[:, -1]))
        plain = np.median(border, axis=0)
        if np.abs(border - plain).max() > ALIKE:
            raise InputError(
                f"{name} has neither transparency nor a plain background.",
                "Cut the object out and save it as a PNG with transparency.",
            )
        coverage = (np.abs(colour - plain).max(-1) > ALIKE).astype(np.float32)
        note = f"{name} has no transparency: #{''.join(f'{int(c):02x}' for c in plain)} is taken for its background."
    rows, columns = (np.flatnonzero(coverage.max(axis) > 0.5) for axis in (1, 0))
    if not len(rows):
        raise InputError(f"{name} shows nothing.", "Give a picture of one object.")
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    seen, cover = pixels[box][..., :3], coverage[box][..., None]
    before_grey = seen * cover + 255 * GREY * (1 - cover)
    high, wide = seen.shape[:2]
    side = round(max(high, wide) / FILLS)
    found = np.full((side, side, 3), 255 * GREY)
    top, left = (side - high) // 2, (side - wide) // 2
    found[top : top + high, left : left + wide] = before_grey
    return found.round().astype(np.uint8), note


def add_picture(thing: Thing, unet: nn.Module) -> nn.Module:
    """Let the UNet read a picture's words and join it to every ring; what makes words of CLIP's states comes back."""
    assert isinstance(unet, UNet2DConditionModel)
    path, frames = thing.model.path, thing.model.spec.frames
    named = mvdream.read_named(thing.model.configs["unet"], thing.model.weights)
    plain = unet.attn_processors.items()
    unet.set_attn_processor({n: p.inner if isinstance(p, JointAttention) else p for n, p in plain})
    readers = [name.removesuffix(".processor") for name in unet.attn_processors if "attn2" in name]
    tensors: dict[str, dict[str, Tensor]] = {
        "image_proj": {
            name.removeprefix(mvdream.WORDS): tensor.float()
            for name, tensor in named.items()
            if name.startswith(mvdream.WORDS)
        }
    }
    try:
        tensors["ip_adapter"] = {
            f"{2 * place + 1}.to_{what}_ip.weight": named[f"{reader}.to_{what}_ip.weight"]
            for place, reader in enumerate(readers)
            for what in ("k", "v")
        }
        unet._load_ip_adapter_weights([tensors], low_cpu_mem_usage=False)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ModelError(f"{path}/unet cannot be loaded: {error!s:.300}", "Copy the model again.") from error
    for processor in unet.attn_processors.values():
        if hasattr(processor, "to_k_ip"):
            processor.scale = [thing.weight]
    words: nn.Module = unet.encoder_hid_proj.image_projection_layers[0]
    unet.encoder_hid_proj = None  # words come ready made (Text.picture)
    unet.config.encoder_hid_dim_type = None
    join_frames(unet, frames + 1)
    unet.requires_grad_(False)
    return words.requires_grad_(False)


@torch.no_grad()
def words_of(thing: Thing, reader: nn.Module, device: torch.device) -> Tensor:
    """[2,P,E] float32: of the picture, and of none (CLIP's states all zeros)."""
    model, cpu = thing.model, torch.device("cpu")
    config = model.configs[ENCODER]
    opaque = np.dstack((thing.picture, np.full(thing.picture.shape[:2], 255, np.uint8)))
    encoder = load_beside(
        CLIPVisionModel, model.path / ENCODER, config, model.weights[ENCODER], cpu, torch.float32
    )
    pixels = clip_pixels(opaque, config.get("image_size", 224))
    states = encoder(pixels, output_hidden_states=True).hidden_states[-2]
    words: Tensor = reader.to(cpu, torch.float32)(torch.cat((states, torch.zeros_like(states))))
    return words.to(device)


def as_image(thing: Thing, side: int) -> Tensor:
    """[1,side,side,3] in [0,1]."""
    small = Image.fromarray(thing.picture).resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(small)).float()[None] / 255
