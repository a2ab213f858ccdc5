"""What checkpoints, previews and snapshots take of a run: python -m benchmarks.overhead [--prior exact] [--set ...]

Runs one job with the clocks that a user has (or others: --checkpoint, --snapshot) and prints the shares that it has
measured of itself: wall time of its own thread, and processor time of the thread that writes checkpoints.
Exits with 1 where checkpoints took 2 % or more, or pictures 3 % or more.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter

from backend.jobs.generate import generate
from dreamflow_blender.contract.protocol import Finished, Job


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prior", default="exact")
    parser.add_argument("--prompt", default="a red mug")
    parser.add_argument("--preset", default="draft")
    parser.add_argument("--set", metavar="STAGE.SETTING=VALUE", action="append", default=[])
    parser.add_argument("--checkpoint", type=float, default=60.0, help="seconds between checkpoints")
    parser.add_argument("--snapshot", type=float, default=30.0, help="seconds between snapshots")
    asked = parser.parse_args()
    overrides = {name: json.loads(value) for name, _, value in (text.partition("=") for text in asked.set)}
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            "1", "generate", asked.prompt, folder, preset=asked.preset, prior=asked.prior, overrides=overrides,
            checkpoint_seconds=asked.checkpoint, snapshot_seconds=asked.snapshot,
        )  # fmt: skip
        counts: Counter[str] = Counter()
        for event in generate(job):
            counts[type(event).__name__.lower()] += 1
    assert isinstance(event, Finished)
    checkpoints, pictures = event.figures["share_checkpoints"], event.figures["share_pictures"]
    print(f"{asked.preset}, {asked.prior}: {event.figures['seconds']:.0f} s")
    print(f"{counts['checkpoint']} checkpoints: {checkpoints:.2%} of the run (promised: 2 %)")
    print(
        f"{counts['preview']} previews, {counts['snapshot']} snapshots: {pictures:.2%} of the run (promised: 3 %)"
    )
    return checkpoints >= 0.02 or pictures >= 0.03


if __name__ == "__main__":
    sys.exit(main())
