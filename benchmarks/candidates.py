"""What does a candidate cost, and does `--pick best` choose well?

    python -m benchmarks.candidates --out DIR [--prompts 8] [--set nerf.levels=300] [--cost]

For each prompt three seeds of the built-in prior are begun as candidates, and all brought to the end of stage 2a,
after which the shape stands still. A line a prompt: the seeds' scores (less is better) and the IoU of what each
delivered against the true object, that of the seed with the best score, and the median. --cost, on a quiet machine:
the processor seconds of four candidates, a candidate each, and of one whole job. What is in DIR is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from backend.evidence.recovery import judge_job
from dreamflow_blender.contract.files import read_json
from dreamflow_blender.contract.jobfolder import JobFolder, slug
from dreamflow_blender.contract.protocol import Finished

PROMPTS = ("a red mug", "a green mushroom", "a yellow cone", "an orange rocket", "a red duck", "a pink donut",
           "a purple bottle", "a green tree")  # fmt: skip
SEEDS = 3


def seconds(*arguments: str) -> float:
    """Processor time of a command of ours. Raises CalledProcessError."""
    before = os.times()
    command = [sys.executable, "-m", "backend", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def row(prompt: str, root: Path, settings: list[str]) -> tuple[dict[str, list[float]], float, float]:
    """Scores and IoUs of one prompt's seeds; the IoU of the best score, and the median."""
    begin = "generate", prompt, "--candidates", str(SEEDS), "--stages", "nerf,geometry"
    seconds(*begin, "--out", str(root), *settings)
    folders = sorted(path.parent for path in root.glob("*/candidate.json"))
    for folder in folders:
        if not isinstance(JobFolder(folder).last_event(), Finished):
            seconds("resume", str(folder))
    found = [read_json(JobFolder(folder).candidate) or {} for folder in folders]
    scores = [round(float(one["score"]), 4) for one in found]
    ious = [round(judge_job(folder, prompt).iou, 3) for folder in folders]
    figures = {"gaps": [round(float(one["gap"]), 4) for one in found], "scores": scores, "ious": ious}
    return figures, ious[scores.index(min(scores))], statistics.median(ious)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--set", action="append", default=[], help="as generate's, of all jobs")
    parser.add_argument("--cost", action="store_true")
    args = parser.parse_args()
    settings = ["--threads", "1", *(word for one in args.set for word in ("--set", one))]
    if args.cost:
        four = seconds(
            "generate", PROMPTS[0], "--candidates", "4", "--out", str(args.out / "four"), *settings
        )
        whole = seconds("generate", PROMPTS[0], "--out", str(args.out / "whole"), *settings)
        print(json.dumps({"candidate": four / 4, "whole": whole, "share": round(four / 4 / whole, 3)}))
        return
    below = 0
    for prompt in PROMPTS[: args.prompts]:
        line, pick, median = row(prompt, args.out / slug(prompt), settings)
        print(json.dumps({"prompt": prompt, **line, "pick": pick, "median": median}), flush=True)
        below += pick < median
    print(f"{below} of {args.prompts} picks are below the median")


if __name__ == "__main__":
    main()
