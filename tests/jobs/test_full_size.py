"""Two iterations of every stage with networks of the real size, 1024 px included. Half an hour and 10 GB of disk:

python -m pytest tests/jobs/test_full_size.py -m slow -n 0
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = """
import sys
from pathlib import Path
import torch
from tests.tools.tiny_models import build
for kind in ("sd21-base", "sd21", "refiner"):
    build(Path(sys.argv[1]) / kind, kind, "full", dtype=torch.float16)
"""
RUN = """
import resource, sys
from pathlib import Path
import torch
from backend.config import STAGES
from backend.diffusion.savings import SAVINGS
from benchmarks.stages import Bench, steps
bench = Bench("full", "cpu", Path(sys.argv[1]), rung=len(SAVINGS) - 1)
for name in STAGES:
    stage, _ = bench.stage(name)
    done = 0
    for step in steps(stage, 2):
        assert torch.isfinite(step.loss) and torch.isfinite(step.gap), name
        done += 1
    print(name, done, flush=True)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print("peak", peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9)
"""


def child(code: str, folder: Path) -> list[str]:
    """What it says, shown by `-s` as it comes; a process of its own, so that its peak is its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    said, errors = [], folder / "errors.txt"
    with errors.open("w") as to:
        command = [sys.executable, "-c", code, str(folder)]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=to, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            said.append(line.rstrip())
    assert process.wait() == 0, errors.read_text()[-4000:]
    return said


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
@pytest.mark.skipif(sys.platform == "win32", reason="the peak is read by the resource module")
def test_every_stage_runs_at_full_size_within_20_gb(tmp_path: Path) -> None:
    child(BUILD, tmp_path)
    said = child(RUN, tmp_path)
    assert [line for line in said if line.endswith(" 2")] == ["nerf 2", "geometry 2", "texture 2", "refine 2"]
    peak = next(float(line.split()[1]) for line in said if line.startswith("peak "))
    assert peak <= 20, peak
