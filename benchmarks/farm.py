"""What Ray costs and brings: `python -m benchmarks.farm [--prompts 24] [--pretend 2]`, on the embedded prior, tiny.

The same list by the plain loop, by one actor and by two, each in a folder of its own and with one thread a job, with
the few pictures of the tests (tests/tools/short.py); counted from the jobs' own files. --pretend SECONDS takes
workers that only wait (tests/tools/pretend_worker.py) in place of the backend, and no plain loop: what Ray takes,
however busy the machine. Ray listens, so the whole runs in a network namespace where this user may make one.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import Finished
from tests.tools.network_alone import allowed
from tests.tools.short import SHORT

ROOT = Path(__file__).parents[1]
BACKEND = "--backend"  # the first argument of this program as the backend
TINY = {
    "nerf.levels": 6, "nerf.views": 2, "nerf.samples": 16, "geometry.levels": 2, "geometry.views": 1,
    "geometry.cells": 10, "texture.levels": 2, "texture.views": 1, "refine.levels": 2, "refine.views": 1,
    "delivery.texture_size": 64, "delivery.max_faces": 300,
}  # fmt: skip
WAYS = {
    "plain loop": [],
    "Ray, 1 actor": ["--ray", "--workers", "1"],
    "Ray, 2 actors": ["--ray", "--workers", "2"],
}


@dataclass
class Run:
    """One way through the list; times in seconds."""

    wall: float  # from the command to its end
    window: float  # from the first job's beginning to the last one's end
    own: float  # all jobs' own time
    read: int  # networks from the disk
    meshes: str  # hash of all meshes' bytes


def measure(way: list[str], listed: Path, out: Path, count: int, pretend: str) -> Run:
    settings = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]
    given = [str(listed), "--out", str(out), "--threads", "1", "--device", "cpu", *settings, *way]
    command = ["-m", "benchmarks.farm", BACKEND, "batch", *given]
    if pretend:
        (out / "l.txt").write_text("\n".join(f"mug number {n}" for n in range(count)))
        command, out = [str(ROOT / "tests" / "batch" / "ray_child.py"), str(out), pretend, *way], out / "out"
    began = time.monotonic()
    subprocess.run(
        [sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
        env=os.environ | {"DREAMFLOW_CACHE": str(out / "cache"), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    wall = time.monotonic() - began
    folders = [JobFolder(path.parent) for path in sorted(out.glob("*/job.json"))]
    assert len(folders) == count
    ends = [folder.last_event() for folder in folders]
    figures = [end.figures for end in ends if isinstance(end, Finished)]
    assert len(figures) == count
    first = min(
        folder.events.stat().st_mtime - end["seconds"] for folder, end in zip(folders, figures, strict=True)
    )
    digest = hashlib.sha256(b"".join(folder.mesh_glb.read_bytes() for folder in folders)).hexdigest()
    return Run(
        wall, max(folder.events.stat().st_mtime for folder in folders) - first, sum(f["seconds"] for f in figures),
        int(sum(f["networks_read"] for f in figures)), digest,
    )  # fmt: skip


def backend(typed: list[str]) -> int:
    """The command line with fewer pictures, in a card's worker too."""
    from backend import __main__ as cli
    from backend.batch import commands

    for module, name, value in SHORT:
        setattr(importlib.import_module(module), name, value)
    worker = (sys.executable, "-m", "benchmarks.farm", BACKEND, "worker", "--keep-models")
    commands.run_on_ray = partial(commands.run_on_ray, command=worker)  # type: ignore[assignment]
    return cli.main(typed)


def main() -> int:
    if sys.argv[1:2] == [BACKEND]:
        return backend(sys.argv[2:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--pretend", metavar="SECONDS", default="", help="of a job")
    asked = parser.parse_args()
    count = asked.prompts
    if allowed() and "IN_NAMESPACE" not in os.environ:
        alone = [sys.executable, str(ROOT / "tests" / "tools" / "network_alone.py")]
        again = [sys.executable, "-m", "benchmarks.farm", *sys.argv[1:]]
        return subprocess.run(
            [*alone, *again], cwd=ROOT, env=os.environ | {"IN_NAMESPACE": "1"}, check=False
        ).returncode
    runs: dict[str, Run] = {}
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "list.csv"
        listed.write_text("prompt,seed\n" + "".join(f"a red mug,{seed}\n" for seed in range(count)))
        for name, way in WAYS.items():
            if not (asked.pretend and not way):
                out = Path(folder) / name.replace(" ", "-").replace(",", "")
                out.mkdir()
                runs[name] = measure(way, listed, out, count, asked.pretend)
                print(name, json.dumps(vars(runs[name])), flush=True)
    one, two = list(runs.values())[-2:]
    print(f"{count} prompts, each in {one.own / count:.1f} s")
    for name, run in runs.items():
        between = (run.window * (2 if run is two else 1) - run.own) / count
        print(
            f"{name}: {run.wall:.1f} s, {run.read} networks read, {between:.2f} s between two jobs of a process"
        )
        print(f"    {run.wall - run.window:.1f} s to start and end")
    print(f"two actors over one: {one.window / two.window:.2f} times as fast")
    same = len({run.meshes for run in runs.values()}) == 1
    print("the same bytes" if same else "OTHER BYTES")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
