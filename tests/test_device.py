"""What a process does with the device's memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

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
