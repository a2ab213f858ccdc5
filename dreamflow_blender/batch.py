"""Without a window: prompts and lists of prompts on the command line. For Python see api.py.

    blender -b -P dreamflow_blender/batch.py -- --prompts prompts.txt --out DIR [--blend] [--preset draft]
    blender -c dreamflow generate --prompt "a red mug" --out DIR

Blocking, and the same code as the button. As a bare script it finds its package next to it: from a clone
and from the installed folder, whether the extension is enabled, disabled or absent.
"""

from __future__ import annotations

# ruff: noqa: T201  this is a command line
import sys
from pathlib import Path

if not __package__:  # `blender -P`: this file alone, with nothing on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from dreamflow_blender import batch as _batch

    _after = sys.argv.index("--") + 1 if "--" in sys.argv else len(sys.argv)
    sys.exit(_batch.main(sys.argv[_after:]))

import argparse
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn

import bpy

from .backlog import work
from .client.client import Client
from .contract import words
from .contract.files import write_json
from .contract.jobfolder import JobFolder, slug
from .contract.language.notation import refuse_for
from .contract.options import add_options, typed
from .contract.prompts import (
    OPTIONS,
    BadPrompts,
    Line,
    in_shard,
    job_fields,
    read_prompts,
    read_shard,
    shard_of_array,
)
from .contract.protocol import Event, Job, Progress, Started, Warning
from .contract.settings import read_setting
from .scene import assets, glb_height, objects
from .session import models, service

OK, SOME_FAILED, BAD_INPUT = 0, 1, 2  # exit codes; 128 and a signal's number after it, as a shell has them
CLOSE_SECONDS = 2.5  # for the worker, when stopped by a signal


class Interrupted(KeyboardInterrupt):
    """A signal has come: `code` is the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit code {code}")
        self.code = code


@contextmanager
def interruptible() -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP (unless ignored: nohup) raises Interrupted, further ones do nothing.

    Blender's own handler exits with 2.
    """
    heard: list[int] = []

    def handler(number: int, frame: object) -> None:
        if not heard:
            heard.append(number)
            raise Interrupted(128 + number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        numbers.append(hangup)
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, old in zip(numbers, before, strict=True):
            signal.signal(number, signal.SIG_DFL if old is None else old)


@dataclass
class Row:
    """One prompt in the report."""

    prompt: str
    seed: int
    state: str  # "done", "skipped", "failed", "stopped"
    folder: str
    seconds: float = 0.0
    files: dict[str, str] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    error: dict[str, str] = field(default_factory=dict)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadPrompts(f"{message[:1].upper()}{message[1:]}. See --help.")


def _parser(program: str) -> argparse.ArgumentParser:
    p = _Parser(
        program, description="Make textured meshes from prompts, without a window.", allow_abbrev=False
    )
    p.add_argument(
        "--prompt", action="append", default=[], metavar="TEXT", help="what to make; may be repeated"
    )
    p.add_argument("--prompts", type=Path, metavar="FILE", help="one a line, or a CSV with a header")
    p.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="a folder for each prompt goes here"
    )
    p.add_argument("--blend", action="store_true", help="save each object as object.blend, too")
    p.add_argument("--height", type=float, default=1.0, metavar="M", help="metres (default: 1)")
    add_options(p, OPTIONS)
    p.add_argument("--faces", type=int, default=0, metavar="N", help="at most (default: the preset's)")
    p.add_argument("--texture", type=int, default=0, metavar="PX", help="a side (default: the preset's)")
    p.add_argument(
        "--set", action="append", default=[], metavar="STAGE.SETTING=VALUE", type=typed(read_setting)
    )
    p.add_argument(
        "--shard", metavar="I/N", type=typed(read_shard),
        help="only the I-th of N shares of the list (default: a SLURM array job's own)",
    )  # fmt: skip
    p.add_argument("--python", type=Path, metavar="FILE", help="the backend's Python (default: as set up)")
    p.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="default: DIR/report.json, or report-I-of-N.json",
    )
    return p


def command(arguments: list[str]) -> int:
    """`blender -c dreamflow ...`: the exit code."""
    if arguments[:1] != ["generate"]:
        print("usage: blender -c dreamflow generate --prompt TEXT --out DIR   (generate --help says more)")
        return OK if arguments[:1] in ([], ["--help"], ["-h"]) else BAD_INPUT
    return main(arguments[1:], "blender -c dreamflow generate")


def main(arguments: list[str], program: str = "blender -b -P batch.py --") -> int:
    """The exit code: 0 all done, 1 some failed, 2 the request cannot be carried out as written, 130 or 143 stopped."""
    try:
        args = _parser(program).parse_args(arguments)
        jobs = _jobs(args)
        args.out.mkdir(parents=True, exist_ok=True)
    except (BadPrompts, OSError) as error:
        print(f"dreamflow: {error}", file=sys.stderr)
        return BAD_INPUT
    except SystemExit as end:  # --help
        return int(end.code or 0)
    part = "-{}-of-{}".format(*args.shard) if args.shard else ""  # of an array job, each has its own
    report = args.report or args.out / f"report{part}.json"
    interpreter = args.python or service.python()
    if interpreter is None:
        print("dreamflow: not set up; press Set up in the preferences, or name a --python.", file=sys.stderr)
        return SOME_FAILED
    client = service.make_client(interpreter, args.out.resolve())
    rows: list[Row] = []
    with interruptible():
        try:
            for number, (job, height) in enumerate(jobs, 1):
                rows.append(Row(job.prompt, job.seed, "stopped", ""))
                _one(client, job, height, args, f"[{number}/{len(jobs)}]", rows[-1])
                _write(report, rows)
        except Interrupted as stop:
            client.close(CLOSE_SECONDS)  # the job keeps its newest checkpoint
            _write(report, rows)
            print("dreamflow: stopped; the same command resumes.", file=sys.stderr, flush=True)
            return stop.code
        finally:
            client.close()
    failed = sum(row.state == "failed" for row in rows)
    print(f"dreamflow: {len(rows) - failed} of {len(rows)} done, report in {report}", flush=True)
    return SOME_FAILED if failed else OK


