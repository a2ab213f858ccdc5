"""The command line: `python -m backend generate PROMPT`. Torch is imported when the arguments are known to be good."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from backend.cli import batch as cli_batch
from backend.cli import doctor
from backend.cli import export as cli_export
from backend.cli import jobs as cli_jobs
from backend.cli import models as cli_models
from backend.cli import settings as cli_settings
from backend.cli.arguments import parser, to_job
from backend.cli.display import Display, Json, Live, Plain, show_lines
from backend.cli.jobs import to_go_on
from backend.cli.surroundings import ignore_others
from backend.errors import DreamFlowError, InputError
from backend.interrupts import READER_GONE, Interrupts
from backend.jobs.drive import Begin, Control, End, Events, as_request, begin, begin_again, drive, folder_of
from backend.jobs.folder import job_so_far, read_job
from dreamflow_blender.contract.protocol import Cancelled, Event, Failed, Finished, Job, Resume

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130  # exit codes


def main(arguments: list[str] | None = None, run: Callable[[Job], Events] | None = None) -> int:
    """The exit code. `run` stands in for a job's own work in tests."""
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
        if args.command in ("jobs", "settings", "export"):
            smaller = {"jobs": cli_jobs.run, "settings": cli_settings.run, "export": cli_export.run}
            code = smaller[args.command](args, out)
            out.flush()
            return code
        if args.command in ("compare", "evaluate"):
            from backend.evidence import commands

            return commands.run(args, out)
        if args.command == "batch":
            from backend.batch import commands as batch

            jobs = cli_batch.read_jobs(args)
            return batch.run(
                args, jobs, arguments, out, lambda job, label: Plain(job, out, sys.stderr, label=label).show
            )
        if args.command == "worker":
            from backend.weights.resident import RESIDENT
            from backend.worker.desk import serve

            RESIDENT.keeping = args.keep_models
            serve()
        delivers = args.command in ("generate", "resume") and cli_export.is_wanted(args)
        if delivers:
            cli_export.check(args)
        if args.command == "resume":
            job = read_job(args.folder)
            request: Begin | Finished = begin_again(job) if args.overwrite else Resume(str(args.folder))
        elif args.command == "like":
            job = cli_jobs.more_like(args)
            request = as_request(job)
        elif args.command == "generate" and any((args.candidates, args.until, args.pick)):
            from backend.batch import candidates

            if delivers:
                raise InputError(
                    "Of candidates, the chosen one is delivered.", "Add --deliver and --format to its resume."
                )
            return candidates.run(
                args, to_job(args), out, lambda job, label: Plain(job, out, sys.stderr, label=label).show
            )
        else:
            job = to_job(args)
            request = as_request(job)
            if args.go_on:
                request = job_so_far(job) or request
    except DreamFlowError as error:
        return _refused(error, out, in_json)
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        return FAILED
    with Json(out) if in_json else _for_people(job, out) as display:
        if isinstance(request, Finished):
            display.note("The job is done already: there is nothing to go on with.")
            display.show(request)
            code = OK
        else:
            code = _run(request, display, args.overwrite, begin if run is None else lambda *_: run(job))
    if code != OK or not delivers:
        return code
    try:
        return cli_export.write(args, Path(job.folder), Path(job.folder, "export"), out)
    except DreamFlowError as error:
        return _refused(error, out, in_json)


def _refused(error: DreamFlowError, out: TextIO, in_json: bool) -> int:
    """Say why; the exit code."""
    failed = Failed(error.kind, error.message, error.todo)
    if in_json:
        Json(out).show(failed)
    else:
        print(show_lines(str(error)), file=sys.stderr)
    return _exit_code(failed)


def _run(request: Begin, display: Display, overwrite: bool, run: Callable[[Begin, Control], Events]) -> int:
    """Drive the job, show its events, and let Ctrl-C stop it; the exit code."""
    with Interrupts() as interrupts:
        reader, begun = True, False
        display.note("Loading the models: some seconds, with large ones minutes.")

        def show(event: Event) -> None:
            nonlocal reader, begun
            interrupts.may_wait = begun = True
            try:
                if reader:
                    display.show(event)
            except OSError as error:
                if error.errno not in READER_GONE:
                    raise
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # keep what there is
                reader, interrupts.asked = False, True
            if interrupts.asked and not isinstance(event, End):
                if reader:
                    display.note("Stopping, and keeping what there is. Ctrl-C again stops at once.")
                raise KeyboardInterrupt

        end = drive(request, lambda: None, show, overwrite, run)
        refused = isinstance(end, Failed) and end.kind == InputError.kind and not begun
        may_go_on = (begun or isinstance(request, Resume)) and not isinstance(end, Finished) and not refused
        show(end)
    if may_go_on and reader:
        display.note(to_go_on(folder_of(request)))
    if isinstance(end, Failed) or not reader:
        return _exit_code(end)
    return INTERRUPTED if isinstance(end, Cancelled) else OK


def _for_people(job: Job, out: TextIO) -> Display:
    return Live(job, out, sys.stderr) if out.isatty() else Plain(job, out, sys.stderr)


def _take_stdout() -> TextIO:
    """What is stdout now, for us alone: whatever any library prints from here on goes to stderr."""
    sys.stdout.flush()
    ours = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    return ours


def _exit_code(end: End) -> int:
    return BAD_INPUT if isinstance(end, Failed) and end.kind == InputError.kind else FAILED


if __name__ == "__main__":
    ignore_others(for_the_hub="models" in sys.argv[1:2])
    sys.exit(main())
