"""The day a card is there: everything that only a card can say, in ten minutes.

    python -m benchmarks.card [--minutes 10] [--output docs/card.md] [--only "Hash grid" ...]

Correctness against the processor (every kernel, each stage's render and gradients, the networks), the stages at full
size with their time and peak memory with CUDA graphs and without, what nvdiffrast and tiny-cuda-nn bring where they are
installed, a whole draft, and one that is cancelled and resumed. Networks of the true architectures get random weights
on the card: nothing is downloaded. A part that fails is written down with its error, and the rest goes on; one that
time is too short for is written down as not begun. The report is written after each part. Exit code 0: all passed.

--tiny takes small sizes; tests/card/test_card_benchmark.py runs all of it so, on a pretended card.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers.utils import logging

from backend.files import write_text
from benchmarks.card_parts import Day
from benchmarks.card_runs import PARTS

ROOT = Path(__file__).parents[1]
GRACE = 120.0  # seconds after the time is up in which the part that is running may end


@dataclass
class Result:
    part: str
    state: str = "not begun"  # "passed", "failed", or why it was not begun
    seconds: float = 0.0
    lines: list[str] = field(default_factory=list)


def report(results: list[Result], tiny: bool) -> str:
    """Markdown."""
    passed = sum(result.state == "passed" for result in results)
    sizes = "TINY SIZES: a rehearsal, not a measurement. " if tiny else ""
    lines = [
        "# What a card says",
        "",
        f"{sizes}{passed} of {len(results)} parts passed. Written by `python -m benchmarks.card`"
        f" on {platform.platform()}, Python {platform.python_version()}, torch {torch.__version__}.",
    ]
    for result in results:
        lines += ["", f"## {result.part}: {result.state} ({result.seconds:.0f} s)", ""]
        lines += [f"- {line}" for line in result.lines]
    return "\n".join(lines) + "\n"


def run(day: Day, names: list[str], output: Path) -> list[Result]:
    """All parts, one after the other, whatever becomes of each."""
    results = [Result(name) for name in names]
    for result in results:
        minutes, part = PARTS[result.part]
        print(f"{result.part} ...", flush=True)
        began = time.monotonic()
        if day.left() < (0 if day.tiny else 20 * minutes):  # a third of what it may take
            result.state = "not begun: out of time"
        else:
            try:
                part(day, result.lines.append)
                result.state = "passed"
            except Exception as error:  # noqa: BLE001  the outermost edge of a part: the others still count
                result.state = "failed"
                result.lines.append(f"{type(error).__name__}: {str(error)[:2000]}")
                where = [
                    f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)
                ]
                result.lines.append(f"at {' < '.join(reversed(where[-6:]))}")
        result.seconds = time.monotonic() - began
        print("\n".join(f"    {line}" for line in result.lines) + f"\n    {result.state}", flush=True)
        write_text(output, report(results, day.tiny))
    return results


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "card.md")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", metavar="WORDS", nargs="+", help="parts whose titles begin so")
    options = parser.parse_args(arguments)
    names = [name for name in PARTS if not options.only or name.startswith(tuple(options.only))]
    if "The machine" not in names:
        names.insert(0, "The machine")  # it picks the card
    logging.set_verbosity_error()
    seconds = 60 * options.minutes
    watchdog = threading.Timer(seconds + GRACE, _give_up)  # a call that hangs; all before it is in the report
    watchdog.daemon = True
    if not options.tiny:  # a rehearsal runs inside of another program
        watchdog.start()
    with tempfile.TemporaryDirectory() as folder:
        results = run(Day(options.tiny, Path(folder), time.monotonic() + seconds), names, options.output)
    watchdog.cancel()
    passed = sum(result.state == "passed" for result in results)
    print(f"card: {passed} of {len(results)} parts passed, {options.output}")
    return 0 if passed == len(results) else 1


def _give_up() -> None:
    import os

    print("card: out of time, a part hangs", file=sys.stderr, flush=True)
    os._exit(2)


if __name__ == "__main__":
    raise SystemExit(main())
