"""Who does the work, and why nobody faster."""

import importlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from backend import kernels
from backend.errors import CardFailed, DeviceError, InputError
from backend.kernels import hashgrid, march, raster, select, using
from tests.card.pretended import PretendedCard
from tests.tools import strict_nvdiffrast, strict_tinycudann

HAS_WARP = importlib.util.find_spec("warp") is not None


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Each test imports the adapters and chooses for itself, so that stand-ins neither miss nor stay."""
    drop_adapters()
    monkeypatch.setattr(kernels, "_select", cache(kernels._select.__wrapped__))
    yield
    drop_adapters()


def drop_adapters():
    for name in ("hashgrid_tcnn", "raster_nvdiffrast"):
        sys.modules.pop(f"backend.kernels.{name}", None)


@pytest.fixture
def card():
    if torch.backends.cuda.is_built():
        pytest.skip("this torch has CUDA: nothing is pretended on it")
    with PretendedCard() as card:
        yield card


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


LAYOUT = hashgrid.GridLayout(2, 2, 8, 4, 8)
CORNERS = torch.tensor([[-1.0, -1, 0, 1], [3, -1, 0, 1], [-1, 3, 0, 1]])
TRI = torch.tensor([[0, 1, 2]])


def test_cuda_prefers_the_libraries(card, monkeypatch):
    strict_nvdiffrast.install(monkeypatch)
    strict_tinycudann.install(monkeypatch)
    for chosen in (select("cuda"), select("cuda", "tcnn")):
        assert chosen.names["hash grid"] == "tcnn" and chosen.names["rasteriser"] == "nvdiffrast"
        assert chosen.why["hash grid"] == chosen.why["rasteriser"] == ""
        assert chosen.notes(torch.device("cuda")) == ()
    assert set(select("cuda", "torch").names.values()) == {"torch"}


def test_each_call_goes_by_its_tensors_device(card, monkeypatch):
    """Both libraries refuse tensors outside the card; a job on a card has some on the CPU, UVs among them."""
    strict_nvdiffrast.install(monkeypatch)
    strict_tinycudann.install(monkeypatch)
    assert select("cuda").names == {"hash grid": "tcnn", "rasteriser": "nvdiffrast", "marching": "warp"}
    x, table = torch.rand(5, 3), torch.rand(LAYOUT.entries, 2)
    expected = hashgrid.hash_encode(x, table, LAYOUT)
    for device in ("cpu", "cuda"):
        found = kernels.hash_encode(x.to(device), table.to(device), LAYOUT)
        assert found.device.type == device and torch.allclose(found.cpu(), expected, atol=1e-6)
        ids = kernels.rasterize_ids(CORNERS.to(device), TRI.to(device), 3, 5)
        assert ids.device.type == device and not ids.cpu().any()
        at = torch.zeros(2, 3, device=device), torch.eye(3, device=device)[:2]
        samples = kernels.march_rays(*at, torch.ones(2, 2, 2, dtype=torch.bool, device=device), 1.0, 0.1, 8)
        assert samples.t.device.type == device and len(samples.t)


def built_for_another_card(card):
    def launch():
        card.left = "no kernel image is available for execution on the device"
        raise RuntimeError("Cuda error: 209[cudaLaunchKernel(...);]\nsecond line")

    return launch


@pytest.mark.parametrize("stand_in, what, library", [
    (strict_nvdiffrast, "rasteriser", "nvdiffrast"), (strict_tinycudann, "hash grid", "tiny-cuda-nn"),
])  # fmt: skip
def test_a_library_built_for_another_card_is_found_out(card, monkeypatch, stand_in, what, library):
    """It can be imported; its launch fails, and CUDA keeps the error for whoever asks next."""
    stand_in.install(monkeypatch, own=built_for_another_card(card))
    chosen = select("cuda")
    assert chosen.names[what] == "warp" and chosen.why[what] in chosen.broken
    (note,) = chosen.notes(torch.device("cuda"))
    assert note.startswith(f"{library} is installed and does not run on the Pretended RTX (Cuda error: 209[")
    assert "second line" not in note and note.endswith("or uninstall it.")
    assert torch.ones(2, device="cuda").sum().item() == 2  # the error that was left is gone
    with pytest.raises(DeviceError, match="does not run on the Pretended RTX"):
        select("cuda", {"hash grid": "tcnn"}.get(what, library))


@pytest.mark.parametrize("stand_in", [strict_nvdiffrast, strict_tinycudann])
def test_a_library_that_runs_and_is_wrong_is_found_out(card, monkeypatch, stand_in):
    stand_in.install(monkeypatch)
    monkeypatch.setattr(
        raster, "rasterize_ids", lambda pos, tri, h, w: torch.full((h, w), 3, device=pos.device)
    )
    encode = hashgrid.hash_encode
    monkeypatch.setattr(
        hashgrid, "hash_encode", lambda x, *rest: encode(x, *rest) + float(x.device.type == "cuda")
    )
    (note,) = select("cuda").broken
    assert "(it draws a triangle wrong)" in note or "(it encodes a point wrong)" in note


def test_a_library_that_ends_all_use_of_the_card_ends_the_run(card, monkeypatch):
    def launch():
        card.break_down()
        raise RuntimeError("Cuda error: 700[cudaLaunchKernel(...);]")

    strict_nvdiffrast.install(monkeypatch, own=launch)
    with pytest.raises(
        CardFailed, match=r"nvdiffrast has ended all use.*Cuda error: 700.*Uninstall nvdiffrast"
    ):
        select("cuda")


def test_using_asks_for_other_kernels_in_a_block(monkeypatch):
    expected = raster.rasterize_ids(CORNERS, TRI, 3, 5)
    with using("torch"):
        assert set(select("cpu").names.values()) == {"torch"}
        if HAS_WARP:
            with using("warp"):
                assert select("cpu").names["rasteriser"] == "warp"
        assert torch.equal(kernels.rasterize_ids(CORNERS, TRI, 3, 5), expected)
        assert select("cpu").march is march.march
    assert (select("cpu").march is march.march) != HAS_WARP
    with pytest.raises(InputError, match="no kernels called 'numba'"), using("numba"):
        pass


def test_they_are_chosen_once(monkeypatch):
    times = []
    load = kernels._load
    monkeypatch.setattr(kernels, "_load", lambda *args: times.append(args) or load(*args))
    for _ in range(3):
        kernels.rasterize_ids(CORNERS, TRI, 3, 5)
    assert len(times) == len(select("cpu").names) + 2  # one more for each library that a card alone has


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
