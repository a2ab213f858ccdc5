"""The stand-ins for nvdiffrast and tiny-cuda-nn refuse what these refuse, and the real Python accepts their C++."""

import importlib
import importlib.util
import sys
import types

import numpy as np
import pytest
import torch

from backend.kernels import hashgrid, raster
from tests.tools import strict_nvdiffrast, strict_tinycudann

TRIANGLE = torch.tensor([[-1.0, -1, 0, 1], [3, -1, 0, 1], [-1, 3, 0, 1]])
CORNERS = torch.tensor([[0, 1, 2]], dtype=torch.int32)
GRID = {
    "otype": "Grid",
    "type": "Hash",
    "n_levels": 2,
    "n_features_per_level": 2,
    "log2_hashmap_size": 8,
    "base_resolution": 4,
    "per_level_scale": 2.0,
    "interpolation": "Linear",
}


def rasterise(c, pos=None, tri=CORNERS, resolution=(2, 3), ranges=None, index=0):
    pos = TRIANGLE[None] if pos is None else pos
    ranges = torch.empty((0, 2), dtype=torch.int32) if ranges is None else ranges
    return c.rasterize_fwd_cuda(c.RasterizeCRStateWrapper(index), pos, tri, resolution, ranges, -1)


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"pos": TRIANGLE[None].double()}, "pos must be float32"),
        ({"tri": CORNERS.long()}, "tri, ranges must be int32"),
        ({"pos": TRIANGLE.T.contiguous().T[None]}, "contiguous"),
        ({"pos": torch.zeros(13)[1:].view(1, 3, 4)}, "not aligned to float4"),
        ({"pos": TRIANGLE[None, :, :3].contiguous()}, r"shape \[>0, >0, 4\]"),
        ({"pos": TRIANGLE}, r"ranges must have shape"),
        ({"pos": TRIANGLE[None, :0]}, r"shape \[>0, >0, 4\]"),
        ({"tri": CORNERS[:0]}, r"tri must have shape"),
        ({"tri": CORNERS.to("meta")}, "same GPU device"),
        ({"ranges": torch.zeros(1, 2, dtype=torch.int32, device="meta")}, "ranges must reside on CPU"),
        ({"resolution": (0, 3)}, r"resolution must be"),
        ({"index": 1}, "same device"),
    ],
)
def test_nvdiffrasts_refusals(wrong, told):
    c = strict_nvdiffrast.c_module("cpu", strict_nvdiffrast.nullcontext)
    assert rasterise(c)[0][0, :, :, 3].tolist() == [[1, 1, 1], [1, 1, 1]]
    with pytest.raises(RuntimeError, match=told):
        rasterise(c, **wrong)
    with pytest.raises(RuntimeError, match="same GPU device"):
        rasterise(strict_nvdiffrast.c_module("cuda", strict_nvdiffrast.nullcontext))
    with pytest.raises(TypeError, match="incompatible"):
        rasterise(c, resolution=(2.0, 3))


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"x": torch.rand(255, 3)}, "GRANULARITY"),
        ({"x": torch.rand(256, 2)}, "n_input_dims"),
        ({"x": torch.rand(256, 3).double()}, "kFloat32"),
        ({"x": torch.rand(3, 256).T}, "is_contiguous"),
        ({"x": torch.rand(256, 3, device="meta")}, "is_cuda"),
        ({"params": torch.zeros(8)}, "n_params"),
        ({"params": torch.zeros(1168).half()}, "kFloat32"),
    ],
)
def test_tiny_cuda_nns_refusals(wrong, told):
    c = strict_tinycudann.c_module("cpu", strict_tinycudann.nullcontext)
    native = c.create_encoding(3, GRID, c.Precision.Fp32)
    good = {"x": torch.rand(256, 3), "params": torch.zeros(native.n_params())}
    context, out = native.fwd(*good.values())
    assert out.shape == (256, 4) and native.n_params() == 2 * (4**3 + 2**8)
    with pytest.raises(RuntimeError, match="inference mode"):
        native.bwd(context, *good.values(), out, out)
    with pytest.raises(RuntimeError, match=told):
        native.fwd(*{**good, **wrong}.values())


