"""The command line: `python -m backend generate PROMPT`. Torch is imported when the arguments are known to be good."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from pathlib import Path
from types import FrameType
from typing import TextIO

from backend.cli import doctor
from backend.cli import jobs as cli_jobs
from backend.cli import models as cli_models
from backend.cli.arguments import parser, to_job, to_refine_job
from backend.cli.display import Display, Json, Live, Plain
from backend.errors import DreamFlowError, InputError
from backend.jobs.failures import explain
from backend.jobs.folder import (
    EventLog,
    claim_folder,
    clear_folder,
    read_job,
    release,
)
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import (
    Cancelled,
    Event,
    Failed,
    Finished,
    Job,
)

Run = Callable[[Job], Generator[Event, None, None]]
OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130  # exit codes
SPIN = "30000"  # rounds, 0.1 ms, that torch's idle threads wait awake: libgomp's own 300,000 take the cores from Warp's


def main(arguments: list[str] | None = None, run: Run | None = None) -> int:
    """The exit code. `run` stands in for backend.jobs.generate.generate in tests."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN)  # read when torch is imported
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a Windows console with a codepage of its own, say
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    arguments = sys.argv[1:] if arguments is None else arguments
    in_json = "--json" in arguments  # even if the rest cannot be parsed
    out = _take_stdout() if in_json else sys.stdout
    try:
        args = parser().parse_args(arguments)
        if args.command == "models":
            return cli_models.run(args, out)
        if args.command == "doctor":
            return doctor.carry_out(args.json, out)
        if args.command == "jobs":
            return cli_jobs.carry_out(args, out)
        if args.command == "worker":
            from backend.worker.desk import serve

            serve()
        if args.command == "resume":
            job, made = read_job(args.folder), []
        else:
            job = to_refine_job(args) if args.command == "refine" else to_job(args)
            made = claim_folder(Path(job.folder), args.overwrite)
    except DreamFlowError as error:
        failed = Failed(error.kind, error.message, error.todo)
        if in_json:
            Json(out).show(failed)
        else:
            print(error, file=sys.stderr)
        return _exit_code(failed)
    display: Display = Json(out) if in_json else _for_people(job, out)
    with display:
        return _carry_out(job, made, run or _pipeline(args.command), display, args.command == "resume")


def _carry_out(job: Job, made: list[Path], run: Run, display: Display, goes_on: bool) -> int:
    """Runs the job, shows and records its events, and turns whatever stops it into its last one.

    made     the folders to remove again where the job cannot begin
    goes_on  from what there is in the folder
    """
    folder = Path(job.folder)
    log: EventLog | None = None  # from the first event on: a job that cannot begin leaves nothing behind
    try:
        with Interrupts() as interrupts, closing(run(job)) as events:
            last: Event | None = None
            try:
                for last in events:
                    if log is None:
                        if not goes_on:
                            clear_folder(folder, job.mesh)
                        log = EventLog(folder)
                        interrupts.may_wait = True
                    log.write(last)
                    display.show(last)
                    if interrupts.asked and not isinstance(last, Finished):
                        display.note("Stopping, and keeping what there is. Ctrl-C again stops at once.")
                        events.close()
                        break
            except KeyboardInterrupt:
                interrupts.asked = True
                events.close()
            if interrupts.asked and not isinstance(last, Finished):
                cancelled = Cancelled(JobFolder(folder).result_files() if log else {})
                if log:
                    log.write(cancelled)
                display.show(cancelled)
                return INTERRUPTED
        return OK
    except BrokenPipeError:  # whoever read our output has gone; the pipeline has kept what there is
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    except Exception as error:  # noqa: BLE001  the outermost edge: nothing may end without a word
        failed = explain(error, folder)
        with suppress(DreamFlowError):  # a full disk, say: perhaps the very failure that is reported
            if log is None and failed.kind == DreamFlowError.kind:
                log = EventLog(folder)
            if log:
                log.write(failed)
        display.show(failed)
        return _exit_code(failed)
    finally:
        if log:
            log.close()
        else:
            release(made)


class Interrupts:
    """Lets the first Ctrl-C wait for the end of an iteration, once there is something to keep."""

    def __init__(self) -> None:
        self.asked = False
        self.may_wait = False

    def __enter__(self) -> Interrupts:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked or not self.may_wait:
            raise KeyboardInterrupt
        self.asked = True


def _pipeline(command: str) -> Run:
    """The command's part of the pipeline, which is imported when it runs: torch and all else, some seconds."""

    def run(job: Job) -> Generator[Event, None, None]:
        from backend.jobs import generate, resume

        if command == "refine":
            from backend.jobs.refine import refine

            yield from refine(job)
        else:
            yield from resume.resume(Path(job.folder)) if command == "resume" else generate.generate(job)

    return run


def _for_people(job: Job, out: TextIO) -> Display:
    return Live(job, out, sys.stderr) if out.isatty() else Plain(job, out, sys.stderr)


def _take_stdout() -> TextIO:
    """What is stdout now, for us alone: whatever any library prints from here on goes to stderr."""
    sys.stdout.flush()
    ours = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    return ours


def _exit_code(failed: Failed) -> int:
    return BAD_INPUT if failed.kind == InputError.kind else FAILED


if __name__ == "__main__":
    sys.exit(main())
