"""Who does the work, and why nobody faster."""

import importlib
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from backend import kernels
from backend.errors import DeviceError, InputError
from backend.kernels import hashgrid, march, raster, select
from tests.tools import strict_nvdiffrast, strict_tinycudann

HAS_WARP = importlib.util.find_spec("warp") is not None


@pytest.fixture(autouse=True)
def fresh_adapters():
    """Adapters are imported anew by each test, so that stand-ins neither miss nor stay."""
    drop_adapters()
    yield
    drop_adapters()


def drop_adapters():
    for name in ("hashgrid_tcnn", "raster_nvdiffrast"):
        sys.modules.pop(f"backend.kernels.{name}", None)


@pytest.mark.skipif(not HAS_WARP, reason="warp-lang is not installed")
def test_the_cpu_uses_warp():
    chosen = select("cpu")
    assert chosen.names == {"hash grid": "warp", "rasteriser": "warp", "marching": "warp"}
    assert chosen.why["hash grid"] == "tcnn runs on cuda, not on cpu."
    assert chosen.why["rasteriser"] == "nvdiffrast runs on cuda, not on cpu."
    layout = hashgrid.GridLayout(2, 2, 8, 4, 8)
    x, table = torch.rand(5, 3), torch.rand(layout.entries, 2)
    expected = hashgrid.hash_encode(x, table, layout)
    assert torch.allclose(chosen.hash_encode(x, table, layout), expected, atol=1e-6)


def test_the_cpu_without_warp_uses_torch_and_says_so(monkeypatch):
    for name in ("warp", *(f"backend.kernels.{ours}_warp" for ours in ("hashgrid", "raster", "march"))):
        monkeypatch.setitem(sys.modules, name, None)  # Python's own way to say: cannot be imported
    chosen = select(torch.device("cpu"))
    assert chosen.hash_encode is hashgrid.hash_encode and chosen.rasterize_ids is raster.rasterize_ids
    assert chosen.march is march.march and chosen.why["marching"].startswith("warp could not be loaded (")
    assert "warp could not be loaded (" in chosen.why["hash grid"]
    with pytest.raises(DeviceError, match=r"warp could not be loaded .*pip install warp-lang"):
        select("cpu", "warp")


@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_other_devices_use_torch(device):
    chosen = select(device)
    assert set(chosen.names.values()) == {"torch"}
    assert f"warp runs on cuda and cpu, not on {device}." in chosen.why["rasteriser"]


