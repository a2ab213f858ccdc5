"""Which device a run takes, and what a process does with it and with its memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from backend.device import pick_device, prepare_device
from tests.cuda_calls import CudaCalls

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
blocks = [torch.ones(2**22) for _ in range(16)]
last = torch.ones(2**14)  # lies behind them
del blocks
print((psutil.Process().memory_info().rss - before) / 2**24)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's allocator")
def test_a_large_networks_activations_go_back_to_the_system() -> None:
    def kept(how: str) -> float:
        environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", HOLD, how], capture_output=True, text=True, check=True, env=os.environ | environment
        )
        return float(done.stdout)

    assert kept("as it is") > 15 and kept("give back") < 1  # blocks of 16 MB


@pytest.fixture
def as_before() -> Iterator[None]:
    """The process's settings are put back."""
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_card_has_its_index_and_is_prepared(name: str, cuda_calls: CudaCalls, as_before: None) -> None:
    device = pick_device(name)
    assert device == torch.device("cuda", 0)
    prepare_device(device, 1)
    assert cuda_calls.fractions == [(1.0, 0)]


def test_the_processor_is_no_card(cuda_calls: CudaCalls) -> None:
    assert pick_device("cpu") == CPU


def test_each_job_sets_what_it_needs_whatever_ran_before_it(cuda_calls: CudaCalls, as_before: None) -> None:
    """Deterministic algorithms make float64 sums along an axis, which stage 1 takes, raise on a card."""
    card = pick_device("cuda")
    for device, deterministic in ((CPU, True), (card, False), (CPU, True)):
        prepare_device(device, 1)
        assert torch.are_deterministic_algorithms_enabled() is deterministic


def test_geometry_keeps_all_bits_on_a_card_and_convolutions_need_not(cuda_calls: CudaCalls, as_before: None) -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = True, False
    prepare_device(pick_device("cuda"), 1)
    assert not torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
