"""A driver on a Ray cluster with workers that pretend: `ray_child.py ROOT SECONDS [options]`, with ROOT/l.txt."""

from __future__ import annotations

import sys
from pathlib import Path

from backend.batch import ray_driver, ray_progress
from backend.batch.commands import run
from backend.cli.arguments import parser
from backend.cli.batch import read_jobs

ROOT = Path(__file__).parents[2]


def main(root: Path, seconds: str, *more: str) -> int:
    command = (
        sys.executable,
        str(ROOT / "tests" / "tools" / "pretend_worker.py"),
        str(root / "log"),
        seconds,
    )
    ray_progress.EVERY = ray_driver.TICK = 0.2
    given = [
        "batch",
        str(root / "l.txt"),
        "--out",
        str(root / "out"),
        "--prior",
        "sd",
        "--device",
        "cpu",
        *more,
    ]
    args = parser().parse_args(given)
    real = ray_driver.Driver

    class Driver(real):  # type: ignore[misc, valid-type]
        def __init__(self, *given: object) -> None:
            super().__init__(*given[:-1], command)

    ray_driver.Driver = Driver  # type: ignore[misc]
    return run(args, read_jobs(args), given, sys.stdout, lambda *_: lambda _event: None)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