def _jobs(args: argparse.Namespace) -> list[tuple[Job, float]]:
    """All of them, checked before the first begins. Raises BadPrompts."""
    lines = [Line(0, text.strip()) for text in args.prompt]
    if args.prompts:
        lines += read_prompts(args.prompts)
    if not lines:
        raise BadPrompts("Give a prompt with --prompt or --prompts.")
    jobs = [_job(line, args) for line in lines]
    try:
        args.shard = args.shard or shard_of_array()
    except ValueError as error:
        raise BadPrompts(f"This array job does not say its shard: {error}.") from error
    return [(job, height) for job, height in jobs if in_shard(job, args.shard)]


def _job(line: Line, args: argparse.Namespace) -> tuple[Job, float]:
    try:
        job = work.new_job(args.out, line.prompt, snapshot_faces=0, **job_fields(line, vars(args)))
        if job.prior == work.BUILT_IN:
            models.read_as(job.prompt, job.negative)
        refuse_for((job.prior, job.texturer, job.refiner), job.prompt, job.negative)
    except ValueError as error:
        raise BadPrompts(f"{f'Line {line.number}: ' if line.number else ''}{error}") from error
    height = float(line.values.get("height", args.height))
    if not 0 < height <= objects.MAX_HEIGHT:  # nan is neither
        where = f"Line {line.number}: " if line.number else ""
        raise BadPrompts(
            f"{where}The height must be more than 0 and at most {objects.MAX_HEIGHT:g} metres, not {height:g}."
        )
    return job, height


def _one(client: Client, job: Job, height: float, args: argparse.Namespace, label: str, row: Row) -> None:
    """An error with one prompt is reported in its row, and the next prompt is run."""
    began = time.monotonic()
    log = BatchLog(f"{label} {job.prompt}", row)
    try:
        folder = args.out.resolve() / f"{slug(job.prompt)}-{job.seed}"
        job, how = work.in_folder(job, folder)
        row.folder = job.folder
        blend = Path(job.folder) / "object.blend"
        if how == "done":
            row.files = JobFolder(job.folder).result_files()
        else:
            log.line("resumes" if how == "resume" else "begins")
            finished = work.run_job(client, job, how, log.hear)
            row.files, row.figures = finished.paths, finished.figures
        mesh = JobFolder(job.folder).mesh_glb
        resized = glb_height.stand(mesh, height) if mesh.name in row.files else False
        if args.blend and (resized or not blend.is_file()):
            _save_blend(job, height, blend)
        if args.blend:
            row.files["object.blend"] = str(blend)
        row.state = "skipped" if how == "done" else "done"
    except work.JobFailed as error:
        row.state = "failed"
        row.error = {k: v for k, v in vars(error.failed).items() if v}
    except work.JobCancelled:
        row.state = "failed"
        row.error = {"kind": "cancelled", "message": "The job was stopped."}
    except (objects.CannotImport, OSError, RuntimeError) as error:
        row.state = "failed"
        row.error = {"kind": "file", "message": str(error)}
    row.seconds = round(time.monotonic() - began, 1)
    log.line(row.error.get("message", "") or f"{row.state}, {words.duration(row.seconds)}: {row.folder}")


def _save_blend(job: Job, height: float, path: Path) -> None:
    """The object alone in a file of its own; the file that Blender was started with is not touched on disk."""
    bpy.ops.wm.read_homefile(use_empty=True)
    result = objects.read_result(Path(job.folder))
    obj = objects.add_result(result, job.prompt, height, (0, 0, 0), "DreamFlow", bpy.context.scene)
    assets.mark(obj, job.prompt, JobFolder(job.folder).preview)
    temporary = path.with_name("object.part.blend")
    bpy.ops.wm.save_as_mainfile(filepath=str(temporary), copy=True, check_existing=False)
    temporary.replace(path)


class BatchLog:
    """A line for each stage and every tenth of it."""

    def __init__(self, label: str, row: Row) -> None:
        self._label, self._row = label, row
        self._last = ("", -1)

    def line(self, text: str) -> None:
        print(f"{self._label}: {text}", flush=True)

    def hear(self, event: Event) -> None:
        if isinstance(event, Started):
            self.line(event.stage)
        elif isinstance(event, Warning):
            self._row.warnings = [*self._row.warnings[-19:], event.message]
            self.line(f"note: {event.message}")
        elif isinstance(event, Progress) and event.total:
            tenth = 10 * event.iteration // event.total
            if (event.stage, tenth) != self._last and tenth:
                self._last = (event.stage, tenth)
                left = f", {words.clock(event.seconds_left)} left" if event.seconds_left is not None else ""
                self.line(f"{event.stage} {10 * tenth} %{left}")


def _write(path: Path, rows: list[Row]) -> None:
    counts = {
        state: sum(row.state == state for row in rows) for state in ("done", "skipped", "failed", "stopped")
    }
    write_json(path, {**counts, "prompts": [vars(row) for row in rows]})
