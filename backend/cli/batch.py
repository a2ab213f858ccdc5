"""The arguments of `batch`, and the jobs of its list. What it does is in backend/batch/."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.errors import DreamFlowError, InputError
from backend.jobs.folder import clean_prompt, default_folder
from dreamflow_blender.contract.files import read_json
from dreamflow_blender.contract.options import add_options, finite_number, typed, whole_number
from dreamflow_blender.contract.prompts import (
    OPTIONS,
    BadPrompts,
    Line,
    job_fields,
    read_prompts,
    read_shard,
    shard_of_array,
)
from dreamflow_blender.contract.protocol import BadMessage, Job
from dreamflow_blender.contract.settings import read_setting

KEY = 8  # digits of a job's key in its folder's name: lines that differ in any setting never share a folder
WORKERS = 64  # at most
BUILT_IN = Path(__file__).parents[1] / "mini" / "base" / "dreamflow.json"  # says which kinds that prior knows
EXAMPLES = """\
examples:
  python -m backend batch prompts.txt --out batch
  python -m backend batch prompts.csv --out batch --preset fast --prior sd --device cuda --workers 8
  python -m backend batch prompts.txt --out batch --shard 3/8
  python -m backend batch prompts.txt --out batch --retry

The list is a text file with a prompt a line, or a CSV with a header: docs/blender.md. The same command again goes on
with what was stopped and skips what is done; run it on as many machines with one DIR as you like.
Exit codes: 0 nothing failed, 1 some failed, 2 the list cannot be carried out as written, 130 and 143 stopped.
"""


def add(commands: argparse._SubParsersAction[Any]) -> None:
    """Their arguments."""
    b = commands.add_parser(
        "batch", help="make a mesh from each prompt of a list", epilog=EXAMPLES, allow_abbrev=False,
        description="Make a mesh from each prompt of a list, each in a folder of its own, with a report and a page"
        " that shows them all.", formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    b.add_argument("list", metavar="LIST", type=Path, help="the prompts: a text file or a CSV")
    b.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="a folder for each prompt goes here"
    )
    add_options(b, OPTIONS)
    b.add_argument(
        "--set", metavar="STAGE.SETTING=VALUE", type=typed(read_setting), action="append", default=[],
        help="replace one of the preset's settings in every job, as in nerf.levels=400",
    )  # fmt: skip
    b.add_argument(
        "--workers", metavar="N", type=typed(_workers), default=1,
        help="processes that share the work, each with its own card where there are cards (default: 1)",
    )  # fmt: skip
    b.add_argument(
        "--shard", metavar="I/N", type=typed(read_shard),
        help="only the I-th of N shares of the list; /N takes I from the array job (default: a SLURM array job's own)",
    )  # fmt: skip
    b.add_argument(
        "--ray", metavar="ADDRESS", nargs="?", const="local",
        help="over the cards of this Ray cluster, or without an address of this machine (docs/farm.md)",
    )  # fmt: skip
    b.add_argument(
        "--gpus-per-job", metavar="N", type=typed(_gpus), default=1.0,
        help="of Ray: how much of a card a job takes, as in 0.5 (default: 1)",
    )  # fmt: skip
    b.add_argument(
        "--store", metavar="URL",
        help="of Ray without a shared disk: where jobs' folders are kept, as in s3://bucket/meshes",
    )  # fmt: skip
    b.add_argument("--retry", action="store_true", help="try again what has failed")


def _workers(text: str) -> int:
    number = whole_number(text)
    if not 1 <= number <= WORKERS:
        raise ValueError(f"expected 1 to {WORKERS}, got {number}")
    return number


def _gpus(text: str) -> float:
    number = finite_number(text)
    if not (0 < number < 1 or (number >= 1 and number == int(number))):
        raise ValueError(f"expected a share of one card as 0.5, or whole cards, got {text[:40]}")
    return number


def read_jobs(args: argparse.Namespace) -> list[Job]:
    """The jobs of the list in its order, all checked before the first begins; one that is there twice, once.

    Their folders depend on nothing but the job, so that every process finds the same ones. Raises InputError.
    """
    from backend.config import resolve  # neither is needed by another command's start
    from dreamflow_blender.contract.language import reading
    from dreamflow_blender.contract.language.notation import refuse_for
    from dreamflow_blender.contract.language.unknown import NotUnderstood

    if args.store and not args.ray:
        raise InputError("--store is for --ray.", "Without Ray, all processes share the disk of --out.")
    try:
        lines = read_prompts(args.list)
        args.shard = args.shard or shard_of_array()
    except ValueError as error:  # BadPrompts too
        raise InputError(f"{error}".rstrip(".") + ".", "See python -m backend batch --help.") from error
    kinds = tuple((read_json(BUILT_IN) or {}).get("kinds", ()))
    seen: set[str] = set()
    jobs: dict[str, Job] = {}
    for line in lines:
        job = _job(line, args)
        settings = json.dumps([job.preset, job.overrides])
        try:
            if settings not in seen:
                resolve(job.preset, {"job": job.overrides})
            if job.prior == "mini" and kinds:  # it knows some words alone; without torch, which takes seconds
                reading.read_object(job.prompt, job.negative, kinds)
            refuse_for((job.prior, job.texturer, job.refiner), job.prompt, job.negative)
        except (DreamFlowError, NotUnderstood) as error:
            raise InputError(f"Line {line.number}: {error.message}", error.todo) from error
        seen.add(settings)
        jobs.setdefault(job.folder, job)
    return list(jobs.values())


def _job(line: Line, args: argparse.Namespace) -> Job:
    try:
        prompt = clean_prompt(line.prompt)
        job = Job("0", "generate", prompt, "x", snapshot_faces=0, **job_fields(line, vars(args)))
    except (BadMessage, BadPrompts, InputError) as error:
        raise InputError(f"Line {line.number}: {error}", "Correct the list.") from error
    key = job.key()
    folder = default_folder(prompt, job.seed, args.out)
    return replace(job, id=key[:12], folder=str(folder.with_name(f"{folder.name}-{key[:KEY]}")))
