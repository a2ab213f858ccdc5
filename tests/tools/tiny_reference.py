"""An IP-Adapter with random weights for a tiny model's folder, in the names in which the published ones are."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

HIDDEN, PROJECTED, SIDE = 24, 20, 32
LATENTS, INNER = 5, 16  # of the kind that reads CLIP's hidden states


def beside(model: Path, folder: Path, plus: bool = False) -> Path:
    """The adapter's file, its image_encoder beside it. The global generator is left as it was."""
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    g = torch.Generator().manual_seed(7)

    def made(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g) / shape[-1] ** 0.5

    wide = unet.config.cross_attention_dim
    tensors = {"image_proj.proj.weight": made(4 * wide, PROJECTED), "image_proj.proj.bias": made(4 * wide)}
    tensors |= {"image_proj.norm.weight": made(wide) + 1, "image_proj.norm.bias": made(wide)}
    if plus:
        tensors = resampler(made, wide)
    layers = [name for name in unet.attn_processors if "attn2" in name]
    for place, name in enumerate(layers):
        rows = len(unet.get_submodule(name.removesuffix(".processor")).to_k.weight)
        for what in ("to_k_ip", "to_v_ip"):
            tensors[f"ip_adapter.{2 * place + 1}.{what}.weight"] = made(rows, wide)
    folder.mkdir(parents=True)
    path = folder / f"ip-adapter{'-plus' * plus}_tiny.safetensors"
    save_file(tensors, path)
    config = CLIPVisionConfig(
        hidden_size=HIDDEN, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=SIDE,
        patch_size=8, projection_dim=PROJECTED,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(8)
        CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
    return path


def resampler(made, wide: int) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    """image_proj of the kind called plus: four layers of a perceiver, with one head of 64."""
    tensors = {
        "latents": made(1, LATENTS, INNER),
        "proj_in.weight": made(INNER, HIDDEN),
        "proj_in.bias": made(INNER),
    }
    tensors |= {"proj_out.weight": made(wide, INNER), "proj_out.bias": made(wide)}
    tensors |= {"norm_out.weight": made(wide) + 1, "norm_out.bias": made(wide)}
    for i in range(4):
        attention, forward = f"layers.{i}.0", f"layers.{i}.1"
        for norm in ("norm1", "norm2"):
            tensors |= {
                f"{attention}.{norm}.weight": made(INNER) + 1,
                f"{attention}.{norm}.bias": made(INNER),
            }
        tensors |= {
            f"{attention}.to_q.weight": made(64, INNER),
            f"{attention}.to_kv.weight": made(128, INNER),
        }
        tensors |= {f"{attention}.to_out.weight": made(INNER, 64)}
        tensors |= {f"{forward}.0.weight": made(INNER) + 1, f"{forward}.0.bias": made(INNER)}
        tensors |= {
            f"{forward}.1.weight": made(4 * INNER, INNER),
            f"{forward}.3.weight": made(INNER, 4 * INNER),
        }
    return {f"image_proj.{name}": tensor for name, tensor in tensors.items()}
