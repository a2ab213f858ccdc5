"""A list over a Ray cluster in which things go wrong: each job once, whatever is lost. For every night: minutes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import STAGES
from tests.tools.pretend_worker import ALL, result
from tests.tools.ray_alone import alone, log_of

HERE = Path(__file__).parent
PROMPTS = [f"thing number {n}" for n in range(12)]


def check_all_done(root: Path) -> None:
    """Each once, none twice, with the bytes of an undisturbed run."""
    rows = json.loads((root / "out" / "report.json").read_text())["prompts"]
    assert [row["state"] in ("done", "skipped") for row in rows] == [True] * len(PROMPTS), rows
    for row in rows:
        made = JobFolder(root / "out" / row["folder"]).mesh_glb.read_bytes()
        assert made == result(row["prompt"], row["seed"], ALL)
    began = Counter(prompt for what, prompt, *_ in log_of(root) if what == "Finished")
    assert began == Counter(PROMPTS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "times"), [("worker", 12), ("actor", 4), ("raylet", 1), ("driver", 2), ("term", 2), ("disk", 0)]
)
def test_nothing_is_lost_and_nothing_done_twice(tmp_path: Path, fault: str, times: int) -> None:
    (tmp_path / "l.txt").write_text("\n".join(PROMPTS))
    ran = alone(HERE / "ray_faults.py", tmp_path, fault, times)
    said = (tmp_path / "said").read_text() if (tmp_path / "said").exists() else ""
    assert ran.returncode == 0, ran.stdout + ran.stderr
    counted = json.loads(ran.stdout.splitlines()[-1])
    print(counted)
    assert counted["times"] == times, said
    assert counted["codes"] == [{"driver": -9, "term": 143}.get(fault)] * (
        times if fault in ("driver", "term") else 0
    ) + [0], said
    if fault in ("worker", "actor"):
        assert counted["stages"] == dict.fromkeys(STAGES, times // len(STAGES))
    check_all_done(tmp_path)
    assert ("is given no other job" in said) == (fault == "disk")