@pytest.mark.parametrize(
    "wrong", [{"n_features_per_level": 3}, {"n_levels": 129}, {"type": "Dense"}, {"spread": 1}]
)
def test_tiny_cuda_nns_settings(wrong):
    c = strict_tinycudann.c_module("cpu", strict_tinycudann.nullcontext)
    with pytest.raises(RuntimeError):
        c.create_encoding(3, {**GRID, **wrong}, c.Precision.Fp32)
    with pytest.raises(TypeError, match="incompatible"):
        c.create_encoding(3, {**GRID, "per_level_scale": torch.tensor(2.0)}, c.Precision.Fp32)


def test_tiny_cuda_nns_levels():
    """The resolutions that its own float32 steps give, from the C library's exp2f and log2f."""
    assert strict_tinycudann.sides(8, 16, np.float32(16 ** (1 / 7))) == [16, 24, 36, 53, 79, 116, 173, 256]
    finest = strict_tinycudann.sides(16, 16, np.float32(128 ** (1 / 15)))
    assert finest == [16, 23, 31, 43, 59, 81, 112, 154, 213, 295, 407, 562, 777, 1073, 1483, 2048]


def adapter_of(name):
    sys.modules.pop(f"backend.kernels.{name}", None)
    return importlib.import_module(f"backend.kernels.{name}")


@pytest.fixture
def card(monkeypatch):
    """A processor that tells the real packages' Python that it is a card."""
    for name, value in {"is_available": True, "device_count": 1, "current_device": 0}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    monkeypatch.setattr(torch.cuda, "device", lambda _: strict_nvdiffrast.nullcontext())
    yield
    for name in [
        name for name in sys.modules if name.startswith(("nvdiffrast", "tinycudann", "backend.kernels."))
    ]:
        if name.split(".")[-1] in ("hashgrid_tcnn", "raster_nvdiffrast") or not name.startswith("backend"):
            sys.modules.pop(name)


@pytest.mark.skipif(importlib.util.find_spec("nvdiffrast") is None, reason="nvdiffrast is not installed")
def test_nvdiffrasts_own_python_on_the_stand_in(card, monkeypatch):
    monkeypatch.setitem(
        sys.modules, "_nvdiffrast_c", strict_nvdiffrast.c_module("cpu", strict_nvdiffrast.nullcontext)
    )
    ids = adapter_of("raster_nvdiffrast").rasterize_ids(TRIANGLE, CORNERS, 5, 7)
    assert torch.equal(ids, raster.rasterize_ids(TRIANGLE, CORNERS, 5, 7))


@pytest.mark.skipif(importlib.util.find_spec("tinycudann") is None, reason="tiny-cuda-nn is not installed")
def test_tiny_cuda_nns_own_python_on_the_stand_in(card, monkeypatch):
    c = strict_tinycudann.c_module("cpu", strict_tinycudann.nullcontext)
    c.rtc_set_cache_dir = c.rtc_set_include_dir = lambda folder: None
    parent = types.ModuleType("tinycudann_bindings")
    parent.__path__ = []
    monkeypatch.setitem(sys.modules, parent.__name__, parent)
    monkeypatch.setitem(sys.modules, c.__name__, c)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda _: True))
    layout = hashgrid.GridLayout(2, 2, 8, 4, 8)
    found = []
    for encode in (adapter_of("hashgrid_tcnn").hash_encode, hashgrid.hash_encode):
        x = torch.rand(300, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
        table = torch.rand(layout.entries, 2, generator=torch.Generator().manual_seed(2)).requires_grad_()
        out = encode(x, table, layout)
        found.append((out, *torch.autograd.grad(out.square().sum(), (x, table))))
    for got, expected in zip(*found, strict=True):
        assert torch.equal(got, expected)
