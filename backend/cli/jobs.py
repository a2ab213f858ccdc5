"""The command line's smaller commands: their arguments, and `jobs` itself."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO


def add(commands: argparse._SubParsersAction[Any]) -> None:
    """Their arguments."""
    r = commands.add_parser(
        "resume",
        help="go on with a job that was stopped",
        description="Go on from a job's newest checkpoint.",
    )
    r.add_argument("folder", metavar="FOLDER", type=Path, help="the job's folder")
    r.add_argument("--json", action="store_true", help="one JSON event a line, and nothing else on stdout")
    j = commands.add_parser("jobs", help="list jobs, or clean up after them", description="List jobs.")
    j.add_argument(
        "what", nargs="?", choices=("list", "clean"), default="list",
        help="clean removes the checkpoints of finished jobs",
    )  # fmt: skip
    j.add_argument(
        "--root", metavar="DIR", type=Path, default=Path("out"), help="where to look (default: out)"
    )
    j.add_argument("--json", action="store_true", help="one JSON object a line")
    commands.add_parser(
        "worker",
        help="serve one client on standard input and output",
        description="Requests in, events out, one JSON object a line: dreamflow_blender/contract/protocol.py.",
    )


def run(args: argparse.Namespace, out: TextIO) -> int:
    """`jobs`; the exit code. Raises DreamFlowError."""
    from backend.jobs.listing import clean_jobs, list_jobs

    if args.what == "clean":
        freed = clean_jobs(args.root)
        out.write(json.dumps({"freed": freed}) if args.json else f"Freed {megabytes(freed)}.")
        out.write("\n")
        return 0
    found = list_jobs(args.root)
    for job in found:
        if args.json:
            line = json.dumps(asdict(job))
        else:
            line = (
                f"{job.state:<11}  {megabytes(job.size):>9}  {job.progress:<18}  {job.folder}   {job.prompt}"
            )
        out.write(line + "\n")
    if not found and not args.json:
        out.write(f"There are no jobs in {args.root}.\n")
    return 0


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