def test_amd_cards_use_torch(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.0")
    chosen = select("cuda")
    assert set(chosen.names.values()) == {"torch"} and "not on rocm" in chosen.why["hash grid"]


@pytest.mark.skipif(not HAS_WARP, reason="warp-lang is not installed")
def test_a_driver_too_old_for_warp_is_said_up_front(monkeypatch):
    """Warp's own Python runs; what its C library would find is stood in for: a driver for CUDA 12.8 and no device."""
    import warp
    from warp._src import context

    monkeypatch.setattr(context.runtime, "cuda_devices", [])
    monkeypatch.setattr(context.runtime, "toolkit_version", (13, 4))
    monkeypatch.setattr(context.runtime, "driver_version", (12, 8))
    chosen = select("cuda", None)
    assert set(chosen.names.values()) == {"torch"}
    note = chosen.slow(torch.device("cuda", 0))
    assert note.startswith("In plain torch, many times slower: hash grid, rasteriser, marching. warp ")
    wanted = f"warp {warp.__version__} is built with CUDA 13.4 and needs a driver for CUDA 13.0 or newer"
    assert note.count(wanted) == 1 and "which has 12.8" in note and "update the card's driver" in note
    assert chosen.slow(torch.device("cpu")) == ""
    assert select("cpu").slow(torch.device("cpu")) == ""


def test_torch_can_be_asked_for():
    chosen = select("cpu", "torch")
    assert chosen.hash_encode is hashgrid.hash_encode and chosen.rasterize_ids is raster.rasterize_ids
    assert "torch was asked for instead of warp." in chosen.why["hash grid"]


def test_an_override_that_cannot_be_had_says_what_it_takes():
    with pytest.raises(InputError, match=r"no kernels called 'numba'.*torch, warp, tcnn, nvdiffrast"):
        select("cpu", "numba")
    with pytest.raises(DeviceError, match=r"tcnn runs on cuda, not on cpu.*NVlabs/tiny-cuda-nn"):
        select("cpu", "tcnn")
    with pytest.raises(DeviceError, match="warp runs on cuda and cpu, not on mps"):
        select("mps", "warp")


@pytest.mark.parametrize("error", ["EnvironmentError", "RuntimeError", "ImportError"])
def test_a_library_that_raises_on_import_is_passed_over(error, tmp_path: Path, monkeypatch):
    """tinycudann raises EnvironmentError without a card, torch extensions ImportError or RuntimeError."""
    text = f"raise {error}('Unknown compute capability.\\nsecond line')\n"
    (tmp_path / "tinycudann.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    chosen = select("cuda")
    assert chosen.names["hash grid"] != "tcnn"
    assert "tcnn could not be loaded (Unknown compute capability.)." in chosen.why["hash grid"]
    with pytest.raises(DeviceError, match=r"Unknown compute capability.*NVlabs/tiny-cuda-nn"):
        select("cuda", "tcnn")


def test_cuda_prefers_the_libraries(monkeypatch):
    tinycudann = types.ModuleType("tinycudann")
    nvdiffrast, ops = types.ModuleType("nvdiffrast"), types.ModuleType("nvdiffrast.torch")
    nvdiffrast.torch = ops
    for module in (tinycudann, nvdiffrast, ops):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for chosen in (select("cuda"), select("cuda", "tcnn")):
        assert chosen.names["hash grid"] == "tcnn" and chosen.names["rasteriser"] == "nvdiffrast"
        assert chosen.why["hash grid"] == chosen.why["rasteriser"] == ""
    mixed = select("cuda", "torch")
    assert set(mixed.names.values()) == {"torch"}


def test_what_is_on_the_cpu_meets_the_cpus_kernels(monkeypatch):
    """Both libraries refuse tensors outside the card, as the stand-ins do."""
    strict_nvdiffrast.install(monkeypatch)
    strict_tinycudann.install(monkeypatch)
    chosen, ours = select("cuda"), select("cpu")
    assert chosen.names["hash grid"] == "tcnn" and chosen.names["rasteriser"] == "nvdiffrast"
    layout = hashgrid.GridLayout(2, 2, 8, 4, 8)
    x, table = torch.rand(5, 3), torch.rand(layout.entries, 2)
    assert torch.equal(chosen.hash_encode(x, table, layout), ours.hash_encode(x, table, layout))
    corners, tri = torch.tensor([[-1.0, -1, 0, 1], [3, -1, 0, 1], [-1, 3, 0, 1]]), torch.tensor([[0, 1, 2]])
    assert torch.equal(chosen.rasterize_ids(corners, tri, 3, 5), torch.zeros(3, 5, dtype=torch.int32))


@pytest.mark.skipif(not HAS_WARP, reason="warp-lang is not installed")
@pytest.mark.parametrize("module", ["hashgrid_warp", "raster_warp", "march_warp"])
def test_nothing_is_written_to_standard_output(module):
    """Standard output carries the protocol; Warp greets there and reports what it compiles."""
    code = (
        f"import torch; import backend.kernels.{module} as m; from backend.kernels import hashgrid\n"
        "layout = hashgrid.GridLayout(2, 2, 8, 4, 8)\n"
        "args = torch.rand(5, 3), torch.rand(layout.entries, 2), layout\n"
        "tri = torch.tensor([[0, 1, 2]])\n"
        "if hasattr(m, 'hash_encode'): m.hash_encode(*args)\n"
        "elif hasattr(m, 'rasterize_ids'): m.rasterize_ids(torch.rand(3, 4), tri, 8, 8)\n"
        "else: m.march(torch.zeros(3, 3), torch.rand(3, 3), torch.ones(2, 2, 2).bool(), 1.0, 0.1, 8)"
    )
    root = Path(kernels.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
