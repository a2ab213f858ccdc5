"""Point 2 of benchmarks/mini.py: prompt to mesh with the embedded prior, against the true objects.

Every run is the command that a user types, in a process of its own; what it delivers (mesh.npz under albedo.png)
is then looked at from 24 cameras beside the true object and beside the true objects of all other kinds.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backend.evidence.known_objects import held_out_cameras, truth
from backend.meshes.write import read_npz
from backend.objects.shapes import KINDS, build
from backend.results.look import render_textured, turntable_cameras
from backend.scene.camera import Camera
from backend.training.dataset import LEARNED, held_out
from benchmarks.vessels import depth
from dreamflow_blender.contract.language.reading import Description, describe
from dreamflow_blender.contract.language.vocabulary import THINGS

JUDGED = [kind for kind in LEARNED if kind in KINDS]  # whose true objects are known
# in their natural colour but for these, of which four are held out
COLOUR = {
    "mushroom": "green", "duck": "red", "cone": "yellow", "rocket": "orange", "bottle": "purple", "robot": "green",
}  # fmt: skip
OBJECTS = [(kind, COLOUR.get(kind, THINGS[kind].natural)) for kind in JUDGED]
SEEDS = (1, 2)
VIEWS, SIZE = 24, 64
GREY = 0.5
FACES_APART = (
    0.02  # mean squared difference of a true object's front and back from which a second face would show
)


@dataclass(frozen=True)
class Result:
    """Figures of one run.

    face   whether front and back are each nearest to themselves; None where both look alike
    depth  of the cavity over the true one's (benchmarks/vessels.py); nan for what has none
    """

    prompt: str
    seed: int
    seconds: float
    gigabytes: float
    iou: float
    colour_error: float
    nearest: str
    face: bool | None
    depth: float

    @property
    def kind(self) -> str:
        return self.prompt.split()[-1]


@dataclass(frozen=True)
class Run:
    prompt: str
    seed: int
    folder: Path


def generate(run: Run, prior: str, refiner: str, threads: int, settings: list[str]) -> tuple[float, float]:
    """Seconds and peak GB of the command. SystemExit where it fails."""
    command = [sys.executable, "-m", "backend", "generate", run.prompt, "--prior", prior, "--preset", "draft"]
    command += [
        "--seed",
        str(run.seed),
        "--out",
        str(run.folder),
        "--threads",
        str(threads),
        "--overwrite",
        "--json",
    ]
    command += ["--refiner", refiner] if refiner else []
    for setting in settings:
        command += ["--set", setting]
    began = time.monotonic()
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    log = run.folder.with_suffix(".log")
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=Path(__file__).parents[1])
        if hasattr(os, "wait4"):
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
        else:  # Windows does not say what a process took once it is gone
            process.wait()
            peak = float("nan")
    if process.returncode:
        raise SystemExit(f"{run.prompt!r} failed, see {log}")
    return time.monotonic() - began, peak


@torch.no_grad()
def delivered(folder: Path, camera: Camera) -> tuple[Tensor, Tensor]:
    """Image [B,H,W,3] before grey and opacity [B,H,W] of what lies in a job's folder."""
    mesh = read_npz(folder / "mesh.npz")
    with Image.open(folder / "albedo.png") as picture:
        albedo = torch.from_numpy(np.asarray(picture.convert("RGB")).astype(np.float32) / 255)
    image, opacity = render_textured(mesh, albedo, camera, torch.full((3,), GREY))
    return image, opacity[..., 0]


def true_views(kind: str, colour: str, camera: Camera) -> tuple[Tensor, Tensor]:
    views = truth(describe(Description(kind, colour)), camera)
    return views.over((GREY, GREY, GREY)), views.alpha[..., 0]


def compare(run: Run, seconds: float, gigabytes: float) -> Result:
    """What the folder holds against the truth."""
    words = run.prompt.split()
    kind, colour = words[-1], words[-2]
    camera = held_out_cameras(VIEWS, 0, SIZE, SIZE)
    image, opacity = delivered(run.folder, camera)
    true_image, true_alpha = true_views(kind, colour, camera)
    mask, true_mask = opacity > 0.5, true_alpha > 0.5
    iou = ((mask & true_mask).sum((1, 2)) / (mask | true_mask).sum((1, 2))).mean()
    inside = (opacity > 0.999) & (true_alpha > 0.999)
    errors = {k: float((image - true_views(k, colour, camera)[0]).square().mean()) for k in JUDGED}
    ends = turntable_cameras(2, SIZE, "cpu")  # front and back
    own, true = delivered(run.folder, ends)[0], true_views(kind, colour, ends)[0]
    face = None
    if float((true[0] - true[1]).square().mean()) >= FACES_APART:
        apart = (own[:, None] - true[None]).square().mean((2, 3, 4))
        face = bool(apart.argmin(1).tolist() == [0, 1])
    return Result(
        run.prompt, run.seed, seconds, gigabytes, float(iou),
        float((image - true_image).abs()[inside].mean()), min(errors, key=lambda k: errors[k]), face,
        depth(read_npz(run.folder / "mesh.npz"), build(Description(kind, colour))),
    )  # fmt: skip


def results(
    prior: str, refiner: str, out: Path, jobs: int, only: str, seeds: int, settings: list[str]
) -> Iterator[Result]:
    """One after the other as they end; `jobs` side by side, each with its share of the cores."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    runs = [
        Run(describe(Description(kind, colour)), seed, out / f"{colour}-{kind}-{seed}")
        for seed in SEEDS[:seeds]
        for kind, colour in OBJECTS
        if not only or kind in only.split(",")
    ]
    with ThreadPoolExecutor(jobs) as pool:
        took = pool.map(lambda run: generate(run, prior, refiner, threads, settings), runs)
        for run, (seconds, gigabytes) in zip(runs, took, strict=True):
            result = compare(run, seconds, gigabytes)
            held = " (held out)" if held_out(result.kind, run.prompt.split()[-2]) else ""
            face = {None: "-", True: "one", False: "WRONG"}[result.face]
            hollow = "" if math.isnan(result.depth) else f"  depth {result.depth:.2f}"
            print(
                f"{result.prompt + held:30} {result.seed}  {seconds:4.0f} s {gigabytes:4.2f} GB  iou {result.iou:.3f}"
                f"  colour {result.colour_error:.3f}  nearest {result.nearest:9} face {face}{hollow}",
                flush=True,
            )
            yield result
