"""Which device a run takes, and what a process does with it and with its memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backend.device import choose_device, choose_threads, pick_device, prepare_device
from backend.errors import CardFailed, DeviceError
from backend.jobs import generate
from backend.jobs import run as running
from backend.stages.memory import capacity_gb
from dreamflow_blender.contract import protocol as p
from dreamflow_blender.contract.words import without_commands
from tests.tools.cuda_calls import CudaCalls
from tests.tools.oracle import Oracle
from tests.tools.tiny import tiny_job

CPU = torch.device("cpu")

HOLD = """
import sys
import psutil
import torch
from backend.device import give_back_blocks
if sys.argv[1] == "give back":
    give_back_blocks()
torch.ones(2**23 - 2**16)  # 32 MB, freed at once: glibc keeps what is smaller from here on
before = psutil.Process().memory_info().rss
blocks = [torch.ones(2**22) for _ in range(17)]
last = blocks.pop()  # lies behind them; something smaller might lie in an older gap, and nothing would be kept
del blocks
print((psutil.Process().memory_info().rss - before) / 2**24 - 1)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's allocator")
def test_a_large_networks_activations_go_back_to_the_system() -> None:
    def kept(how: str) -> float:
        environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", HOLD, how],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | environment,
        )
        return float(done.stdout)

    assert kept("as it is") > 3 and kept("give back") < 1  # of 16 blocks of 16 MB


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_card_has_its_index_and_is_prepared(name: str, cuda_calls: CudaCalls) -> None:
    device = pick_device(name)
    assert device == torch.device("cuda", 0)
    prepare_device(device, 1)
    assert cuda_calls.fractions == [(1.0, 0)]


def test_the_processor_is_no_card(cuda_calls: CudaCalls) -> None:
    assert pick_device("cpu") == CPU


def test_each_job_sets_what_it_needs_whatever_ran_before_it(cuda_calls: CudaCalls) -> None:
    """Deterministic algorithms make float64 sums along an axis, which stage 1 takes, raise on a card."""
    card = pick_device("cuda")
    for device, deterministic in ((CPU, True), (card, False), (CPU, True)):
        prepare_device(device, 1)
        assert torch.are_deterministic_algorithms_enabled() is deterministic


def test_geometry_keeps_all_bits_on_a_card_and_convolutions_need_not(cuda_calls: CudaCalls) -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = True, False
    prepare_device(pick_device("cuda"), 1)
    assert not torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32


NO_IMAGE = "no kernel image is available for execution on the device"


def test_a_card_that_torch_has_no_kernels_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GTX 1080 with torch for CUDA 13, whose list begins with sm_75."""
    calls = CudaCalls(capability=(6, 1)).install(monkeypatch)
    calls.error = NO_IMAGE
    with pytest.raises(DeviceError) as raised:
        pick_device("cuda")
    assert "sm_61" in raised.value.message and "sm_75, sm_80, sm_86, sm_90, sm_120" in raised.value.message
    assert torch.__version__ in raised.value.message and "CUDA 12.6" in raised.value.todo
    device, note = choose_device("auto")
    assert device == CPU
    assert note.startswith("Running on the CPU.") and "sm_61" in note
    assert "CUDA 12.6" in without_commands(note)  # what the panel shows


def test_a_card_newer_than_torch_wants_a_newer_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    CudaCalls(capability=(13, 0)).install(monkeypatch).error = NO_IMAGE
    with pytest.raises(DeviceError, match=r"sm_130.*newer build of torch"):
        pick_device("cuda")


def test_a_card_in_a_bad_state_is_said_so(cuda_calls: CudaCalls) -> None:
    cuda_calls.error = "CUDA-capable device(s) is/are busy or unavailable"
    with pytest.raises(CardFailed, match=r"cannot be used: CUDA error: CUDA-capable device.*--device cpu"):
        pick_device("cuda")
    device, note = choose_device("auto")
    assert device == CPU and "update its driver" in without_commands(note)


def test_a_job_says_why_it_does_not_use_the_card(
    tmp_path: Path, cuda_calls: CudaCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda_calls.error = NO_IMAGE
    monkeypatch.setattr("backend.jobs.priors.open_prior", lambda *_: Oracle())
    events = generate.generate(tiny_job(tmp_path / "job", stages=("nerf",)))
    first, second = next(events), next(events)
    events.close()
    assert isinstance(first, p.Ready) and first.devices == ("cpu",)
    assert isinstance(second, p.Warning) and second.message.startswith("Running on the CPU.")
    assert "has no kernels" in running.ready().kernels_why["device"]


def test_a_driver_that_spills_is_kept_from_it(cuda_calls: CudaCalls, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows and in WSL torch's allocator stops below the card's size; the user's own limit counts everywhere."""
    card = pick_device("cuda")
    for system, release, limit, share in (
        ("Linux", "6.8.0", "", 1.0),
        ("Windows", "11", "", 0.9),
        ("Linux", "5.15.153.1-microsoft-standard-WSL2", "", 0.9),
        ("Windows", "11", "23", 23 / 24),
        ("Windows", "11", "6", 0.25),
    ):
        monkeypatch.setattr(platform, "system", lambda system=system: system)
        monkeypatch.setattr(platform, "release", lambda release=release: release)
        monkeypatch.setenv("DREAMFLOW_MEMORY_GB", limit)
        prepare_device(card, 1)
        assert cuda_calls.fractions.pop() == (pytest.approx(share), 0)
        assert capacity_gb(card) == pytest.approx(24 * share)  # the plan counts with the same


@pytest.mark.parametrize(("slower", "expected"), [(0.6, 4), (1.1, 4), (2.0, 1), (10.0, 1)])
def test_one_thread_is_chosen_where_several_get_in_the_way(slower: float, expected: int) -> None:
    """On a clock on which several threads take so many times as long as one; what torch uses stays as it was."""
    torch.set_num_threads(2)
    passed = 0.0

    def now() -> float:
        nonlocal passed
        passed += 1.0 if torch.get_num_threads() == 1 else slower
        return passed

    assert choose_threads(4, now) == expected
    assert passed < 60  # it stops soon where all takes long
    assert torch.get_num_threads() == 2 and choose_threads(1, now) == 1
