"""The command line's smaller commands: their arguments, and `jobs` itself."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import uuid
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TextIO

from backend.cli import export
from backend.errors import InputError
from dreamflow_blender.contract.job import Job
from dreamflow_blender.contract.options import typed, whole_number
from dreamflow_blender.contract.wire import BadMessage, show_text

EXAMPLES = """\
examples:
  python -m backend jobs                        the jobs below out/: what became of them, and how large they are
  python -m backend jobs list --root elsewhere  those below another folder
  python -m backend jobs show out/a-red-mug-42  one of them: its settings, its files, and how to go on with it
  python -m backend jobs rm out/a-red-mug-42    remove a job's files, and its folder where nothing else lies in it
  python -m backend jobs clean                  remove the checkpoints of finished jobs, and of candidates not chosen
"""

RESUME_EXAMPLES = """\
examples:
  python -m backend resume out/a-red-mug-42
  python -m backend resume out/a-red-mug-42 --json > events.jsonl

`generate` and `refine` do the same with --continue, and begin the job where there is none yet.
"""

LIKE_EXAMPLES = """\
examples:
  python -m backend like out/a-red-mug-42
  python -m backend like out/a-red-mug-42 --seed 7 --out mugs/another

It runs with the other job's prompt, settings and models, and begins with the same bytes: that half is made again.
"""

WORKER_EXAMPLES = """\
examples:
  python examples/minimal_client.py "a red mug" out/mug
