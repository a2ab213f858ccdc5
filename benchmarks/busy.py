"""Whether a job collapses beside other programs: stage 1's seconds alone, and beside busy processes.

    python -m benchmarks.busy [--busy 2] [--levels 4] [--rounds 3] [--threads 1,2,0]

Each figure is the median of runs of the command line with the built-in prior, with one thread, with all of the
processor's, and as it chooses by itself (0; the others alone may take minutes where they collapse). Exits 1 where its
own choice takes more than 1.5 times as long as the best of the others beside busy processes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import torch

BUSY = "while True: pass"
WORST = 1.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--busy", type=int, default=2, help="processes that do nothing but compute")
    parser.add_argument("--levels", type=int, default=4, help="of stage 1: five iterations each")
    parser.add_argument("--rounds", type=int, default=3)
    most = torch.get_num_threads()
    parser.add_argument(
        "--threads", default=f"1,{most},0", help="which to try; 0, its own choice, is the last"
    )
    said = parser.parse_args()
    others = [int(text) for text in said.threads.split(",") if text != "0"]
    choices = {f"{count} thread{'s' * (count > 1)}": count for count in others} | {"its own choice": 0}
    seconds: dict[str, float] = {}
    for count in (0, said.busy):
        for name, threads in choices.items():
            found = [run(threads, count, said.levels) for _ in range(said.rounds)]
            seconds[name] = median(took for took, _ in found)
            used = ", ".join(sorted({str(used) for _, used in found}))
            print(f"beside {count} busy: {name:15} {seconds[name]:7.1f} s   (threads: {used})", flush=True)
    own = seconds.pop("its own choice") / min(seconds.values())
    print(f"beside {said.busy} busy processes its own choice takes {own:.2f} times the best one's time")
    return 1 if own > WORST else 0


def run(threads: int, busy: int, levels: int) -> tuple[float, int]:
    """(seconds of stage 1, threads that it used)."""
    with tempfile.TemporaryDirectory() as out, ExitStack() as stack:
        for _ in range(busy):
            other = stack.enter_context(subprocess.Popen([sys.executable, "-c", BUSY]))
            stack.callback(other.kill)
        command = [
            sys.executable,
            "-m",
            "backend",
            "generate",
            "a red mug",
            "--stages",
            "nerf",
            "--device",
            "cpu",
        ]
        command += [
            "--threads",
            str(threads),
            "--set",
            f"nerf.levels={levels}",
            "--out",
            f"{out}/job",
            "--json",
        ]
        command += ["--set", "delivery.texture_size=64", "--set", "delivery.max_faces=500"]
        ran = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
        )
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    used = next(event["threads"] for event in events if event["event"] == "ready")
    return events[-1]["figures"]["seconds_nerf"], used


if __name__ == "__main__":
    sys.exit(main())
