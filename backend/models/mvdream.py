"""MVDream's UNet out of its two published layouts, as diffusers' own UNet2DConditionModel.

    LDM names       unet/ of class MultiViewUNetModel, configured in LDM's words, its camera embedding inside
    diffusers names unet/ configured as Stable Diffusion's, the camera embedding in a component camera_proj/

MVDream (Shi et al. 2024, section 3) differs from Stable Diffusion 2.1 by two things that diffusers has: a camera
embedding that is added to the timestep's (camera_label.py) and self-attention over a ring (joint_attention.py). So its
tensors are renamed and nothing of the Python files that lie beside them is ever imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from backend.diffusion.camera_label import CAMERA_CONFIG, CAMERA_NUMBERS
from backend.errors import ModelError
from backend.models.fit import is_count

PIPELINE = "MVDreamPipeline"
CAMERA = "camera_proj"  # the component of the layout in diffusers' names
LDM_CLASS = "MultiViewUNetModel"
WORDS = "image_embed."  # of ImageDream (imagedream.py)
DIFFUSERS_CLASSES = ("UNet2DConditionModel", "MVDreamUNet2DConditionModel")
USE_ANOTHER = "Use MVDream for Stable Diffusion 2.1: python -m backend models fetch mvdream"

# What the training showed it (section 4 and appendix): objects in a box of one metre from all sides, never from far
# above, as large as the picture allows. Ours lie in a ball of that size, seen whole from 1.2 m at 50 degrees.
STATED: dict[str, Any] = {
    "camera": "c2w",
    "frames": 4,
    "view_prompt": "{prompt}",
    "poses": {
        "elevation": [0.0, 30.0],
        "overhead_share": 0.0,
        "overhead_to": 30.0,
        "distance": [1.2, 1.4],
        "fov": [42.0, 50.0],
    },
    # its pictures have 256 pixels, smaller renders are enlarged to them; a ring takes the samples of the paper's view
    "settings": {"geometry.size": 256, "texture.size": 256, "refine.size": 256, "nerf.budget": 2**19},
}

# of LDM's configuration: what may be left out, and is all that diffusers' conversion knows
PLAIN = {
    "dims": 2,
    "conv_resample": True,
    "num_classes": None,
    "use_scale_shift_norm": False,
    "resblock_updown": False,
    "transformer_depth": 1,
    "n_embed": None,
    "num_attention_blocks": None,
    "adm_in_channels": None,
}


def picture_words(path: Path, index: dict[str, Any], unet: dict[str, Any]) -> int:
    """How many words an ImageDream makes of a picture; 0 for MVDream. ModelError for half of one."""
    encoder = index.get("image_encoder")
    named, words = isinstance(encoder, list) and encoder[-1] is not None, unet.get("ip_dim") or 0
    if not is_count(words) and words != 0:
        raise ModelError(f"{path}: the UNet's ip_dim is {words}, expected a number.", "Copy the model again.")
    if named != bool(words) or (words and unet.get("_class_name") != LDM_CLASS):
        raise ModelError(
            f"{path} holds half an ImageDream: ip_dim {words}, image encoder {encoder}.", USE_ANOTHER
        )
    return int(words)


def unet_config(path: Path, index: dict[str, Any], unet: dict[str, Any]) -> dict[str, Any]:
    """UNet2DConditionModel's configuration of a folder in either layout. ModelError where it cannot be said."""
    kind = unet.get("_class_name")
    if kind == LDM_CLASS:
        return _translated(path, unet)
    if kind in DIFFUSERS_CLASSES and isinstance(index.get(CAMERA), list):
        return {**unet, **CAMERA_CONFIG, "_class_name": DIFFUSERS_CLASSES[0]}
    raise ModelError(
        f"{path}: the UNet is of class {kind}, expected {LDM_CLASS}, or {DIFFUSERS_CLASSES[0]} with a component"
        f" {CAMERA}.",
        USE_ANOTHER,
    )


