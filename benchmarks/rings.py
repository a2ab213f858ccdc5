"""What the embedded prior knows of cameras and things, from a training's state or while it runs.

    python -m benchmarks.rings --cache FOLDER [--kinds mug,duck,teapot] [--sheet FILE.png]

A kind's two lines, view by view and four at once: D_p's mean squared error at true renders by noise level, and how well
24 samples match the true pictures at the asked azimuths (rings_judge.py).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from backend.objects.kinds import COLOURS
from backend.objects.shapes import build
from backend.objects.sphere_trace import render
from backend.training.rings.__main__ import Trainer
from backend.training.rings.rings import FRAMES
from backend.training.samples import save_sheet
from benchmarks.rings_judge import LEVELS, Judge, azimuth_match
from dreamflow_blender.contract.language.reading import Description
from dreamflow_blender.contract.language.vocabulary import MADE

SHOWN = 8  # azimuths a row of the sheet


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="the training's folder")
    parser.add_argument(
        "--kinds", default="mug,duck,teapot", help="procedural kinds, with commas between them"
    )
    parser.add_argument(
        "--sheet", type=Path, help="a PNG: for each kind the true views, single samples, joint ones"
    )
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    judge = Judge(Trainer(args.cache, 0, None))
    rows = []
    print(f"{'kind':10} {'':7} error at t = " + " ".join(f"{t:5.2f}" for t in LEVELS))
    for i, kind in enumerate(args.kinds.split(",")):
        colour = MADE[kind].natural if MADE[kind].natural in COLOURS else list(COLOURS)[i % len(COLOURS)]
        prompt = f"a {colour} {kind}"
        truth = render(build(Description(kind, colour)), judge.cameras)
        rows.append(truth.over((0.5, 0.5, 0.5))[:SHOWN])
        for name, frames in (("single", 1), ("joint", FRAMES)):
            errors = judge.errors(truth, prompt, frames)
            images = judge.sample(prompt, frames, 3)
            match = azimuth_match(images, truth)
            figures = "  ".join(f"{what} {value:.3f}" for what, value in match.items())
            print(
                f"{kind:10} {name:7} {'':12} " + " ".join(f"{e:.3f}" for e in errors) + f"  {figures}",
                flush=True,
            )
            rows.append(images[:SHOWN])
    if args.sheet is not None:
        save_sheet(torch.cat(rows), args.sheet, SHOWN)
    return 0


if __name__ == "__main__":
    sys.exit(main())
