"""tiny-cuda-nn's torch bindings without their kernels: they refuse what those refuse, our torch twin does the work.

The refusals are those of `bindings/torch/tinycudann/modules.py` and, below it, of `bindings.cpp`, `object.h` and
`encodings/grid.h`, of April 2026: devices, layout in memory, types, shapes, sizes, settings of a hash grid.
"""

from __future__ import annotations

import math
import sys
import types
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from backend import kernels
from backend.kernels import hashgrid

BATCH = 256  # BATCH_SIZE_GRANULARITY
KNOWN = {  # of a grid, with the value where none is given
    "otype": "Grid", "type": "Hash", "n_levels": 16, "n_features_per_level": 2, "log2_hashmap_size": 19,
    "base_resolution": 16, "per_level_scale": 2.0, "interpolation": "Linear",
}  # fmt: skip
Precision = Enum("Precision", ["Fp32", "Fp16"])


def check(holds: bool, what: str) -> None:
    """CHECK_THROW: std::runtime_error, a RuntimeError in Python."""
    if not holds:
        raise RuntimeError(f"bindings.cpp check failed {what}")


def sides(levels: int, base: int, growth: np.float32) -> list[int]:
    """Vertices a side of each level: grid_scale and grid_resolution, in float32 steps, each rounded correctly."""
    log2 = np.float32(math.log2(growth))
    scales = [
        np.float32(2.0 ** float(np.float32(n) * log2)) * np.float32(base) - np.float32(1)
        for n in range(levels)
    ]
    return [math.ceil(scale) + 1 for scale in scales]