"""


def add(commands: argparse._SubParsersAction[Any]) -> None:
    """Their arguments."""
    raw = argparse.RawDescriptionHelpFormatter
    r = commands.add_parser(
        "resume", help="go on with a job that was stopped", description="Go on from a job's newest checkpoint.",
        epilog=RESUME_EXAMPLES, formatter_class=raw,
    )  # fmt: skip
    r.add_argument("folder", metavar="FOLDER", type=Path, help="the job's folder")
    r.add_argument("--overwrite", action="store_true", help="begin the job again, with what is there now")
    export.add_options(r)
    export.add_sizes(r)
    r.add_argument("--json", action="store_true", help="one JSON event a line, and nothing else on stdout")
    k = commands.add_parser(
        "like", help="make another object like this one",
        description="Begin as another job did, and from half of stage 1 on use another seed.",
        epilog=LIKE_EXAMPLES, formatter_class=raw,
    )  # fmt: skip
    k.add_argument("folder", metavar="FOLDER", type=Path, help="the other job's folder, a candidate's too")
    k.add_argument(
        "--seed", metavar="N", type=typed(whole_number), help="from there on (default: its own, and one)"
    )
    k.add_argument("--out", metavar="DIR", type=Path, help="the job's folder (default: FOLDER-like-SEED)")
    k.add_argument("--overwrite", action="store_true", help="replace an older job in the folder")
    k.add_argument("--json", action="store_true", help="one JSON event a line, and nothing else on stdout")
    j = commands.add_parser(
        "jobs", help="list, show, remove jobs, or clean up after them", description="List jobs.",
        epilog=EXAMPLES, formatter_class=raw,
    )  # fmt: skip
    j.add_argument(
        "what", nargs="?", choices=("list", "show", "rm", "clean"), default="list",
        help="clean removes the checkpoints of finished jobs, rm a whole job",
    )  # fmt: skip
    j.add_argument("folder", nargs="?", metavar="FOLDER", type=Path, help="the job's folder, for show and rm")
    j.add_argument(
        "--root", metavar="DIR", type=Path, default=Path("out"), help="where to look (default: out)"
    )
    j.add_argument("--json", action="store_true", help="one JSON object a line")
    w = commands.add_parser(
        "worker",
        help="serve one client on standard input and output",
        description="Requests in, events out, one JSON object a line: dreamflow_blender/contract/protocol.py.",
        epilog=WORKER_EXAMPLES,
        formatter_class=raw,
    )
    w.add_argument(
        "--keep-models", action="store_true",
        help="between jobs, in the machine's memory, where there is room",
    )  # fmt: skip


def more_like(args: argparse.Namespace) -> Job:
    """The job of `like`. Raises InputError and DiskError."""
    from backend.jobs.folder import read_job
    from backend.jobs.record import recorded_threads

    job = read_job(args.folder)
    if job.kind == "refine":
        raise InputError(
            f"The job in {args.folder} refined an object: it has no stage 1 to begin with.",
            "Give the folder of a generated one, or refine with another --seed.",
        )
    seed = job.seed + 1 if args.seed is None else args.seed
    folder = args.out or args.folder.with_name(f"{args.folder.name}-like-{seed}")
    threads = recorded_threads(args.folder)  # on a processor they are part of the bytes
    new = uuid.uuid4().hex[:12]
    try:
        return replace(job, id=new, folder=str(folder), seed=seed, like=job.first_seed, threads=threads)
    except BadMessage as error:
        raise InputError(str(error), "See python -m backend like --help.") from error


def run(args: argparse.Namespace, out: TextIO) -> int:
    """`jobs`; the exit code. Raises DreamFlowError."""
    if (args.folder is None) == (args.what in ("show", "rm")):
        need = "one job's folder" if args.folder is None else "no folder, but --root DIR"
        raise InputError(f"jobs {args.what} takes {need}.", "See python -m backend jobs --help.")
    return {"list": _list, "show": _show, "rm": _remove, "clean": _clean}[args.what](args, out)


def _list(args: argparse.Namespace, out: TextIO) -> int:
    from backend.jobs.listing import list_jobs

    found = False
    for job in list_jobs(args.root):
        found = True
        if args.json:
            out.write(json.dumps(asdict(job)) + "\n")
        else:
            about = f"{job.state:<11}  {megabytes(job.size):>9}  {job.progress:<18}"
            out.write(show_text(f"{about}  {job.folder}   {job.prompt}") + "\n")
    if not found and not args.json:
        out.write(f"There are no jobs in {show_text(str(args.root))}.\n")
    return 0


def _show(args: argparse.Namespace, out: TextIO) -> int:
    from backend.jobs.folder import read_job
    from backend.jobs.listing import look
    from dreamflow_blender.contract.jobfolder import JobFolder

    listed, job = look(args.folder), read_job(args.folder)
    files = JobFolder(args.folder)
    record = {"job": asdict(job), **asdict(listed), "files": files.recoverable_files()}
    if args.json:
        out.write(json.dumps(record) + "\n")
        return 0
    default = Job("0", job.kind, "x", "x", mesh=job.mesh)
    changed = {name: value for name, value in asdict(job).items() if value != asdict(default)[name]}
    for name in ("id", "kind", "prompt", "folder", "overrides"):
        changed.pop(name, None)
    rows = {
        "prompt": job.prompt, "kind": job.kind, "state": f"{listed.state}  {listed.progress}".strip(),
        "size": megabytes(listed.size), **{name: str(value) for name, value in changed.items()},
        "set": "  ".join(f"{name}={json.dumps(value)}" for name, value in job.overrides.items()),
        "files": "  ".join(record["files"]),
    }  # fmt: skip
    out.writelines(show_text(f"{name:<12} {value}") + "\n" for name, value in rows.items() if value)
    if listed.state not in ("running", "finished", "unreadable"):
        out.write(show_text(to_go_on(args.folder)) + "\n")
    return 0


def _remove(args: argparse.Namespace, out: TextIO) -> int:
    from backend.jobs.listing import remove_job

    freed, left = remove_job(args.folder)
    said = f"Freed {megabytes(freed)}."
    if left:
        said += f" Left as they are, since no job made them: {', '.join(map(show_text, left[:5]))}."
    out.write((json.dumps({"freed": freed, "left": left}) if args.json else said) + "\n")
    return 0


def _clean(args: argparse.Namespace, out: TextIO) -> int:
    from backend.jobs.listing import clean_jobs

    freed = clean_jobs(args.root)
    out.write((json.dumps({"freed": freed}) if args.json else f"Freed {megabytes(freed)}.") + "\n")
    return 0


def to_go_on(folder: Path) -> str:
    """The line that ends every stop, with a command that can be copied."""
    words = ["python", "-m", "backend", "resume", str(folder)]
    return f"To go on: {subprocess.list2cmdline(words) if sys.platform == 'win32' else shlex.join(words)}"


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
