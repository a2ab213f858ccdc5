"""MV-Adapter's published file, for six views of a shape: read, held against a UNet's layout, and built into it.

It holds an attention for every self-attention of the UNet (attention.py) and a T2I-Adapter that reads the views' maps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import T2IAdapter, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn

from backend.errors import ModelError
from backend.sides.attention import RowColumnAttention, Shown
from backend.sides.views import SHIFT
from backend.weights.checkpoint_kind import read_header

A_SIX = (
    "Give mvadapter_tg2mv_sdxl.safetensors for SDXL, or mvadapter_tg2mv_sd21.safetensors for Stable Diffusion 2.1: the"
    " ones that are told text and geometry."
)
CHANNELS = 6  # of the maps


class SixViews:
    """Fulfils denoiser.SixViews for a UNet that add_sides has changed."""

    shift = SHIFT

    def __init__(self, reader: T2IAdapter, shown: Shown) -> None:
        self._reader, self._shown = reader, shown

    def features(self, maps: Tensor) -> list[Tensor]:
        """[B,6,H,W] to what is added on the way down, times the weight."""
        return [self._shown.weight * one for one in self._reader(maps)]

    def show(self, on: bool) -> None:
        """See denoiser.SixViews."""
        self._shown.on = on


def reader_of(unet: UNet2DConditionModel, factor: int) -> T2IAdapter:
    """What reads the maps, without contents; factor: pixels per latent pixel along a side."""
    channels = tuple(unet.config.block_out_channels)
    more: dict[str, Any] = {"channels": channels, "downscale_factor": factor}
    if unet.config.addition_embed_type == "text_time":  # SDXL
        more = {
            "channels": (*channels, channels[-1]),
            "downscale_factor": 2 * factor,
            "adapter_type": "full_adapter_xl",
        }
    with torch.device("meta"):
        return T2IAdapter(CHANNELS, num_res_blocks=unet.config.layers_per_block, **more)


def attentions_of(unet: UNet2DConditionModel) -> dict[str, int]:
    """The processors of its self-attentions by name, and how wide each is."""
    found = {}
    for name in unet.attn_processors:
        if name.endswith("attn1.processor"):
            layer: Any = unet.get_submodule(name.removesuffix(".processor"))
            found[name] = int(layer.query_dim)
    return found


def check_sides(path: Path, unet: UNet2DConditionModel, factor: int) -> None:
    """ModelError unless every tensor that it needs is there and fits, and nothing else. Reads the header alone."""
    shapes = read_header(path).shapes
    if odd := next((name for name in sorted(shapes) if "_ref." in name), ""):
        raise ModelError(f"{path} reads a picture of the object as well ({odd}).", A_SIX)
    if any(word in path.stem for word in ("_t2mv", "_i2mv")):
        raise ModelError(f"{path} is told where cameras stand, not the shape.", A_SIX)
    wanted = {name: tuple(t.shape) for name, t in reader_of(unet, factor).state_dict().items()}
    for name, width in attentions_of(unet).items():
        with torch.device("meta"):
            own = RowColumnAttention(None, width, Shown(1.0)).state_dict()
        wanted |= {f"{name}.{part}": tuple(tensor.shape) for part, tensor in own.items()}
    for name, expected in wanted.items():
        if (got := shapes.get(name)) != expected:
            said = list(got) if got else "missing"
            raise ModelError(
                f"{path} does not fit the model: its {name} is {said}, expected {list(expected)}.", A_SIX
            )
    if more := shapes.keys() - wanted.keys():
        raise ModelError(f"{path} holds {min(more)} as well, which is not read here.", A_SIX)


def add_sides(
    path: Path,
    weight: float,
    unet: UNet2DConditionModel,
    factor: int,
    device: torch.device,
    dtype: torch.dtype,
) -> SixViews:
    """Let the UNet's self-attentions join six views whenever they are shown. The file was checked."""
    tensors, shown = {name: t.to(device, dtype) for name, t in load_file(path).items()}, Shown(weight)
    processors: dict[str, Any] = dict(unet.attn_processors)
    for name, width in attentions_of(unet).items():
        with torch.device("meta"):
            joined = RowColumnAttention(processors[name], width, shown)
        _fill(joined, {part: tensors[f"{name}.{part}"] for part in joined.state_dict()})
        processors[name] = joined
    unet.set_attn_processor(processors)
    reader = reader_of(unet, factor)
    _fill(reader, {name: tensors[name] for name in reader.state_dict()})
    return SixViews(reader, shown)


def _fill(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    module.load_state_dict(tensors, assign=True)
    module.eval().requires_grad_(False)