class Layout:
    """What grid.h works out of the settings: the sizes of the levels."""

    def __init__(self, config: dict) -> None:
        if not isinstance(config, dict) or not all(
            type(v) in (bool, int, float, str) for v in config.values()
        ):
            raise TypeError("create_encoding(): incompatible function arguments")  # pybind11_json
        unknown = set(config) - set(KNOWN)
        check(not unknown, f"{unknown}: the stand-in does not know what tiny-cuda-nn makes of it")
        c = {**KNOWN, **config}
        for name, default in KNOWN.items():
            fits = isinstance(c[name], str if isinstance(default, str) else (int, float))
            check(fits and not isinstance(c[name], bool), f"[json.exception.type_error.302] {name}")
        told = (c["otype"].lower(), c["type"].lower(), c["interpolation"].lower())
        check(told == ("grid", "hash", "linear"), f"the stand-in has no encoding {told}")
        check(
            c["n_features_per_level"] in (1, 2, 4, 8),
            "GridEncoding: n_features_per_level must be 1, 2, 4, or 8.",
        )
        check(0 < c["n_levels"] <= 128, "GridEncoding: m_n_levels must be at most MAX_N_LEVELS=128")
        self.levels, self.features = c["n_levels"], c["n_features_per_level"]
        base, growth, most = c["base_resolution"], np.float32(c["per_level_scale"]), c["log2_hashmap_size"]
        sizes = [min((side**3 + 7) // 8 * 8, 2**most) for side in sides(self.levels, base, growth)]
        self.n_params = sum(sizes) * self.features
        finest = round(base * float(growth) ** (self.levels - 1))
        self.ours = hashgrid.GridLayout(self.levels, self.features, most, base, finest)  # for our twin's work


class Context:
    """What forward keeps for backward; empty after a call without gradients."""

    def __init__(self, filled: bool) -> None:
        self.filled = filled


class Native:
    """`Module` of bindings.cpp, for a hash grid in float32."""

    def __init__(self, layout: Layout, card: str, own: Callable[[], AbstractContextManager[object]]) -> None:
        self._layout, self._card, self._own = layout, card, own

    def n_output_dims(self) -> int:
        return self._layout.ours.width  # its alignment is 0: nothing is padded

    def n_params(self) -> int:
        return self._layout.n_params

    def param_precision(self) -> Precision:
        return Precision.Fp32

    def initial_params(self, seed: int) -> Tensor:
        if type(seed) is not int or seed < 0:
            raise TypeError("initial_params(): incompatible function arguments")
        return torch.zeros(self.n_params(), device=self._card)  # really within 1e-4 of 0

    def _checked(self, **tensors: Tensor) -> None:
        for name, t in tensors.items():
            if not isinstance(t, Tensor):
                raise TypeError("incompatible function arguments")
            check(t.device.type == self._card, f"{name}.device().is_cuda()")
            check(t.is_contiguous(), f"{name}.is_contiguous()")
            check(t.dtype == torch.float32, f"{name}.scalar_type() == torch::kFloat32")
            check(t.device == tensors["input"].device, f"device == {name}.device()")
        check(tensors["input"].shape[1:] == (3,), "input.size(1) == n_input_dims()")
        check(len(tensors["params"]) == self.n_params(), "params.size(0) == n_params()")
        check(len(tensors["input"]) % BATCH == 0, "input.n() % BATCH_SIZE_GRANULARITY == 0")

    def fwd(self, input: Tensor, params: Tensor) -> tuple[Context, Tensor]:
        self._checked(input=input, params=params)
        with self._own(), torch.no_grad():
            out = hashgrid.hash_encode(input, params.view(-1, self._layout.features), self._layout.ours)
        return Context(input.requires_grad or params.requires_grad), out

    def bwd(self, context: Context, input: Tensor, params: Tensor, output: Tensor, slope: Tensor) -> tuple:
        if not context.filled:
            raise RuntimeError(
                "Module::bwd: called with invalid context. fwd likely (mistakenly) ran in inference mode."
            )
        self._checked(input=input, params=params, output=output, dL_doutput=slope)
        check(
            output.shape == slope.shape == (len(input), self.n_output_dims()),
            "output.size(1) == n_output_dims()",
        )
        wanted = input.requires_grad, params.requires_grad
        with self._own(), torch.no_grad():
            table = params.view(-1, self._layout.features)
            to_input, to_table = hashgrid._gradients(slope, input, table, self._layout.ours, *wanted)
        return to_input, None if to_table is None else to_table.view(-1)


def c_module(card: str, own: Callable[[], AbstractContextManager[object]]) -> types.ModuleType:
    """`tinycudann_bindings._75_C` or another card's, as far as we use it."""
    module = types.ModuleType("tinycudann_bindings._75_C")

    def create_encoding(n_input_dims: int, config: dict, precision: Precision) -> Native:
        layout = Layout(config)
        check(n_input_dims in (2, 3, 4), "GridEncoding: number of input dims must be 2 or 3.")
        check(
            n_input_dims == 3 and precision is Precision.Fp32, "the stand-in knows 3 numbers in float32 only"
        )
        return Native(layout, card, own)

    module.create_encoding, module.Precision = create_encoding, Precision
    module.batch_size_granularity = lambda: BATCH
    module.default_loss_scale = lambda precision: 1.0 if precision is Precision.Fp32 else 128.0
    module.preferred_precision = lambda: Precision.Fp16
    return module


def python_module(c: types.ModuleType, card: str) -> types.ModuleType:
    """`tinycudann`, as far as we use it."""
    module = types.ModuleType("tinycudann")

    class Call(torch.autograd.Function):
        @staticmethod
        def forward(ctx, native, x, params, scale):
            ctx.set_materialize_grads(False)
            ctx.native, ctx.scale = native, scale
            ctx.native_context, out = native.fwd(x, params)
            ctx.save_for_backward(x, params, out)
            return out

        @staticmethod
        def backward(ctx, slope):
            if slope is None:
                return None, None, None, None
            return (None, *Back.apply(ctx, slope, *ctx.saved_tensors), None)

    class Back(torch.autograd.Function):
        @staticmethod
        def forward(ctx, call, slope, x, params, out):
            to_x, to_params = call.native.bwd(call.native_context, x, params, out, slope * call.scale)
            return tuple(None if g is None else g / call.scale for g in (to_x, to_params))

        @staticmethod
        def backward(ctx, *_):
            raise AssertionError(
                "tiny-cuda-nn's second derivative, which leaves a part out in silence, was asked for"
            )

    class Encoding(torch.nn.Module):
        def __init__(self, n_input_dims, encoding_config, seed=1337, dtype=None):
            super().__init__()
            known = {
                torch.float32: c.Precision.Fp32,
                torch.float16: c.Precision.Fp16,
                None: c.preferred_precision(),
            }
            if dtype not in known:
                raise ValueError(f"Encoding only supports fp32 or fp16 precision, but got {dtype}")
            self.native_tcnn_module = c.create_encoding(n_input_dims, encoding_config, known[dtype])
            self.params = torch.nn.Parameter(self.native_tcnn_module.initial_params(seed))
            self.n_output_dims = self.native_tcnn_module.n_output_dims()

        def forward(self, x):
            if x.device.type != card:  # really a warning and a copy, which nobody would want
                warnings.warn(
                    "input must be a CUDA tensor, but isn't. This indicates suboptimal performance."
                )
                raise RuntimeError("tiny-cuda-nn would copy its input to the card at every call")
            padded = torch.nn.functional.pad(x, [0, 0, 0, -len(x) % c.batch_size_granularity()])
            scale = c.default_loss_scale(self.native_tcnn_module.param_precision())
            params = self.params.to(torch.float).contiguous()
            out = Call.apply(self.native_tcnn_module, padded.to(torch.float).contiguous(), params, scale)
            return out[: len(x), : self.n_output_dims]

    module.Encoding = Encoding
    return module


def install(
    monkeypatch: pytest.MonkeyPatch,
    card: str = "cuda",
    own: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> types.ModuleType:
    """Makes `import tinycudann` find the stand-in, and our adapter import it. Returns the stand-in.

    card  the type of device that counts as the card: "cpu" where no card is pretended
    own   entered around what the real one does in its kernels, for who counts operators
    """
    module = python_module(c_module(card, own), card)
    monkeypatch.setitem(sys.modules, "tinycudann", module)
    monkeypatch.setitem(
        sys.modules, "backend.kernels.hashgrid_tcnn", types.ModuleType("old")
    )  # what was there comes back
    del sys.modules["backend.kernels.hashgrid_tcnn"]
    monkeypatch.setattr(
        kernels, "_select", cache(kernels._select.__wrapped__)
    )  # chosen again, and once more later
    return module
