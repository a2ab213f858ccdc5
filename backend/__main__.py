"""The command line: `python -m backend generate PROMPT`. Torch is imported when the arguments are known to be good."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import uuid
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from backend import __version__, doctor, models_command, refine_command
from backend import commands as smaller
from backend.errors import DreamFlowError, InputError
from backend.explain import explain
from backend.job import (
    EventLog,
    claim_folder,
    clean_prompt,
    clear_folder,
    default_folder,
    read_job,
    release,
    results,
)
from backend.terminal import Display, Json, Live, Plain
from dreamflow_blender.contract.protocol import (
    DEVICES,
    MAX_SEED,
    PRESETS,
    STAGES,
    BadMessage,
    Cancelled,
    Event,
    Failed,
    Finished,
    Job,
    clean_text,
)
from dreamflow_blender.contract.settings import read_setting

Run = Callable[[Job], Generator[Event, None, None]]

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130  # exit codes
SPIN = "30000"  # rounds, 0.1 ms, that torch's idle threads wait awake: libgomp's own 300,000 take the cores from Warp's

EXAMPLES = """\
examples:
  python -m backend generate "a red mug"
  python -m backend generate "a blue teapot with a yellow lid" --preset fast --seed 7 --out teapots/blue
  python -m backend generate "a red duck" --set delivery.max_faces=null --set delivery.texture_size=2048
  python -m backend generate "a green tree" --stages nerf,geometry,texture --json > events.jsonl
  python -m backend generate "an astronaut" --prior models/sd-2.1 --refiner models/sdxl-refiner --device cuda

Ctrl-C stops after the iteration at work and keeps what there is; pressed twice, it stops at once.
Exit codes: 0 done, 1 failed, 2 the request cannot be carried out as written, 130 stopped by Ctrl-C.
"""


class Parser(argparse.ArgumentParser):
    """Raises InputError instead of leaving the process."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[:1].upper()}{message[1:]}.", f"See {self.prog} --help.")


def whole_number(text: str) -> int:
    try:
        number = int(text)
    except ValueError as error:  # also what int says to more than 4,300 digits
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text[:40]!r}") from error
    if abs(number) >= 2**63:
        raise argparse.ArgumentTypeError(f"expected a number of at most 18 digits, got {text[:40]!r}")
    return number


def setting(text: str) -> tuple[str, Any]:
    """ "nerf.levels=400" as its name and its value."""
    try:
        return read_setting(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    top = Parser("python -m backend", description="DreamFlow: a prompt becomes a textured mesh.")
    top.add_argument("--version", action="version", version=f"DreamFlow {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    g = commands.add_parser(
        "generate",
        help="make a textured mesh from a prompt",
        description="Make a textured mesh from a prompt: mesh.glb, albedo.png and pictures in a folder of its own.",
        epilog=EXAMPLES,
        formatter_class=raw,
        allow_abbrev=False,
    )
    g.add_argument("prompt", metavar="PROMPT", help='what to make, as in "a red mug"')
    g.add_argument("--out", metavar="DIR", type=Path, help="the job's folder (default: out/PROMPT-SEED)")
    g.add_argument("--preset", choices=PRESETS, default="draft", help="how well, how long (default: draft)")
    a_prior = "mini, sd, exact, or a folder in diffusers' layout"
    g.add_argument("--prior", metavar="NAME_OR_FOLDER", default="mini", help=f"{a_prior} (default: mini)")
    its_own = "the one that belongs to the prior"
    g.add_argument("--refiner", metavar="NAME_OR_FOLDER", default="", help=f"{a_prior} (default: {its_own})")
    its_choice = "sd-phi for sd where it has been fetched, else shared"
    g.add_argument(
        "--phi", metavar="NAME_OR_FOLDER", default="",
        help=f"D_phi's own model, or shared: the prior's network, which takes less memory (default: {its_choice})",
    )  # fmt: skip
    g.add_argument("--seed", metavar="N", type=whole_number, default=42, help=f"0 to {MAX_SEED} (default: 42)")
    g.add_argument("--stages", metavar="LIST", default=",".join(STAGES), help="default: %(default)s")
    g.add_argument("--negative", metavar="TEXT", default="", help="what it should not look like")
    g.add_argument("--device", choices=DEVICES, default="auto", help="where to compute (default: auto)")
    g.add_argument("--threads", metavar="N", type=whole_number, default=0, help="of the CPU (default: automatic)")
    g.add_argument(
        "--set",
        metavar="STAGE.SETTING=VALUE",
        type=setting,
        action="append",
        default=[],
        help="replace one of the preset's settings, as in nerf.levels=400 or delivery.max_faces=null (full detail)",
    )
    g.add_argument("--overwrite", action="store_true", help="replace an older job in the folder")
    g.add_argument("--json", action="store_true", help="one JSON event a line, and nothing else on stdout")
    refine_command.add(commands, whole_number, setting)
    models_command.add_parser(commands)
    doctor.add_parser(commands)
    smaller.add(commands)
    return top


def to_job(args: argparse.Namespace) -> Job:
    """The job that the arguments describe; raises InputError."""
    prompt = clean_prompt(args.prompt)
    folder = args.out or default_folder(prompt, args.seed, Path("out"))
    try:
        return Job(
            id=uuid.uuid4().hex[:12],
            kind="generate",
            prompt=prompt,
            folder=str(folder),
            negative=clean_text(args.negative),
            seed=args.seed,
            preset=args.preset,
            prior=args.prior,
            refiner=args.refiner,
            phi=args.phi,
            stages=tuple(name.strip() for name in args.stages.split(",")),
            device=args.device,
            threads=args.threads,
            overrides=dict(args.set),
        )
    except BadMessage as error:
        raise InputError(str(error), "See python -m backend generate --help.") from error


def main(arguments: list[str] | None = None, run: Run | None = None) -> int:
    """The exit code. `run` stands in for backend.pipeline.generate in tests."""
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
            return models_command.run(args, out)
        if args.command == "doctor":
            return doctor.carry_out(args.json, out)
        if args.command in smaller.NAMES:
            return smaller.carry_out(args, out)
        if args.command == "resume":
            job, made = read_job(args.folder), []
        else:
            job = refine_command.to_job(args) if args.command == "refine" else to_job(args)
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
                            clear_folder(folder)
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
                cancelled = Cancelled(results(folder) if log else {})
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
        from backend import pipeline

        if command == "refine":
            from backend.refine import refine

            yield from refine(job)
        else:
            yield from pipeline.resume(Path(job.folder)) if command == "resume" else pipeline.generate(job)

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
