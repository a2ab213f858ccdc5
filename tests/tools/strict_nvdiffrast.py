"""nvdiffrast 0.4.0 without its kernels: it refuses what nvdiffrast refuses, and our torch twin does the work.

The refusals are those of `nvdiffrast/torch/ops.py` and, below it, of `csrc/torch/torch_rasterize.cpp`: devices, layout
in memory, types, shapes, alignment, resolution. What the stand-in does not work out is NaN, so that reading it shows.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import pytest
import torch
from torch import Tensor

from backend import kernels
from backend.kernels import raster

MOST_TRIANGLES = 1 << 24  # CR_MAXSUBTRIS_SIZE


def check(holds: bool, message: str) -> None:
    """TORCH_CHECK: a RuntimeError in Python."""
    if not holds:
        raise RuntimeError(message)


def c_module(card: str, own: Callable[[], AbstractContextManager[object]]) -> types.ModuleType:
    """`_nvdiffrast_c`, as far as we use it."""
    module = types.ModuleType("_nvdiffrast_c")

    class RasterizeCRStateWrapper:
        made = 0

        def __init__(self, cuda_device_index: int) -> None:
            if type(cuda_device_index) is not int:
                raise TypeError("__init__(): incompatible constructor arguments")
            RasterizeCRStateWrapper.made += 1
            self.index = cuda_device_index

    def rasterize_fwd_cuda(
        state: RasterizeCRStateWrapper,
        pos: Tensor,
        tri: Tensor,
        resolution: tuple,
        ranges: Tensor,
        peeling: int,
    ) -> tuple[Tensor, Tensor]:
        ours = isinstance(state, RasterizeCRStateWrapper) and all(
            isinstance(t, Tensor) for t in (pos, tri, ranges)
        )
        if not (
            ours and len(resolution) == 2 and all(type(n) is int for n in resolution) and type(peeling) is int
        ):
            raise TypeError("rasterize_fwd_cuda(): incompatible function arguments")  # pybind11
        name = "rasterize_fwd_cuda(): Inputs "
        check(
            pos.device.type == card and tri.device == pos.device,
            name + "pos, tri must reside on the same GPU device",
        )
        check(ranges.device.type == "cpu", name + "ranges must reside on CPU")
        check(
            all(t.is_contiguous() for t in (pos, tri, ranges)),
            name + "pos, tri, ranges must be contiguous tensors",
        )
        check(pos.dtype == torch.float32, name + "pos must be float32 tensors")
        check(tri.dtype == ranges.dtype == torch.int32, name + "tri, ranges must be int32 tensors")
        check(
            (pos.device.index or 0) == state.index, "CudaRaster context must must reside on the same device"
        )
        instances = pos.dim() > 2
        if instances:
            good = pos.dim() == 3 and min(pos.shape) > 0 and pos.shape[2] == 4
            check(good, "instance mode - pos must have shape [>0, >0, 4]")
        else:
            check(
                pos.dim() == 2 and len(pos) > 0 and pos.shape[1] == 4,
                "range mode - pos must have shape [>0, 4]",
            )
            good = ranges.dim() == 2 and len(ranges) > 0 and ranges.shape[1] == 2
            check(good, "range mode - ranges must have shape [>0, 2]")
        check(tri.dim() == 2 and len(tri) > 0 and tri.shape[1] == 3, "tri must have shape [>0, 3]")
        check(min(resolution) > 0, "resolution must be [>0, >0]")
        check(len(tri) <= MOST_TRIANGLES, "subtriangle count overflow")
        check(pos.data_ptr() % 16 == 0, "pos input tensor not aligned to float4")
        if not instances or peeling >= 0:
            raise NotImplementedError("the stand-in has neither range mode nor depth peeling")
        height, width = resolution
        with own(), torch.no_grad():
            out = torch.full((len(pos), height, width, 4), torch.nan, device=pos.device)
            for image, corners in zip(out, pos, strict=True):
                image[:, :, 3] = (raster.rasterize_ids(corners, tri, height, width) + 1).float()
            return out, torch.full_like(out, torch.nan)

    module.RasterizeCRStateWrapper = RasterizeCRStateWrapper
    module.rasterize_fwd_cuda = rasterize_fwd_cuda
    return module


def python_module(c: types.ModuleType, card: str) -> types.ModuleType:
    """`nvdiffrast.torch`, as far as we use it."""
    module = types.ModuleType("nvdiffrast.torch")

    class RasterizeCudaContext:
        def __init__(self, device: object = None) -> None:
            if card != "cuda":
                index = 0
            elif device is None:
                index = torch.cuda.current_device()
            else:
                with torch.cuda.device(device):  # raises for another kind of device
                    index = torch.cuda.current_device()
            self.cpp_wrapper = c.RasterizeCRStateWrapper(index)

    class Rasterize(torch.autograd.Function):
        @staticmethod
        def forward(ctx, wrapper, pos, tri, resolution, ranges):
            return c.rasterize_fwd_cuda(wrapper, pos, tri, resolution, ranges, -1)

        @staticmethod
        def backward(ctx, *_):
            raise NotImplementedError("the stand-in has no gradient: ours is raster.fragments'")

    def rasterize(glctx, pos, tri, resolution, ranges=None, grad_db=True):
        assert isinstance(glctx, RasterizeCudaContext)
        assert grad_db is True or grad_db is False
        assert isinstance(pos, Tensor) and isinstance(tri, Tensor)
        if ranges is None:
            ranges = torch.empty((0, 2), dtype=torch.int32, device="cpu")
        assert isinstance(ranges, Tensor)
        return Rasterize.apply(glctx.cpp_wrapper, pos, tri, tuple(resolution), ranges)

    module.RasterizeCudaContext, module.rasterize = RasterizeCudaContext, rasterize
    return module


def install(
    monkeypatch: pytest.MonkeyPatch,
    card: str = "cuda",
    own: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> types.ModuleType:
    """Makes `import nvdiffrast.torch` find the stand-in, and our adapter import it. Returns the C++ module.

    card  the type of device that counts as the card: "cpu" where no card is pretended
    own   entered around what the real one does in its kernels, for who counts operators
    """
    c = c_module(card, own)
    package, ops = types.ModuleType("nvdiffrast"), python_module(c, card)
    package.torch = ops
    for module in (c, package, ops):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(
        sys.modules, "backend.kernels.raster_nvdiffrast", types.ModuleType("old")
    )  # what was there comes back
    del sys.modules["backend.kernels.raster_nvdiffrast"]
    monkeypatch.setattr(
        kernels, "_select", cache(kernels._select.__wrapped__)
    )  # chosen again, and once more later
    return c
