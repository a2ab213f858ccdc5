"""The Warp kernels compile for every card we name; NVRTC needs no card for that."""

import pytest

wp = pytest.importorskip("warp", reason="warp-lang is not installed")

from backend.kernels import hashgrid_warp, march_warp, raster_warp  # noqa: E402

ARCHITECTURES = [75, 86, 89, 90, 120]  # Turing, Ampere, Ada, Hopper, Blackwell


def modules():
    yield "rasteriser", raster_warp
    yield "marching", march_warp
    for features in (2, 4):
        names = ("encode", "to_table", "to_x")
        for name, kernel in zip(names, hashgrid_warp.kernels(features), strict=True):
            yield f"{name}-{features}", kernel.module


@pytest.mark.slow
@pytest.mark.parametrize("module", [pytest.param(m, id=name) for name, m in modules()])
def test_compiles_for_every_architecture(module, tmp_path):
    written = wp.compile_aot_module(module, arch=ARCHITECTURES, module_dir=tmp_path, use_ptx=True)
    assert len(written) == len(ARCHITECTURES)
    for path, architecture in zip(written, ARCHITECTURES, strict=True):
        text = path.read_text(encoding="utf-8")
        assert f".target sm_{architecture}" in text and ".visible .entry" in text
