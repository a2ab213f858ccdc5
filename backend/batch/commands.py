"""`batch`: a list of prompts, by this process or by several that it starts."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TextIO

from backend.batch.ray_driver import run_on_ray
from backend.batch.ray_progress import shown_on
from backend.batch.report import PAGE, REPORT, write_report
from backend.batch.share import DONE, FAILED, CannotContinue, Share, state_of
from backend.files import disk_errors
from backend.interrupts import READER_GONE, STOPS, Interrupts
from backend.jobs.drive import Begin, Control, End, Events, begin, drive
from backend.weights.resident import RESIDENT
from dreamflow_blender.contract.prompts import in_shard
from dreamflow_blender.contract.protocol import Event, Job, Warning
from dreamflow_blender.contract.wire import show_text

# Exit codes, as those of Blender's batch; 128 + the signal where stopped
OK, SOME_FAILED, BAD_INPUT = 0, 1, 2
SMI_SECONDS = 30
Run = Callable[[Begin, Control], Events]
Show = Callable[[Event], None]


def run(
    args: argparse.Namespace, jobs: Sequence[Job], typed: Sequence[str], out: TextIO,
    display: Callable[[Job, str], Show], run: Run = begin,
) -> int:  # fmt: skip
    """The exit code. Raises DiskError where the folder will not do.

    jobs     of the whole list
    typed    the arguments as they came, which `--workers` gives to its processes
    display  of a job and the label of its lines: what shows its events
    """
    with disk_errors(args.out):
        args.out.mkdir(parents=True, exist_ok=True)
    mine = [job for job in jobs if in_shard(job, args.shard)]
    batch = Batch(mine, out, display, run)
    share = Share(args.out, mine, args.retry, batch.run, batch.stopped)
    before = {job.folder for job in jobs if state_of(job, None) == DONE}
    if args.shard:
        batch.say(f"Shard {args.shard[0]} of {args.shard[1]}: {len(mine)} of {len(jobs)} prompts.")
    try:
        if args.ray:
            shown = shown_on(out, batch.say, batch.to_a_reader)
            code = run_on_ray(args, mine, share, shown, batch.interrupts)
        elif args.workers > 1:
            code = in_workers(args.workers, typed, args.device, out)
        else:
            code = batch.work(share.work)
    finally:
        counts = write_report(args.out, jobs, share, before)
    batch.say(
        ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        + f": {show_text(str(args.out / REPORT))}, {show_text(str(args.out / PAGE))}"
    )
    if code == OK and any(share.state(job) == FAILED for job in mine):
        return SOME_FAILED
    return code


class Batch:
    """This process's jobs, one after the other, and what it says about them."""

    def __init__(
        self, jobs: Sequence[Job], out: TextIO, display: Callable[[Job, str], Show], run: Run
    ) -> None:
        self._places = {job.folder: number for number, job in enumerate(jobs, 1)}
        self._out, self._display, self._begin = out, display, run
        self.interrupts = Interrupts()
        self._heard = True  # whoever reads our output is there

    def say(self, text: str) -> None:
        with self.to_a_reader():
            self._out.write(f"{text}\n")
            self._out.flush()

    @contextmanager
    def to_a_reader(self) -> Iterator[None]:
        """Where the program that read our output has gone, nothing more is said, and the work goes no further."""
        try:
            yield
        except OSError as error:
            if error.errno not in READER_GONE:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())
            self._heard, self.interrupts.asked = False, True

    def work(self, jobs: Callable[[], None]) -> int:
        """Does `jobs`, which run one after the other, until a signal comes; the exit code."""
        RESIDENT.keeping = True
        try:
            with self.interrupts:
                jobs()
        except KeyboardInterrupt:
            pass
        except CannotContinue as error:
            self.say(f"{show_text(str(error))} The same command goes on when that is mended.")
            return SOME_FAILED
        if self.stopped():
            self.say("Stopped. The same command goes on.")
            return 128 + self.interrupts.signal if self._heard else SOME_FAILED
        return OK

    def run(self, job: Job, request: Begin, overwrite: bool = False) -> tuple[End, list[str]]:
        """Drive one job; its last event and its warnings. overwrite: an older job in its folder is replaced."""
        warnings: list[str] = []
        label = f"[{self._places[job.folder]}/{len(self._places)}] "
        display = self._display(job, label)
        self.say(f"{label}{show_text(job.prompt)}: {show_text(job.folder)}")

        def show(event: Event) -> None:
            self.interrupts.may_wait = True
            if isinstance(event, Warning):
                warnings.append(event.message)
            with self.to_a_reader():
                display(event)
            if self.interrupts.asked:
                self.say("Stopping, and keeping what there is. Sent again, it stops at once.")
                raise KeyboardInterrupt

        end = drive(request, lambda: None, show, overwrite, self._begin)
        self.interrupts.may_wait = False
        with self.to_a_reader():
            display(end)
        _free_memory()
        return end, warnings[-20:]

    def stopped(self) -> bool:
        """Whether a signal has come, or nobody reads what is said: then no other job begins."""
        return self.interrupts.signal != 0 or not self._heard


def _free_memory() -> None:
    if "torch" in sys.modules:
        from backend.stages.memory import collect

        collect()


def in_workers(count: int, typed: Sequence[str], device: str, out: TextIO) -> int:
    """The same command in so many processes, one a card where there are cards; the exit code."""
    children: list[subprocess.Popen[bytes]] = []
    heard: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        heard.append(number)
        for child in children:
            child.send_signal(number) if os.name != "nt" else child.terminate()

    before = {number: signal.signal(number, forward) for number in STOPS}
    cards = cards_of(os.environ) if device in ("auto", "cuda") else []
    root = str(Path(__file__).parents[2])
    try:
        for number in range(count):
            own = os.environ | {
                "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
                "PYTHONUNBUFFERED": "1",
            }
            if cards:
                own["CUDA_VISIBLE_DEVICES"] = cards[number % len(cards)]
            if not heard:
                command = [sys.executable, "-m", "backend", *typed, "--workers", "1"]
                # a session of its own: a terminal's Ctrl-C reaches this process, which passes it on once
                children.append(subprocess.Popen(command, env=own, start_new_session=True))
        codes = [child.wait() for child in children]
    finally:
        for stop, handler in before.items():
            signal.signal(stop, handler)
    for code in codes:
        if code not in (OK, SOME_FAILED, BAD_INPUT) and not heard:
            out.write(f"A worker ended with code {code}. The same command goes on with what it left.\n")
    if heard:
        return 128 + heard[0]
    return BAD_INPUT if BAD_INPUT in codes else OK if not any(codes) else SOME_FAILED


def cards_of(environment: Mapping[str, str]) -> list[str]:
    """NVIDIA's cards as CUDA_VISIBLE_DEVICES names them: those that it allows, else all that the driver lists."""
    if "CUDA_VISIBLE_DEVICES" in environment:
        return [name for name in environment["CUDA_VISIBLE_DEVICES"].split(",") if name]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        listed = subprocess.run(
            [program, "-L"], capture_output=True, text=True, timeout=SMI_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"\(UUID: (GPU-[^)]+)\)", listed.stdout)
