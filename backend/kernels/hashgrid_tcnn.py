"""The hash grid by tiny-cuda-nn, where it is installed.

Written against its torch bindings of April 2026, `bindings/torch/tinycudann/modules.py`: an `Encoding`
owns a flat float32 `params` of levels x entries x features, in our order, so our table stands in for it.
Importing tinycudann raises OSError without a GPU. Half precision is not used: the table is trained
by us, in float32.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import tinycudann
import torch
from torch import Tensor
from torch.func import functional_call

from backend.errors import DeviceError
from backend.kernels import hashgrid
from backend.kernels.hashgrid import GridLayout


def hash_encode(x: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    """As hashgrid.hash_encode, on a CUDA device.

    Raises DeviceError where the installed tiny-cuda-nn lays its table out differently.
    """
    if len(x) == 0:
        return hashgrid.hash_encode(x, table, layout)
    x, params = _FirstOrder.apply(x), _FirstOrder.apply(table).reshape(-1)
    return functional_call(_encoding(layout, str(x.device)), {"params": params}, (x,))


def probe(device: torch.device) -> None:
    """Encode one point. Raises what tiny-cuda-nn raises where it does not run on this card, and DeviceError."""
    layout = GridLayout(levels=2, features=2, log2_size=8, base=4, finest=8)
    x, table = torch.full((1, 3), 0.3), torch.arange(2.0 * layout.entries).view(-1, 2) / layout.entries
    found = hash_encode(x.to(device), table.to(device), layout).cpu()
    if not torch.allclose(found, hashgrid.hash_encode(x, table, layout), atol=1e-3):
        raise RuntimeError("it encodes a point wrong")


def encoding_config(layout: GridLayout) -> dict[str, Any]:
    """The layout in tiny-cuda-nn's words."""
    return {
        "otype": "Grid",
        "type": "Hash",
        "n_levels": layout.levels,
        "n_features_per_level": layout.features,
        "log2_hashmap_size": layout.log2_size,
        "base_resolution": layout.base,
        "per_level_scale": layout.growth,
        "interpolation": "Linear",
    }


@lru_cache(maxsize=4)
def _encoding(layout: GridLayout, device: str) -> Any:
    with torch.device(device):
        encoding = tinycudann.Encoding(3, encoding_config(layout), dtype=torch.float32)
    if (encoding.params.numel(), encoding.n_output_dims) != (layout.entries * layout.features, layout.width):
        raise DeviceError(
            f"The installed tiny-cuda-nn holds {encoding.params.numel()} numbers for a hash grid of "
            f"{layout.entries} x {layout.features}.",
            "Update tiny-cuda-nn, or uninstall it.",
        )
    encoding.params = torch.nn.Parameter(encoding.params.new_empty(0))  # ours stands in at every call
    return encoding


class _FirstOrder(torch.autograd.Function):
    """Passes values and gradients on; tiny-cuda-nn itself drops part of a second derivative in silence."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return _NoSecond.apply(g)


class _NoSecond(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor) -> Tensor:
        return g.view_as(g)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> None:
        raise NotImplementedError(hashgrid.NO_SECOND_DERIVATIVE)
