"""Jobs killed at random moments, resumed, some killed again: the same bytes as a job that nothing happened to?

    OMP_NUM_THREADS=1 python -m benchmarks.kills --kills 60 [--seconds 600] [--seed 1] [--kind refine]

Tiny jobs of each kind, a checkpoint after every iteration, on the prior that knows a ball. Each kill is a SIGKILL in
one of the places below, in turn, a random time after it began; every third resumed job is killed, too. A refine job's
file is replaced after the first kill. All jobs are forks of one process that has imported torch and computed nothing,
which saves most of their time; Windows has no fork, and there `tests/faults/test_killed.py` does it more slowly.

A fault is a job that cannot be resumed, other bytes, or a hidden file that stays; with one the exit code is 1.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import gc
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLACES = {
    "generate": ("start", "writing", "nerf", "geometry", "texture", "refine", "deliver"),
    "refine": ("start", "writing", "fit", "texture", "refine", "deliver"),
}
RESULTS = ("mesh.npz", "albedo.png", "mesh.glb")
OFTEN: dict[str, Any] = {"checkpoint_seconds": 0.0, "snapshot_seconds": 0.2}
LOST = 300.0  # seconds: what takes longer hangs; a busy machine needs ten times as long as an idle one


@dataclass
class Child:
    """A job in a process of its own, and the words that it says."""

    pid: int
    words: int  # the pipe's end
    said: bytes = b""

    def line(self) -> str:
        """The next one; "" at the end."""
        while b"\n" not in self.said:
            part = os.read(self.words, 4096)
            if not part:
                return ""
            self.said += part
        line, _, self.said = self.said.partition(b"\n")
        return line.decode()

    def wait_for(self, start: str) -> bool:
        """Until it says a line that begins like this; False where it ended before."""
        while line := self.line():
            if line.startswith(start):
                return True
        return False

    def end(self) -> int:
        """How it ended: 0, or minus a signal's number."""
        while os.read(self.words, 4096):
            pass
        os.close(self.words)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.end()


def begin(kind: str, folder: Path) -> Child:
    """kind: "generate", "refine", or "resume"."""
    ours, its = os.pipe()
    pid = os.fork()
    if pid:
        os.close(its)
        return Child(pid, ours)
    code = 1
    try:
        os.dup2(its, 1)
        faulthandler.dump_traceback_later(LOST, exit=True)
        work(kind, folder)
        code = 0
    except BaseException:  # noqa: BLE001 - the outermost edge of this process
        (folder.parent / "error.txt").write_text(traceback.format_exc())
    finally:
        os._exit(code)


def work(kind: str, folder: Path) -> None:
    """A job from its start or its newest checkpoint, saying what it does."""
    from backend.jobs import generate, refine, resume
    from backend.jobs.folder import EventLog
    from tests.tools.refine_run import refine_job
    from tests.tools.tiny import tiny_job
    from tests.tools.worker_child import say

    if kind == "generate":
        events = generate.generate(tiny_job(folder, overrides={"nerf.levels": 5}, **OFTEN))
    elif kind == "refine":
        job = refine_job(folder, folder.with_suffix(".glb"), stages=("texture", "refine"), **OFTEN)
        events = refine.refine(job)
    else:
        events = resume.resume(folder)
    log = None
    for event in events:
        log = log or EventLog(folder)
        log.write(event)
        say(f"{type(event).__name__.lower()} {getattr(event, 'stage', '')}")


def prepare() -> bytes:
    """Put the small things in place, with a word at each write of a checkpoint; a GLB to refine."""
    import torch

    import backend.kernels.hashgrid_warp  # noqa: F401 - imported once, for all forks
    from backend.stages import checkpoint
    from backend.texture import unwrap  # noqa: F401
    from tests.tools import worker_child
    from tests.tools.made_meshes import a_glb

    torch.use_deterministic_algorithms(True)  # which imports for seconds
    worker_child.prepare()
    real_flush = checkpoint._to_the_disk

    def to_the_disk(file: Any) -> None:
        worker_child.say("writing")
        time.sleep(0.02)
        real_flush(file)

    checkpoint._to_the_disk = to_the_disk
    reading, writing = os.pipe()
    if not os.fork():  # it computes
        os.write(writing, a_glb())
        os._exit(0)
    os.close(writing)
    os.wait()
    with os.fdopen(reading, "rb") as file:
        mesh = file.read()
    gc.collect()
    gc.freeze()  # or each fork looks through what it has inherited
    return mesh


