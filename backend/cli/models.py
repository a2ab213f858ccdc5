"""`python -m backend models`: what each stage needs, what is here; `models fetch`, `models verify`.

With --json, one object a line: {"event": "model" | "plan" | "progress" | "fetched" | "verified", ...}.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any, TextIO

from backend.errors import ModelError
from dreamflow_blender.contract.wire import show_text

OK, FAILED, INTERRUPTED = 0, 1, 130  # exit codes

BUILT_IN = {
    "mini": "the small Stable Diffusion of DreamFlow's own, with a refiner of its own (the default)",
    "exact": "the optimal denoiser of procedural objects, to compare methods with",
    "exact-compass": "the same, told which side of the object a camera sees, not only that it sees a side",
}

CREDITS = Path(__file__).parents[1] / "mini" / "base" / "CREDITS.txt"

EXAMPLES = """\
examples:
  python -m backend models                      what there is, what is here, where it would come from
  python -m backend models fetch sd --dry-run   which files would be fetched, with their sizes
  python -m backend models fetch                every prior and refiner that is missing; may be stopped and repeated
  python -m backend models find ComfyUI/models  what lies there, and which option takes it
  python -m backend models verify               compare every file with the hash it was fetched with
"""


def add_parser(commands: Any) -> None:
    """Add the command to what `argparse` gave for the subcommands."""
    raw = argparse.RawDescriptionHelpFormatter
    models = commands.add_parser(
        "models", help="list, fetch and verify model weights", epilog=EXAMPLES, formatter_class=raw
    )
    models.add_argument("--json", action="store_true", help="one JSON object a line")
    actions = models.add_subparsers(dest="action", metavar="ACTION")
    fetch = actions.add_parser("fetch", help="fetch what is missing: safetensors, JSON and text only")
    fetch.add_argument("name", nargs="?", metavar="NAME", help="one model (default: all priors and refiners)")
    fetch.add_argument("--dry-run", action="store_true", help="say what would be fetched, and fetch nothing")
    verify = actions.add_parser(
        "verify", help="compare what is here with its hashes; damaged files are removed"
    )
    verify.add_argument("name", nargs="?", metavar="NAME", help="one model (default: all that are here)")
    find = actions.add_parser(
        "find", help="what a folder of ComfyUI's, A1111's or your own holds, and how to use it"
    )
    find.add_argument("folder", type=Path, metavar="FOLDER", help="looked through with all folders in it")
    for action in (fetch, verify, find):  # suppressed: else it would undo the one before the action
        action.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="one JSON object a line"
        )


def run(args: argparse.Namespace, out: TextIO) -> int:
    """The exit code. Raises DreamFlowError."""
    reporter = Reporter(out, args.json)
    try:
        import huggingface_hub.constants  # noqa: F401  reads the user's settings
    except ValueError as error:
        names = sorted(name for name in os.environ if name.startswith("HF_"))
        raise ModelError(
            f"An environment variable of huggingface_hub cannot be read: {error}.",
            f"Look at {', '.join(names)}.",
        ) from error
    try:
        if args.action == "fetch":
            return _fetch(args.name, args.dry_run, reporter)
        if args.action == "verify":
            return _verify(args.name, reporter)
        if args.action == "find":
            return _find(args.folder, reporter)
        return _list(reporter)
    except KeyboardInterrupt:
        reporter.line(
            "Stopped. What has been fetched is kept; the same command goes on from there.", "stopped"
        )
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        return FAILED


class Reporter:
    """Lines for people, or objects for programs."""

    def __init__(self, out: TextIO, as_json: bool) -> None:
        self._out, self._json = out, as_json
        self._live = out.isatty() and not as_json
        self._every = 0.2 if self._live else 1.0 if as_json else 5.0  # seconds between two lines of progress
        self._last, self._open = -self._every, False

    def line(self, text: str, event: str, **values: Any) -> None:
        """`text` for people, `event` and its values for programs."""
        if self._open:
            self._out.write("\n")
            self._open = False
        shown = "\n".join(map(show_text, text.split("\n")))
        self._out.write((json.dumps({"event": event, **values}) if self._json else shown) + "\n")
        self._out.flush()

    def progress(self, name: str, file: str, done: int, total: int, note: str, speed: float) -> None:
        """At most every so often; a note at once."""
        now = time.monotonic()
        if now - self._last < self._every and not note:
            return
        self._last = now
        text = f"  {name}  {100 * done // max(total, 1):3d} %  {_size(done)} of {_size(total)}"
        text += f"  {speed / 1e6:.1f} MB/s  {note or file}"
        if self._live and not note:
            self._out.write(f"\r{text[:110]:<110}")
            self._out.flush()
            self._open = True
        else:
            self.line(text, "progress", name=name, file=file, done=done, total=total, note=note)


def _list(reporter: Reporter) -> int:
    from backend.jobs.priors import built_in_control
    from backend.weights.catalogue import Hub
    from backend.weights.sources import find, known_models, models_file, read_record, shortfall, store

    for name, title in BUILT_IN.items():
        text = f"{name}: {title}\n  here     built in: nothing is fetched"
        more = {"credits": str(CREDITS)} if name == "mini" else {}
        if name == "mini" and built_in_control().is_dir():
            text += "\n  use      --control mini shows it a mesh; Repaint from scratch does so by itself"
        if more:
            text += f"\n  credits  it also learned from real models, by the authors in {CREDITS}"
        reporter.line(text, "built-in", name=name, title=title, **more)
    for model in known_models().values():
        folder = find(model)
        record = read_record(folder) if folder else None
        size = sum(record.sizes.values()) if record else model.approximate_size
        about = "" if record else "about "
        reasons = [shortfall(model, source) for source in model.sources if isinstance(source, Hub)]
        why = next((f"not whole: {reason}" for reason in reasons if reason), "no")
        here = str(folder) if folder else f"{why}; python -m backend models fetch {model.name}"
        rows = {
            "stages": ", ".join(model.stages),
            "size": f"{about}{_size(size)}, fp16 where there is one",
            "memory": f"{model.memory[0]:g} to {model.memory[1]:g} GB; fits cards of {model.cards[0]} GB and more",
            "licence": model.licence,
            "from": ", then ".join(str(source) for source in model.sources),
            "here": here,
        }
        given = [str(path) for path in model.given(folder)] if folder and model.option else []
        if given:
            rows["use"] = f"\n{'':<11}".join(f"{model.option} {path}" for path in given)
        text = f"{model.name}: {model.title} ({model.role})\n"
        reporter.line(
            text + "\n".join(f"  {name:<8} {value}" for name, value in rows.items()),
            "model",
            name=model.name,
            title=model.title,
            role=model.role,
            stages=model.stages,
            licence=model.licence,
            cards=model.cards,
            sources=[str(source) for source in model.sources],
            size=size,
            approximate=not record,
            commit=record.commit if record else None,
            folder=str(folder) if folder else None,
            option=model.option,
            given=given,
        )
    reporter.line(
        f"Fetched to {store()} (HF_HOME); other sources may be named in {models_file()}.",
        "places",
        store=str(store()),
        sources=str(models_file()),
    )
    return OK


def _fetch(name: str | None, dry_run: bool, reporter: Reporter) -> int:
    from backend.weights.fetch import fetch, make_plan
    from backend.weights.sources import find, known_models, model_named

    wanted = [model_named(name)] if name else [each for each in known_models().values() if not each.option]
    for model in wanted:
        folder = find(model)
        if folder:
            reporter.line(f"{model.name} is here: {folder}", "fetched", name=model.name, folder=str(folder))
            continue
        plan = make_plan(model)
        files = {file.path: file.size for file in plan.files}
        missing = plan.total - sum(plan.here(file) for file in plan.files)
        verb = "would be fetched" if dry_run else "to fetch"
        lines = [
            f"{model.name}: {_size(missing)} of {_size(plan.total)} {verb} from {plan.source} ({plan.commit[:12]})",
            f"  to {plan.folder}, licence {model.licence}",
            *(f"  {_size(size):>10}  {path}" for path, size in files.items() if dry_run),
        ]
        reporter.line(
            "\n".join(lines),
            "plan",
            name=model.name,
            source=str(plan.source),
            commit=plan.commit,
            folder=str(plan.folder),
            total=plan.total,
            missing=missing,
            files=files,
        )
        if dry_run:
            continue
        began, first = time.monotonic(), -1
        for step in fetch(plan):
            first = step.done if first < 0 else first
            speed = (step.done - first) / max(time.monotonic() - began, 1e-3)
            reporter.progress(model.name, step.file, step.done, step.total, step.note, speed)
        reporter.line(
            f"{model.name} is here: {plan.folder}", "fetched", name=model.name, folder=str(plan.folder)
        )
    return OK


def _verify(name: str | None, reporter: Reporter) -> int:
    from backend.weights.fetch import verify
    from backend.weights.sources import (
        find_to_verify,
        known_models,
        model_named,
        read_record,
        require,
        tokenizer_problem,
    )

    damaged = 0
    for model in [model_named(name)] if name else known_models().values():
        folder = find_to_verify(model)
        if folder is None:
            if name:
                require(name)
            reporter.line(f"{model.name} is not here", "verified", name=model.name, folder=None, damaged={})
            continue
        recorded = read_record(folder) is not None
        problems = {}
        checked = 0
        for path, problem in verify(folder):
            checked += 1
            if problem:
                problems[path] = problem
                # ours, and of no use; the user's own folders and the hub's cache are left as they are
                if recorded:
                    _remove(folder / path)
        removed = bool(problems) and recorded
        if not problems and (problem := tokenizer_problem(model, folder)):
            problems["tokenizer"] = f"is not as published: {problem}"
        how = "hash" if recorded else "header; no hash was recorded"
        text = f"{model.name}: {checked} files checked by {how}, {len(problems)} damaged ({folder})"
        text += "".join(f"\n  {path} {problem}" for path, problem in problems.items())
        if problems and recorded:
            text += (
                f"\n  {'Removed. ' if removed else ''}To mend it: python -m backend models fetch {model.name}"
            )
        reporter.line(
            text, "verified", name=model.name, folder=str(folder), hashes=recorded, damaged=problems
        )
        damaged += len(problems)
    return FAILED if damaged else OK


def _find(folder: Path, reporter: Reporter) -> int:
    from backend.weights.find import find_models

    count = 0
    for found in find_models(folder.expanduser()):
        count += bool(found.option)
        text = f"{found.option or 'not used':<15} {found.path}\n{'':<15} {found.what}"
        reporter.line(text, "found", path=str(found.path), what=found.what, option=found.option)
    if not count:
        none = f"{folder} holds no model that can be used."
        reporter.line(none, "failed", message=none, todo="Choose another folder.")
    return OK if count else FAILED


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(
            f"{path} is damaged and cannot be removed ({error}).", "Remove it yourself."
        ) from error


def _size(count: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count} bytes"
