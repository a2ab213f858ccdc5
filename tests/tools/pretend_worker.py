"""The worker's protocol without its stages: `pretend_worker.py LOG SECONDS` runs each job for so long, in steps.

Its jobs hold their folder's lock, keep their place in a checkpoint and go on from it; what they deliver depends on the
job and on every step, each done exactly once. LOG gets a line for each job that begins, goes on and ends. A prompt with
"fails" fails, and one with "crash" ends the process at its third step, once.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import queue
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

from backend.jobs.drive import Control, Events, drive
from backend.jobs.folder import read_job
from dreamflow_blender.contract import protocol as p
from dreamflow_blender.contract.jobfolder import JobFolder

STEPS = 4  # of each stage


def main(log: Path, seconds: float) -> None:
    requests: queue.SimpleQueue[p.Request] = queue.SimpleQueue()
    asked: list[str] = []

    def read() -> None:
        for line in sys.stdin.buffer:
            request = p.decode_request(line)
            if isinstance(request, p.Cancel):
                asked.append("cancel")
            else:
                requests.put(request)
        os._exit(0)

    def run(request: p.Generate | p.Refine | p.Resume, _control: Control) -> Events:
        job = read_job(Path(request.folder)) if isinstance(request, p.Resume) else request.job
        files = JobFolder(job.folder)
        note(log, type(request).__name__, job.prompt)
        files.job.write_text(json.dumps({"job": asdict(job)}))
        place = files.checkpoints / "place.json"
        done: list[str] = json.loads(place.read_text()) if place.exists() else []
        for stage in p.STAGES:
            yield p.Started(stage, STEPS)
            for step in range(STEPS):
                name = f"{stage}-{step}"
                if name in done:
                    continue
                time.sleep(seconds / STEPS / len(p.STAGES))
                if "DISK_FULL" in os.environ and len(done) == 2:  # this node's disk
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if "fails" in job.prompt:
                    raise ValueError("a step that fails")
                if "crash" in job.prompt and len(done) == 3 and not (files.path / "crashed").exists():
                    (files.path / "crashed").touch()
                    sys.stderr.write("CUDA error: an illegal memory access\n")
                    sys.stderr.flush()
                    os._exit(9)
                done.append(name)
                place.parent.mkdir(exist_ok=True)
                fresh = place.with_suffix(".part")
                fresh.write_text(json.dumps(done))
                fresh.replace(place)
                yield p.Checkpoint(str(place))
                yield p.Progress(stage, step, STEPS, step + 1, STEPS)
                if asked:
                    yield p.Cancelled({})
                    return
        files.mesh_glb.write_bytes(result(job.prompt, job.seed, done))
        note(log, "Finished", job.prompt)
        yield p.Finished(files.result_files(), {"seconds": seconds, "networks_read": 0.0})

    threading.Thread(target=read, daemon=True).start()

    def say(event: p.Event) -> None:
        sys.stdout.write(p.encode(event) + "\n")
        sys.stdout.flush()

    while True:
        request = requests.get()
        asked.clear()
        assert isinstance(request, p.Generate | p.Refine | p.Resume)
        say(drive(request, lambda: None, say, run=run))


def result(prompt: str, seed: int, done: list[str]) -> bytes:
    """What is delivered: of all steps in their order, each once, where nothing has gone wrong."""
    return hashlib.sha256(json.dumps([prompt, seed, done]).encode()).digest()


ALL = [f"{stage}-{step}" for stage in p.STAGES for step in range(STEPS)]


def note(log: Path, what: str, prompt: str) -> None:
    with log.open("a") as file:
        file.write(json.dumps([what, prompt, os.getpid(), time.time()]) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
