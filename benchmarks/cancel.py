"""How long `cancel` takes at random moments of a job: python -m benchmarks.cancel [--moments 50] [--prior exact]

One job is begun, cancelled at a random moment, resumed, cancelled again, and so on to its end, then another one: so
the moments are spread over everything that a job does, loading and delivery included. Prints the times by what was
going on, and the largest; exits with 1 where that is above what is promised. On a machine that is busy with other
things, their share of the processors is measured, too.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from dreamflow_blender.client.client import Client
from dreamflow_blender.contract import protocol as p
from dreamflow_blender.contract.jobfolder import JobFolder

PROMISED = 5.5  # seconds: the client kills a worker that has not answered in 5
SHORT = {"nerf.levels": 40, "geometry.levels": 10, "texture.levels": 8, "refine.levels": 2}  # draft's sizes
ENDS = (p.Cancelled, p.Finished, p.Failed)


def measure(moments: int, prior: str, seed: int, longest: float) -> dict[str, list[float]]:
    """Seconds from request to event, by what was going on."""
    chance = random.Random(seed)
    times: dict[str, list[float]] = defaultdict(list)
    job = 0
    with tempfile.TemporaryDirectory() as root:
        client = Client(sys.executable, Path(__file__).parents[1], Path(root))
        folder = JobFolder("")
        while (done := sum(map(len, times.values()))) < moments:
            if folder.job.is_file():
                client.resume(folder.path)
            else:
                job += 1
                folder = JobFolder(f"{root}/{job}")
                client.submit(
                    p.Job(
                        str(job),
                        "generate",
                        "a red mug",
                        str(folder.path),
                        seed=job,
                        prior=prior,
                        overrides=SHORT,
                    )
                )
            until, where, asked = time.monotonic() + chance.uniform(0, longest), "begin", 0.0
            end: p.Event | None = None
            while not isinstance(end, ENDS):
                if not asked and time.monotonic() >= until and client.cancel():
                    asked = time.monotonic()
                for end in client.poll():
                    if isinstance(end, p.Started) and not asked:
                        where = end.stage
                time.sleep(0.005)
            if isinstance(end, p.Failed):
                raise SystemExit(f"{end.message} {end.detail}")
            if isinstance(end, p.Cancelled):
                times[where].append(time.monotonic() - asked)
                print(f"{done + 1:3}  {where:9} {times[where][-1]:.2f} s", flush=True)
            else:
                folder = JobFolder("")
        client.close()
    return times


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--prior", default="exact")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=6.0, help="seconds of work between two cancels")
    arguments = parser.parse_args()
    times = measure(arguments.moments, arguments.prior, arguments.seed, arguments.longest)
    print(f"\n{'during':10} {'times':>5} {'median':>8} {'largest':>8}")
    for where, found in times.items():
        print(f"{where:10} {len(found):5} {sorted(found)[len(found) // 2]:6.2f} s {max(found):6.2f} s")
    largest = max(max(found) for found in times.values())
    load = f", load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores" if hasattr(os, "getloadavg") else ""
    print(f"\nlargest of {sum(map(len, times.values()))}: {largest:.2f} s (promised: {PROMISED:g} s){load}")
    return largest > PROMISED


if __name__ == "__main__":
    sys.exit(main())
