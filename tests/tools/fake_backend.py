"""A worker that only pretends, with every odd behaviour: `python tests/tools/fake_backend.py BEHAVIOUR [SECONDS]`.

    good              carries every request out: a ball that grows, in SECONDS (1) a job
    slow              as good, and ten times slower
    dies at start     with a word on standard error
    dies in between   in the middle of every job, killed
    dies once         in the middle of the first job of a folder; a resumed one ends well
    exits             in the middle of every job, with code 3
    hangs             never says a word, and ignores being asked to end
    deaf              begins a job and then hears nothing, not even the end of its input
    floods            ten thousand events in the middle of a job, as fast as they can be written
    garbage           no JSON at all
    garbage later     good, until it breaks into the middle of a line
    wrong version     a worker of tomorrow
    refuses           every job
    fails             every job, for want of memory
    leaves            after `cancelled`, as the real one may
    warns             twice a job

Its folder must hold `dreamflow_blender` on PYTHONPATH, as the client sets it. Needs numpy alone.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dreamflow_blender.contract import protocol as p

if TYPE_CHECKING:  # else only where a job is done: a worker that dies at once need not wait for it
    from dreamflow_blender.contract import meshfile

STEPS = 20  # of each stage


class Stopped(Exception):
    """By cancel, shutdown or the end of input."""


class Fake:
    def __init__(self, behaviour: str, seconds: float) -> None:
        self.behaviour, self.seconds = behaviour, seconds * (10 if behaviour == "slow" else 1)
        self.jobs: queue.Queue[p.Request | None] = queue.Queue()
        self.busy = False
        self.asked = ""

    def say(self, event: p.Event) -> None:
        os.write(1, (p.encode(event) + "\n").encode())

    def read(self) -> None:
        for line in sys.stdin.buffer:
            if self.behaviour == "deaf" and self.busy:
                continue
            request = p.decode_request(line)
            match request:
                case p.Hello():
                    pass  # `ready` is on its way
                case p.Generate() | p.Refine() | p.Resume():
                    if self.behaviour == "refuses":
                        self.say(p.Refused("I would rather not."))
                    else:
                        self.busy, self.asked = True, ""
                        self.jobs.put(request)
                case p.Shutdown():
                    break
                case p.Continue():
                    self.asked = ""
                case _ if not self.busy:
                    self.say(p.Refused("No job is at work."))
                case _:
                    self.asked = type(request).__name__.lower()
        if self.behaviour != "deaf":
            self.asked = "cancel"
            self.jobs.put(None)

    def work(self) -> None:
        if self.behaviour == "dies at start":
            os.write(2, b"ImportError: DLL load failed while importing torch\n")
            os._exit(1)
        if self.behaviour == "hangs":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(1000)
        if self.behaviour == "garbage":
            print("Microsoft Windows [Version 10.0.19045]", flush=True)
            time.sleep(1000)
        versions = {"dreamflow": "0.1.0", "python": "3.11.0", "torch": "none"}
        ready = p.Ready(versions, ("a fake CPU",), {"hash grid": "torch", "rasteriser": "torch"}, 1, 8.0)
        if self.behaviour == "wrong version":
            os.write(1, b'{"event": "ready", "protocol": 99, "news": "everything is better"}\n')
            time.sleep(1000)
        self.say(ready)
        while (request := self.jobs.get()) is not None:
            folder = Path(request.folder if isinstance(request, p.Resume) else request.job.folder)
            try:
                end: p.Event = self.job(folder, request)
            except Stopped:
                end = p.Cancelled(self.paths(folder))
            self.busy = False
            self.say(end)
            if self.behaviour == "leaves" and isinstance(end, p.Cancelled):
                time.sleep(0.1)
                os._exit(0)

    def job(self, folder: Path, request: p.Request) -> p.Event:
        folder.mkdir(parents=True, exist_ok=True)
        if not isinstance(request, p.Resume):
            (folder / "job.json").write_text(json.dumps({"job": json.loads(p.encode_job(request.job))}))
        if self.behaviour == "fails":
            return p.Failed("memory", "The card is out of memory.", "Use a smaller preset.", "12 of 12 GB")
        job = p.decode_job(json.dumps(json.loads((folder / "job.json").read_text())["job"]))
        if job.kind == "refine":
            return self.refine(folder, job)
        from refined_folder import write_png

        first = not (folder / "checkpoints").exists()
        began, stages = time.monotonic(), ("nerf", "geometry", "texture", "refine")
        for number, stage in enumerate(stages):
            self.say(p.Started(stage, STEPS))
            for step in range(STEPS):
                if getattr(request, "until", 0.0) and step >= request.until * STEPS:
                    write_png(folder / "candidate.png", (20, 30, 20 * (job.seed % 10)))
                    (folder / "candidate.json").write_text('{"score": 1.0}')
                    return p.Cancelled(self.paths(folder))
                self.say(self.progress(stage, step))
                if step % 5 == 0:
                    grown = (number + step / STEPS) / len(stages)
                    write_snapshot(folder / "snapshot.npz", 0.2 + 0.3 * grown)
                    write_png(folder / "preview.png", (int(255 * grown),) * 3)
                    self.say(p.Preview(str(folder / "preview.png")))
                    self.say(p.Snapshot(str(folder / "snapshot.npz")))
                self.wait(self.seconds / STEPS / len(stages))
                if self.asked == "finish":
                    break
            (folder / "checkpoints").mkdir(exist_ok=True)
            (folder / "checkpoints" / f"{number:06d}").mkdir(exist_ok=True)
            self.say(p.Checkpoint(str(folder / "checkpoints" / f"{number:06d}")))
            if number == 1:
                self.misbehave(first)
        self.say(p.Started("deliver", 1))
        write_mesh(folder / "mesh.npz")
        write_png(folder / "albedo.png", (200, 30, 30))
        return p.Finished(self.paths(folder), {"seconds": time.monotonic() - began, "faces": 960})

    def refine(self, folder: Path, job: p.Job) -> p.Event:
        import refined_folder

        from dreamflow_blender.contract import meshfile

        kept = folder / "object.npz"
        arrays = meshfile.read_object(kept if kept.is_file() else Path(job.mesh))
        began, first = time.monotonic(), not (folder / "uvs.npz").is_file()
        names = refined_folder.begin(folder, arrays, not len(arrays.uv))
        for stage in ("fit", "refine"):
            self.say(p.Started(stage, STEPS))
            for step in range(STEPS):
                self.say(self.progress(stage, step))
                if stage == "refine" and step % 5 == 0:
                    refined_folder.snapshot(folder, names, (40, 10 * step, 90))
                    refined_folder.write_png(folder / "preview.png", (40, 10 * step, 90))
                    self.say(p.Preview(str(folder / "preview.png")))
                    self.say(p.Snapshot(str(folder / "snapshot.png")))
                self.wait(self.seconds / STEPS / 2)
                if self.asked == "finish":
                    break
            if stage == "fit":
                self.misbehave(first)
        refined_folder.deliver(folder, arrays, not len(arrays.uv))
        return p.Finished(
            self.paths(folder), {"seconds": time.monotonic() - began, "faces": len(arrays.t_pos_idx)}
        )

    def misbehave(self, first: bool) -> None:
        match self.behaviour:
            case "dies in between":
                os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
            case "dies once" if first:
                os._exit(3)
            case "exits":
                os.write(2, b"terminate called after throwing an instance of 'c10::Error'\n")
                os._exit(3)
            case "deaf":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(1000)
            case "floods":
                for number in range(5_000):
                    self.say(p.Warning(f"Warning number {number}"))
                    self.say(self.progress("geometry", number % STEPS))
            case "garbage later":
                os.write(1, b'{"event": "progr\xff\xfe')
                os.write(1, b"Intel MKL WARNING\n")
                time.sleep(1000)
            case "warns":
                self.say(p.Warning("The card is shared with the screen."))
                self.say(p.Warning("A faster kernel is not there."))

    def progress(self, stage: str, step: int) -> p.Progress:
        left = self.seconds * (1 - step / STEPS) / 4
        return p.Progress(stage, step, STEPS, step, STEPS, left, 1 / (step + 1), 0.5)

    def wait(self, seconds: float) -> None:
        """Look at what was asked at least once."""
        until = time.monotonic() + seconds
        said = False
        while time.monotonic() < until or self.asked == "pause":
            if self.asked == "cancel":
                raise Stopped
            if self.asked == "pause" and not said:
                self.say(p.Paused())
                said = True
            time.sleep(min(0.01, seconds) or 0.001)
        if self.asked == "cancel":
            raise Stopped

    @staticmethod
    def paths(folder: Path) -> dict[str, str]:
        names = (
            "mesh.npz", "albedo.png", "preview.png", "snapshot.npz", "candidate.png", "candidate.json",
        )  # fmt: skip
        return {name: str(folder / name) for name in names if (folder / name).is_file()}


def ball(radius: float, rings: int = 16, sides: int = 32) -> meshfile.MeshArrays:
    """A ball around (0, 0, 0), its seam and poles as a real unwrap leaves them."""
    import numpy as np

    from dreamflow_blender.contract import meshfile

    v, u = np.meshgrid(np.linspace(0, 1, rings + 1), np.linspace(0, 1, sides + 1), indexing="ij")
    v_tex = np.stack([u, v], -1).reshape(-1, 2).astype(np.float32)
    up, round_ = np.pi * (v - 0.5), 2 * np.pi * u
    normal = np.stack([np.cos(up) * np.cos(round_), np.cos(up) * np.sin(round_), np.sin(up)], -1).reshape(
        -1, 3
    )
    faces = list(ball_faces(rings, sides))
    t = np.array(faces, np.int32)
    return meshfile.MeshArrays((radius * normal).astype(np.float32), t, v_tex, t, normal.astype(np.float32))


def ball_faces(rings: int, sides: int) -> Iterator[tuple[int, int, int]]:
    for ring in range(rings):
        for side in range(sides):
            a = ring * (sides + 1) + side
            b = a + sides + 1
            if ring > 0:
                yield (a, a + 1, b + 1)
            if ring < rings - 1:
                yield (a, b + 1, b)


def replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(content)
    temporary.replace(path)


def write_mesh(path: Path) -> None:
    from dreamflow_blender.contract import meshfile

    replace(path, meshfile.to_bytes(ball(0.5)))


def write_snapshot(path: Path, radius: float) -> None:
    from dreamflow_blender.contract import meshfile

    mesh = ball(radius)
    colour = mesh.v_pos * 0 + 0.7
    replace(path, meshfile.to_bytes(meshfile.SnapshotArrays(mesh.v_pos, mesh.t_pos_idx, colour)))


if __name__ == "__main__":
    fake = Fake(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 1.0)
    threading.Thread(target=fake.read, daemon=True).start()
    fake.work()