def _translated(path: Path, unet: dict[str, Any]) -> dict[str, Any]:
    """LDM's words in diffusers'."""
    expected = PLAIN | {"camera_dim": CAMERA_NUMBERS}
    for name, value in expected.items():
        if (got := unet.get(name, PLAIN.get(name))) != value:
            raise ModelError(f"{path}: the UNet's {name} is {got}, expected {value}.", USE_ANOTHER)
    try:
        blocks = unet["num_res_blocks"]
        per_level = {blocks} if isinstance(blocks, int) else set(blocks)
        if len(per_level) != 1:
            raise ValueError(f"num_res_blocks {blocks}")
        channels = [int(unet["model_channels"] * mult) for mult in unet["channel_mult"]]
        width, heads = unet.get("num_head_channels", -1), unet.get("num_heads", -1)
        counts = [c // width if width != -1 else heads for c in channels]
        if min(counts) < 1:
            raise ValueError(f"num_head_channels {width}, num_heads {heads}")
        reads = [2**level in unet["attention_resolutions"] for level in range(len(channels))]
        plain = {name: unet[name] for name in ("in_channels", "out_channels")}
        size, context = int(unet["image_size"]), int(unet["context_dim"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(
            f"{path}: the UNet's configuration cannot be used ({error}).", "Copy the model again."
        ) from error
    return {
        "_class_name": DIFFUSERS_CLASSES[0],
        **plain,
        "sample_size": size,
        "block_out_channels": channels,
        "layers_per_block": per_level.pop(),
        "cross_attention_dim": context,
        "attention_head_dim": counts,  # diffusers' name for the number of heads
        "down_block_types": ["CrossAttnDownBlock2D" if read else "DownBlock2D" for read in reads],
        "up_block_types": ["CrossAttnUpBlock2D" if read else "UpBlock2D" for read in reversed(reads)],
        "use_linear_projection": True,  # its class has no other
        **CAMERA_CONFIG,
    }


def load_unet(
    path: Path, config: dict[str, Any], weights: dict[str, tuple[Path, ...]], dtype: torch.dtype
) -> UNet2DConditionModel:
    """The UNet on the CPU, every tensor of the files in it. ModelError where one is missing, left over or misshapen.

    config   of `unet_config`
    weights  the files of "unet", and of "camera_proj" in the layout that has one
    """
    try:
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(config)
        named = read_named(config, weights)
        named = {name: t for name, t in named.items() if WORDS not in name and "_ip." not in name}
        own = unet.state_dict()
        for what, names in (("lacks", own.keys() - named.keys()), ("has unknown", named.keys() - own.keys())):
            if names:
                raise ModelError(f"{path} {what} {len(names)} tensors, {min(names)} first.", USE_ANOTHER)
        unet.load_state_dict({name: t.to(dtype) for name, t in named.items()}, assign=True)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise ModelError(f"{path}/unet cannot be loaded: {error}", "Copy the model again.") from error
    return unet


def read_named(config: dict[str, Any], weights: dict[str, tuple[Path, ...]]) -> dict[str, Tensor]:
    """Every tensor of the files under diffusers' names; one that diffusers knows no name for keeps its own."""
    tensors = _read(weights["unet"])
    if CAMERA in weights:
        camera = _read(weights[CAMERA])
        return tensors | {f"class_embedding.{name}": tensor for name, tensor in camera.items()}
    renamed = {}
    for name, tensor in tensors.items():
        ldm = name.replace("camera_embed.", "label_emb.0.")
        renamed[f"model.diffusion_model.{ldm}"] = tensor
    found: dict[str, Tensor] = convert_ldm_unet_checkpoint(renamed, config)
    taken = {id(tensor) for tensor in found.values()}  # the others it passes over silently
    found |= {name: tensor for name, tensor in tensors.items() if id(tensor) not in taken}
    return found


def _read(files: tuple[Path, ...]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= load_file(file)
    return tensors
