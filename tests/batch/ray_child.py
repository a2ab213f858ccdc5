"""A driver on a Ray cluster with workers that pretend: `ray_child.py ROOT SECONDS [options]`, with ROOT/l.txt."""

from __future__ import annotations

import re
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from backend.batch import ray_driver, ray_progress
from backend.batch.commands import run
from backend.cli.arguments import parser
from backend.cli.batch import read_jobs

ROOT = Path(__file__).parents[2]


def metrics() -> str:
    """What Ray's endpoint for Prometheus says, once it has heard of the last job."""
    import ray

    port = ray.nodes()[0]["MetricsExportPort"]
    assert port > 0, "this Ray exports no metrics: ray[default] is not installed"
    until = time.monotonic() + 60
    while True:
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer,
        ):
            text: str = answer.read().decode()
            counts = re.findall(r"^ray_dreamflow_jobs_total{.*} (\S+)$", text, re.MULTILINE)
            if sum(map(float, counts)) >= 5 or time.monotonic() > until:
                return text
        time.sleep(0.5)


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

        def work(self) -> int:
            code: int = super().work()
            if (root / "metrics").exists():
                (root / "metrics").write_text(metrics())
            return code

    ray_driver.Driver = Driver  # type: ignore[misc]
    return run(args, read_jobs(args), given, sys.stdout, lambda *_: lambda _event: None)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
