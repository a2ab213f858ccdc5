"""nvdiffrast and tiny-cuda-nn as strict as their C++, over our own torch twins.

nvdiffrast 0.4.0: nvdiffrast/torch/ops.py and csrc/torch/torch_rasterize.cpp. tiny-cuda-nn: bindings/torch/tinycudann,
modules.py and bindings.cpp. Each keeps what it was called with.
"""

from __future__ import annotations

import sys
import types
import warnings
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from backend import kernels
from backend.kernels import hashgrid, raster
from backend.kernels.hashgrid import GridLayout


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise RuntimeError(what)


def _forget(patch: pytest.MonkeyPatch, name: str, *modules: types.ModuleType) -> None:
    """Our binding `name` is imported again, on these modules, and once more afterwards."""
    for module in modules:
        patch.setitem(sys.modules, module.__name__, module)
    full = f"backend.kernels.{name}"
    patch.setitem(sys.modules, full, types.ModuleType(full))  # what was there comes back
    del sys.modules[full]
    patch.setattr(kernels, "_select", cache(kernels._select.__wrapped__))  # chosen again, and once more later


def install_nvdiffrast(patch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Until the patch is undone; the sizes that it drew."""
    drawn: list[tuple[int, int]] = []

    class RasterizeCudaContext:
        def __init__(self, device: Any = None) -> None:
            if device is None:
                self.index = torch.cuda.current_device()
            else:
                with torch.cuda.device(device):
                    self.index = torch.cuda.current_device()

    def rasterize(
        glctx: Any,
        pos: Tensor,
        tri: Tensor,
        resolution: Any,
        ranges: Tensor | None = None,
        grad_db: bool = True,
    ) -> tuple[Tensor, Tensor]:
        assert isinstance(glctx, RasterizeCudaContext) and isinstance(pos, Tensor) and isinstance(tri, Tensor)
        assert ranges is None, "our binding uses instance mode alone"
        _require(pos.is_cuda and tri.is_cuda, "Inputs pos, tri must reside on the same GPU device")
        _require(pos.is_contiguous() and tri.is_contiguous(), "Inputs pos, tri must be contiguous tensors")
        _require(pos.dtype == torch.float32, "Inputs pos must be float32 tensors")
        _require(tri.dtype == torch.int32, "Inputs tri must be int32 tensors")
        _require(pos.get_device() == glctx.index, "CudaRaster context must must reside on the same device")
        _require(
            pos.ndim == 3 and pos.shape[0] > 0 and pos.shape[1] > 0 and pos.shape[2] == 4, "pos: [>0, >0, 4]"
        )
        _require(tri.ndim == 2 and tri.shape[0] > 0 and tri.shape[1] == 3, "tri must have shape [>0, 3]")
        height, width = tuple(resolution)
        _require(height > 0 and width > 0, "resolution must be [>0, >0]")
        _require(pos.data_ptr() % 16 == 0, "pos input tensor not aligned to float4")
        drawn.append((height, width))
        images = []
        for one in pos:
            ids = raster.rasterize_ids(one, tri, height, width)
            images.append(torch.nn.functional.pad((ids + 1).float()[..., None], (3, 0)))
        out = torch.stack(images)
        return out, torch.zeros_like(out) if grad_db else out.new_empty(*out.shape[:3], 0)

    package, ops = types.ModuleType("nvdiffrast"), types.ModuleType("nvdiffrast.torch")
    ops.RasterizeCudaContext, ops.rasterize = RasterizeCudaContext, rasterize  # type: ignore[attr-defined]
    package.torch = ops  # type: ignore[attr-defined]
    _forget(patch, "raster_nvdiffrast", package, ops)
    return drawn


class _Encode(torch.autograd.Function):
    """modules.py's _module_function: gradients of what requires them, and what bindings.cpp checks."""

    @staticmethod
    def forward(ctx: Any, native: Any, x: Tensor, params: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        _require(x.dtype == torch.float32 and params.dtype == torch.float32, "check failed: scalar_type")
        _require(x.shape[1] == 3, "check failed input.size(1) == n_input_dims()")
        _require(params.shape == (native.count,), "check failed params.size(0) == n_params()")
        _require(x.is_cuda and params.is_cuda, "CUDA error: an illegal memory access was encountered")
        _require(
            x.is_contiguous() and params.is_contiguous() and len(x) % 256 == 0, "batch granularity is 256"
        )
        native.calls.append(len(x))
        ctx.save_for_backward(x, params)
        ctx.native = native
        return hashgrid.hash_encode(x, params.view(-1, native.layout.features), native.layout)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, params = ctx.saved_tensors
        layout = ctx.native.layout
        _require(g.is_cuda and g.dtype == torch.float32, "check failed: dL_doutput")
        with torch.enable_grad():
            x, params = x.detach().requires_grad_(), params.detach().requires_grad_()
            out = hashgrid.hash_encode(x, params.view(-1, layout.features), layout)
            gx, gp = torch.autograd.grad(out, (x, params), g.contiguous())
        return None, gx if ctx.needs_input_grad[1] else None, gp if ctx.needs_input_grad[2] else None


def install_tinycudann(patch: pytest.MonkeyPatch) -> list[int]:
    """Until the patch is undone; the batches that it encoded."""
    calls: list[int] = []

    class Encoding(torch.nn.Module):
        def __init__(
            self, n_input_dims: int, encoding_config: dict[str, Any], seed: int = 1337, dtype: Any = None
        ) -> None:
            super().__init__()
            _require(n_input_dims == 3, "this stand-in has three inputs")
            if dtype not in (torch.float32, torch.float16):
                raise ValueError(f"Encoding only supports fp32 or fp16 precision, but got {dtype}")
            config = dict(encoding_config)
            _require(config.pop("otype") == "Grid" and config.pop("type") == "Hash", "another encoding")
            _require(config.pop("interpolation") == "Linear", "another interpolation")
            levels, base, growth = config["n_levels"], config["base_resolution"], config["per_level_scale"]
            finest = round(base * growth ** (levels - 1))
            self.layout = GridLayout(
                levels, config["n_features_per_level"], config["log2_hashmap_size"], base=base, finest=finest
            )
            self.calls, self.count = calls, self.layout.entries * self.layout.features
            self.n_input_dims, self.n_output_dims = n_input_dims, self.layout.width
            self.params = torch.nn.Parameter(torch.zeros(self.count, device="cuda"))

        def forward(self, x: Tensor) -> Tensor:
            if not x.is_cuda:
                warnings.warn(
                    "input must be a CUDA tensor, but isn't. This indicates suboptimal performance.",
                    stacklevel=2,
                )
                x = x.cuda()
            size = len(x)
            padded = torch.nn.functional.pad(x, (0, 0, 0, -size % 256))
            return _Encode.apply(self, padded.float().contiguous(), self.params.float().contiguous())[:size]

    module = types.ModuleType("tinycudann")
    module.Encoding = Encoding  # type: ignore[attr-defined]
    _forget(patch, "hashgrid_tcnn", module)
    return calls