def results(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in RESULTS}


def finished(folder: Path) -> bool:
    from dreamflow_blender.contract.jobfolder import JobFolder
    from dreamflow_blender.contract.protocol import Finished

    return isinstance(JobFolder(folder).last_event(), Finished)


@dataclass(frozen=True)
class Undisturbed:
    """A job that nothing happens to."""

    results: dict[str, bytes]
    seconds: dict[str, float]  # that each of its places takes
    writes: int  # files of checkpoints


def attempt(kind: str, place: str, chance: random.Random, right: Undisturbed, glb: bytes) -> str:
    """One job, killed until it may finish; what is wrong with it, or ""."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "job"
        folder.with_suffix(".glb").write_bytes(glb)
        again = chance.random() < 1 / 3
        child = begin(kind, folder)
        if place == "writing":
            there = all(child.wait_for("writing") for _ in range(chance.randrange(1, right.writes)))
            time.sleep(chance.uniform(0, 0.02))
        else:
            there = place == "start" or child.wait_for(f"started {place}")
            time.sleep(chance.uniform(0, right.seconds[place]))
        child.kill()
        if not there:
            return "it ended before it was killed"
        if not (folder / "job.json").exists():
            return wrong(begin(kind, folder), folder, right)
        folder.with_suffix(".glb").write_bytes(b"another file by now")
        if again and not finished(folder):
            child = begin("resume", folder)
            time.sleep(chance.uniform(0, sum(right.seconds.values()) / 2))
            child.kill()
        if finished(folder):
            return "" if results(folder) == right.results else "its bytes are others"
        return wrong(begin("resume", folder), folder, right)


def wrong(child: Child, folder: Path, right: Undisturbed) -> str:
    """Let it finish; what is wrong with it."""
    if code := child.end():
        return f"it ended with {code}: {error(folder)}"
    if results(folder) != right.results:
        return "its bytes are others"
    hidden = [path.name for path in folder.rglob(".*")]
    return f"it left {hidden}" if hidden else ""


def undisturbed(kind: str, glb: bytes) -> Undisturbed:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "job"
        folder.with_suffix(".glb").write_bytes(glb)
        began, seconds, place, writes = time.monotonic(), {}, "start", 0
        child = begin(kind, folder)
        while line := child.line():
            writes += line == "writing"
            if line.startswith("started "):
                seconds[place] = time.monotonic() - began
                place, began = line.split()[1], time.monotonic()
        seconds[place] = time.monotonic() - began
        if code := child.end():
            raise SystemExit(f"An undisturbed {kind} job ended with {code}: {error(folder)}")
        return Undisturbed(results(folder), seconds, writes)


def error(folder: Path) -> str:
    """The last line of what went wrong in a fork."""
    path = folder.parent / "error.txt"
    return path.read_text().splitlines()[-1] if path.exists() else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60, help="of each kind of job")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no other kill after these")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=sorted(PLACES), help="this kind alone")
    said = parser.parse_args()
    until = time.monotonic() + said.seconds
    glb = prepare()
    kinds = [said.kind] if said.kind else list(PLACES)
    right = {kind: undisturbed(kind, glb) for kind in kinds}
    if any(undisturbed(kind, glb).results != right[kind].results for kind in kinds):
        raise SystemExit("Two undisturbed jobs differ.")
    killed: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in kinds}
    faults: list[str] = []
    for number in range(said.kills):
        for kind in kinds:
            if time.monotonic() > until:
                continue
            place = PLACES[kind][(number + said.seed) % len(PLACES[kind])]
            chance = random.Random(f"{kind} {said.seed} {number}")
            killed[kind][place] += 1
            if found := attempt(kind, place, chance, right[kind], glb):
                faults.append(f"{kind} seed {said.seed} kill {number} in {place}: {found}")
                print(faults[-1], flush=True)
    for kind, places in killed.items():
        where = ", ".join(f"{place} {count}" for place, count in places.items())
        print(f"{kind}: {places.total()} jobs killed ({where})")
    print(f"{len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
