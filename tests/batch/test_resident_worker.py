"""One process for job after job: it stays, its end is a failure with its last words, and cancel keeps the place."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.batch.resident_worker import CRASHED, ResidentWorker
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import Cancelled, Failed, Finished, Generate, Job, Progress, Resume
from tests.tools.pretend_worker import ALL, result

PROGRAM = Path(__file__).parents[1] / "tools" / "pretend_worker.py"


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ResidentWorker]:
    monkeypatch.setenv("PYTHONPATH", str(PROGRAM.parents[2]))
    worker = ResidentWorker(command=(sys.executable, str(PROGRAM), str(tmp_path / "log"), "0.1"))
    yield worker
    worker.close()


def test_it_stays_for_the_next_job_and_its_end_is_a_failure(worker: ResidentWorker, tmp_path: Path) -> None:
    jobs = [Job(p, "generate", p, str(tmp_path / p)) for p in ("mug", "crash", "duck")]
    assert isinstance(worker.run(Generate(jobs[0]), lambda _: None), Finished)
    first = worker.pid
    failed = worker.run(Generate(jobs[1]), lambda _: None)
    assert isinstance(failed, Failed) and failed.kind == CRASHED and "code 9" in failed.message
    assert "CUDA error: an illegal memory access" in failed.detail and not worker.pid
    assert isinstance(worker.run(Resume(jobs[1].folder), lambda _: None), Finished)
    seen: list[str] = []

    def cancel(event: object) -> None:
        if isinstance(event, Progress) and event.stage == "geometry" and not seen:
            seen.append(event.stage)
            threading.Thread(target=worker.cancel).start()

    assert isinstance(worker.run(Generate(jobs[2]), cancel), Cancelled)
    assert isinstance(worker.run(Resume(jobs[2].folder), lambda _: None), Finished)
    for job in jobs:
        assert JobFolder(job.folder).mesh_glb.read_bytes() == result(job.prompt, job.seed, ALL)
    pids = [json.loads(line)[2] for line in (tmp_path / "log").read_text().splitlines()]
    assert set(pids[:3]) == {first} and len(set(pids[3:])) == 1


def test_a_program_that_says_nonsense_is_ended(tmp_path: Path) -> None:
    worker = ResidentWorker(command=(sys.executable, "-c", "print('no JSON'); import time; time.sleep(0.2)"))
    failed = worker.run(Generate(Job("1", "generate", "a mug", str(tmp_path / "a"))), lambda _: None)
    assert isinstance(failed, Failed) and failed.kind == CRASHED and not worker.pid
