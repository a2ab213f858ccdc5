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

from backend.batch.commands import BAD_INPUT, OK, SOME_FAILED, Batch, Run, Show
from backend.errors import InputError
from backend.files import disk_errors
from backend.jobs.drive import Begin, End, begin
from backend.jobs.folder import default_folder, job_so_far
from backend.jobs.listing import CANDIDATES
from dreamflow_blender.contract.files import is_file, read_json, write_json
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import (
    CANDIDATE_SHARE,
    MAX_SEED,
    Cancelled,
    Failed,
    Finished,
    Generate,
    Job,
    Resume,
)
from dreamflow_blender.contract.wire import show_text

SHEET = "candidates.png"
INTERRUPTED = 130  # exit code, as of `generate`


@dataclass(frozen=True)
class Candidate:
    """A seed that has been begun."""

    job: Job
    score: float | None  # less is better; None: it could not be begun


def run(
    args: argparse.Namespace, job: Job, out: TextIO, display: Callable[[Job, str], Show],
    begin: Run = begin,
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
        raise InputError("--json shows one job.", f"Leave it out and read {CANDIDATES}.")
    root = args.out or Path(job.folder).with_name(f"{Path(job.folder).name}-candidates")
    jobs = jobs_of(job, args.candidates, root)
    begun = {
        each.folder: None if args.overwrite else job_so_far(each) for each in jobs
    }  # all before any is begun
    batch = Batch(jobs, out, lambda job, label: _without_planned_ends(display(job, label)), begin)
    ends: list[End] = []

    def begin_all() -> None:
        for each in jobs:
            request = request_for(each, begun[each.folder], args.until or CANDIDATE_SHARE)
            if request is not None and not batch.stopped() and not _is_wrong(ends):
                ends.append(batch.run(each, request, args.overwrite)[0])

    if (code := batch.work(begin_all)) != OK:
        return INTERRUPTED if code > 128 else code
    if _is_wrong(ends):
        return BAD_INPUT
    found = sorted(map(look, jobs), key=lambda one: math.inf if one.score is None else one.score)
    write_sheet(root, jobs, found)
    batch.say(as_table(root, found))
    best = found[0]
    if best.score is None:
        return SOME_FAILED
    if args.pick is None:
        batch.say("To go on with one: python -m backend resume FOLDER")
        return OK
    if isinstance(JobFolder(best.job.folder).last_event(), Finished):
        return OK
    code = batch.work(lambda: ends.append(batch.run(best.job, Resume(best.job.folder))[0]))
    if code != OK:
        return INTERRUPTED if code > 128 else code
    return OK if isinstance(ends[-1], Finished) else SOME_FAILED


def request_for(job: Job, begun: Resume | Finished | None, until: float) -> Begin | None:
    """What brings the job to this share of stage 1; None where it has come so far."""
    if begun is None:
        return Generate(job, until)
    if isinstance(begun, Finished) or read_json(JobFolder(job.folder).candidate):
        return None
    return Resume(job.folder, until)


def _without_planned_ends(show: Show) -> Show:
    """A candidate is stopped as planned, which is not worth a word."""
    return lambda event: None if isinstance(event, Cancelled) else show(event)


def _is_wrong(ends: Sequence[End]) -> bool:
    """Whether the request cannot be carried out as written, which holds for every seed."""
    return bool(ends) and isinstance(ends[-1], Failed) and ends[-1].kind == InputError.kind


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
    with disk_errors(root / CANDIDATES):
        write_json(
            root / CANDIDATES,
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
