"""How much memory a prior's networks take: their weights by counting, what an iteration adds by a table.

The table is what benchmarks/memory.py counts with networks of the real size: the most that is alive at once
beside the weights, in an iteration at batch 1 with D_phi. Other sizes and rings of views are scaled from it.
"""

from __future__ import annotations

from math import prod

import torch
from safetensors import safe_open

from backend.diffusion.models import ModelFolder
from backend.diffusion.thrift import Thrift

# GB beside the weights: as it comes, with the VAE's encoder checkpointed, and with D_phi's step as well
COUNTED = {
    ("sd", torch.bfloat16): (4.23, 1.78, 1.73),
    ("sd", torch.float32): (4.78, 2.33, 1.47),
    ("refiner", torch.bfloat16): (20.24, 10.44, 4.95),
    ("refiner", torch.float32): (23.80, 14.00, 5.12),
}
# GB that a captured pass of two rows (guided D_p) keeps: D_phi's, of one, shares it on the same network
CAPTURED = {
    ("sd", torch.bfloat16): 0.14,
    ("sd", torch.float32): 0.28,
    ("refiner", torch.bfloat16): 0.40,
    ("refiner", torch.float32): 0.80,
}
SIDE = {"sd": 512, "refiner": 1024}  # pixels, at which that was
WIDTH = {"sd": 320, "refiner": 384}  # channels of the UNet's first block
VAE_WIDTH = 128  # likewise


def footprint(
    model: ModelFolder, phi: ModelFolder | None, side: int, dtype: torch.dtype, thrift: Thrift
) -> float:
    """GB for the networks of `model` and of D_phi's own model, fed with images of `side` pixels a side."""
    bytes_each = dtype.itemsize
    weights = parameters(model, "unet") * bytes_each + parameters(model, "vae") * 4
    if phi is not None:
        weights += parameters(phi, "unet") * bytes_each
    kind = "refiner" if "text_encoder_2" in model.configs else "sd"
    rung = thrift.checkpoint_encode + thrift.checkpoint_fit
    width = max(
        model.configs["unet"]["block_out_channels"][0] / WIDTH[kind],
        model.configs["vae"]["block_out_channels"][0] / VAE_WIDTH,
    )
    passes = COUNTED[kind, dtype][rung]
    if thrift.graphs:
        passes += CAPTURED[kind, dtype] * (1 if phi is None else 1.5)
    return weights / 1e9 + passes * width * (side / SIDE[kind]) ** 2 * model.statement.frames


def parameters(model: ModelFolder, component: str) -> int:
    """How many numbers a component's files hold."""
    count = 0
    for path in model.weights[component]:
        with safe_open(path, "pt") as file:
            count += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118  no mapping
    return count
