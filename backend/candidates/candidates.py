"""`generate --candidates N`: several seeds are begun and shown side by side, and one of them is gone on with.

A candidate is an ordinary job that stops after a part of stage 1, with a checkpoint: what is resumed has the bytes of
that seed run alone. All of them lie in one folder, with a sheet of their views. The same command again begins what has
not been begun, and shows the rest.
"""

from __future__ import annotations

import argparse
import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from backend.errors import InputError
from backend.files import disk_errors
from backend.interrupts import Interrupts
from backend.jobs.drive import Begin, Control, End, Events, begin, drive
from backend.jobs.folder import default_folder, job_so_far
from backend.models.resident import RESIDENT
from dreamflow_blender.contract.files import is_file, read_json, write_json
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import (
    CANDIDATE_SHARE,
    MAX_SEED,
    Cancelled,
    Event,
    Failed,
    Finished,
    Generate,
    Job,
    Resume,
)
from dreamflow_blender.contract.wire import show_text

SHEET, RECORD = "candidates.png", "candidates.json"
OK, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130  # exit codes
Show = Callable[[Event], None]


@dataclass(frozen=True)
class Candidate:
    """A seed that has been begun."""

    job: Job
    score: float | None  # less is better; None: it could not be begun


def run(
    args: argparse.Namespace, job: Job, out: TextIO, display: Callable[[Job, str], Show],
    begin: Callable[[Begin, Control], Events] = begin,
) -> int:  # fmt: skip
    """The exit code. Raises InputError and DiskError where nothing can be begun.

    job      of the first seed, in the folder that is to hold all of them where the user named one
    display  of a job and the label of its lines: what shows its events
    """
    if args.candidates is None:
        raise InputError(
            "--until and --pick are about candidates.", "Add --candidates N, as in --candidates 4."
        )
    if args.json:
        raise InputError("--json shows one job.", f"Leave it out and read {RECORD}.")
    root = args.out or Path(job.folder).with_name(f"{Path(job.folder).name}-candidates")
    jobs = jobs_of(job, args.candidates, root)
    begun = {
        each.folder: None if args.overwrite else job_so_far(each) for each in jobs
    }  # all before any is begun
    driver = Driver(out, display, begin, {each.folder: number for number, each in enumerate(jobs, 1)})
    RESIDENT.keeping = True  # the networks are read once for all of them
    try:
        with driver.interrupts:
            for each in jobs:
                end = driver.begin(each, begun[each.folder], args.until or CANDIDATE_SHARE, args.overwrite)
                if isinstance(end, Failed) and end.kind == InputError.kind:
                    return BAD_INPUT
                if driver.interrupts.signal:
                    raise KeyboardInterrupt
            found = sorted(map(look, jobs), key=lambda one: math.inf if one.score is None else one.score)
            write_sheet(root, jobs, found)
            driver.say(as_table(root, found))
            best = found[0]
            if best.score is None:
                return SOME_FAILED
            if args.pick is None:
                driver.say("To go on with one: python -m backend resume FOLDER")
                return OK
            end = JobFolder(best.job.folder).last_event()
            if not isinstance(end, Finished):
                end = driver.drive(best.job, Resume(best.job.folder))
    except KeyboardInterrupt:
        end = Cancelled({})
    if isinstance(end, Cancelled):
        driver.say("Stopped. The same command goes on.")
        return INTERRUPTED
    return OK if isinstance(end, Finished) else SOME_FAILED


class Driver:
    """Runs one job after the other, and lets Ctrl-C stop them."""

    def __init__(
        self, out: TextIO, display: Callable[[Job, str], Show], begin: Callable[[Begin, Control], Events],
        numbers: dict[str, int],
    ) -> None:  # fmt: skip
        self._out, self._display, self._begin, self._numbers = out, display, begin, numbers
        self.interrupts = Interrupts()

    def say(self, text: str) -> None:
        self._out.write(f"{text}\n")
        self._out.flush()

    def begin(self, job: Job, begun: Resume | Finished | None, until: float, overwrite: bool) -> Event | None:
        """Run the job to this share of stage 1, unless it has come so far; its last event where it ran."""
        if begun is None:
            return self.drive(job, Generate(job, until), overwrite)
        if isinstance(begun, Finished) or read_json(JobFolder(job.folder).candidate):
            return None
        return self.drive(job, Resume(job.folder, until))

    def drive(self, job: Job, request: Begin, overwrite: bool = False) -> End:
        """Its last event."""
        label = f"[{self._numbers[job.folder]}/{len(self._numbers)}] "
        show = self._display(job, label)
        self.say(f"{label}seed {job.seed}: {show_text(job.folder)}")

        def shown(event: Event) -> None:
            self.interrupts.may_wait = True
            show(event)
            if self.interrupts.asked:
                self.say("Stopping, and keeping what there is. Ctrl-C again stops at once.")
                raise KeyboardInterrupt

        end = drive(request, lambda: None, shown, overwrite, self._begin)
        self.interrupts.may_wait = False
        if not isinstance(end, Cancelled) or self.interrupts.signal:  # a candidate is cancelled as planned
            show(end)
        return end


def jobs_of(job: Job, count: int, root: Path) -> list[Job]:
    """The candidates of a job, from its seed on, each in a folder of its own below `root`. Raises InputError."""
    if job.seed + count - 1 > MAX_SEED:
        raise InputError(
            f"{count} seeds from {job.seed} on go beyond {MAX_SEED}, the largest.", "Give a smaller --seed."
        )
    seeds = range(job.seed, job.seed + count)
    return [
        replace(job, id=uuid.uuid4().hex[:12], seed=seed, folder=str(default_folder(job.prompt, seed, root)))
        for seed in seeds
    ]


def look(job: Job) -> Candidate:
    """What is known of it."""
    found = read_json(JobFolder(job.folder).candidate) or {}
    score = found.get("score")
    return Candidate(job, float(score) if isinstance(score, int | float) else None)


def write_sheet(root: Path, jobs: Sequence[Job], found: Sequence[Candidate]) -> None:
    """candidates.png, a row a seed, and candidates.json, the best first. Raises DiskError."""
    from backend.results.candidate import read_views  # torch, and what draws
    from backend.results.pictures import write_views

    views = {job.seed: JobFolder(job.folder).candidate_png for job in jobs}
    rows = {f"seed {seed}": read_views(path) for seed, path in views.items() if is_file(path)}
    if rows:
        write_views(root / SHEET, rows)
    with disk_errors(root / RECORD):
        write_json(
            root / RECORD,
            {
                "prompt": jobs[0].prompt,
                "candidates": [
                    {"seed": one.job.seed, "score": one.score, "folder": Path(one.job.folder).name}
                    for one in found
                ],
            },
        )


def as_table(root: Path, found: Sequence[Candidate]) -> str:
    """For a terminal, the best first."""
    lines = ["The prior's own score of each seed, a hint: less is better."]
    for one in found:
        score = "failed" if one.score is None else f"{one.score:.4f}"
        lines.append(f"  {score:>8}  seed {one.job.seed:<10}  {show_text(one.job.folder)}")
    return "\n".join([*lines, f"Their views: {show_text(str(root / SHEET))}"])
