"""Sets DreamFlow up and runs it: `python build.py setup | demo [PROMPT] | test [PYTEST ARGUMENTS] | package
| accelerators [--from FOLDER]`.

Standard library only, and every Python from 3.9 can run it: it looks for a Python 3.11 to 3.13 itself, makes `.venv`
beside this file and installs the packages of requirements.txt there. It may be interrupted and repeated at any time.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, Optional

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
LOG = ROOT / ".build" / "setup.log"
WINDOWS = os.name == "nt"
VERSIONS = ((3, 11), (3, 12), (3, 13))  # the best tested first

# What says where torch comes from instead of what fits the machine: cpu, cu126, cu130 or a package index's address
TORCH_INDEX_VARIABLE = "DREAMFLOW_TORCH_INDEX"
# by its path: the package itself wants a newer Python
TORCH_RULE = ROOT / "dreamflow_blender" / "setup" / "torch_build.py"

# Blender as a Python module, for the extension's tests: half a gigabyte, and for one version of Python alone
BLENDER = ("bpy==4.5.15", "cython==3.3.1", "zstandard==0.25.0")
BLENDERS_PYTHON = (3, 11)

PROBE = "import sys, venv, ensurepip, ssl; print(*sys.version_info[:2], sys.maxsize > 2**32)"

spec = importlib.util.spec_from_file_location("torch_build", TORCH_RULE)
assert spec is not None and spec.loader is not None
torch_build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(torch_build)


def stop(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(1)


# Finding a Python


def candidates(version: tuple[int, int]) -> Iterator[list[str]]:
    """Commands that may start this Python, the likeliest first."""
    name = f"{version[0]}.{version[1]}"
    if VENV not in Path(sys.executable).parents:  # else we run in what we are about to replace
        yield [sys.executable]
    yield [f"python{name}"]
    if WINDOWS:
        yield ["py", f"-{name}"]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    data = Path(os.environ.get("APPDATA", ".")) if WINDOWS else Path.home() / ".local" / "share"
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or data / "uv" / "python")
    inside = ("python.exe",) if WINDOWS else ("bin", f"python{name}")
    for place, pattern in (
        (pyenv / "versions", f"{name}.*"),
        (pyenv / "pyenv-win" / "versions", f"{name}.*"),
        (uv, f"cpython-{name}*"),
    ):
        for folder in sorted(place.glob(pattern), reverse=True):
            yield [str(folder.joinpath(*inside))]
    framework = f"/Library/Frameworks/Python.framework/Versions/{name}/bin/python{name}"
    yield from ([f"/opt/homebrew/bin/python{name}"], [framework], ["python3"], ["python"])


def works(command: list[str], version: Optional[tuple[int, int]] = None) -> bool:
    """Whether this starts a 64-bit Python, of this version or of any of ours, that can make environments."""
    try:
        ran = subprocess.run(
            [*command, "-c", PROBE], capture_output=True, text=True, timeout=30, env=clean_env()
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    accepted = [version] if version else VERSIONS
    return ran.returncode == 0 and ran.stdout.split() in [[str(a), str(b), "True"] for a, b in accepted]


def find_python() -> list[str]:
    """The command of the Python to build on; ends the program with one sentence if there is none."""
    for version in VERSIONS:
        for command in candidates(version):
            if works(command, version):
                return command
    source = "your system's package manager (python3.11 and python3.11-venv)" if not WINDOWS else "python.org"
    stop(
        f"DreamFlow needs Python 3.11, 3.12 or 3.13 (this is {platform.python_version()}): get 3.11 from {source}."
    )


# Making the environment


def venv_python() -> Path:
    return VENV / ("Scripts/python.exe" if WINDOWS else "bin/python")


def clean_env() -> dict[str, str]:
    """The environment without what would lead another Python astray."""
    misleading = {"PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "PIP_TARGET", "PIP_USER"}
    kept = {k: v for k, v in os.environ.items() if k not in misleading}
    return {**kept, "PYTHONUTF8": "1"}


def wanted(requirements: Path) -> str:
    """A fingerprint of everything that decides what is installed, but for the card."""
    text = os.environ.get(TORCH_INDEX_VARIABLE, "")
    for file in (ROOT / "requirements.txt", requirements, TORCH_RULE):
        text += file.name + file.read_text(encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def is_ready(requirements: Path) -> bool:
    stamp = VENV / f"installed-{requirements.stem}"
    return stamp.is_file() and stamp.read_text() == wanted(requirements) and works([str(venv_python())])


def setup(dev: bool = False, look_again: bool = False) -> None:
    """`.venv` with the packages of requirements.txt, or with those of the tests too; nothing if it is there.

    look_again  whether to set up again where another card or driver now wants another build of torch
    """
    requirements = ROOT / ("requirements-dev.txt" if dev else "requirements.txt")
    ready = is_ready(requirements) or (not dev and is_ready(ROOT / "requirements-dev.txt"))
    if ready and not look_again:
        return None
    try:
        choice = torch_build.decide(os.environ.get(TORCH_INDEX_VARIABLE, "").strip(), torch_build.look())
    except ValueError as error:
        stop(f"{TORCH_INDEX_VARIABLE}: {error}")
    if ready and build_there() == choice.build:
        print(f"  torch: {choice.sentence}")
        return check_torch(choice)
    began = time.monotonic()
    print("Setting up (once; interrupted, it goes on where it was):")
    LOG.parent.mkdir(exist_ok=True)
    LOG.write_bytes(b"")
    python = [str(venv_python())]
    pin = torch_pin()
    if (
        not works(python)
        or subprocess.run([*python, "-m", "pip", "--version"], capture_output=True).returncode
        or (is_installed(pin) and build_there() != choice.build)  # one does not replace the other's libraries
    ):
        base = find_python()
        shutil.rmtree(VENV, ignore_errors=True)
        from_where = shutil.which(base[0]) or base[0]
        run_step(f"Python from {from_where}", [*base, "-m", "venv", "--clear", str(VENV)])
    pip = [*python, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    print(f"  torch: {choice.sentence}")
    if not is_installed(pin):
        (VENV / "torch-build").write_text(choice.build)
        run_step(
            pin.replace("==", " "),
            [*pip, "install", "--progress-bar", "off", *torch_source(pip, pin, choice)],
        )
    run_step("packages", [*pip, "install", "--progress-bar", "off", "-r", str(requirements)])
    check_torch(choice)
    (VENV / f"installed-{requirements.stem}").write_text(wanted(requirements))
    print(f"Ready in {words(time.monotonic() - began)}.")
    return None


def torch_pin() -> str:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return next(line.strip() for line in lines if line.startswith("torch=="))


def build_there() -> str:
    """The build of torch that was chosen for the environment that is there; empty if it does not say."""
    file = VENV / "torch-build"
    return file.read_text() if file.is_file() else ""


def is_installed(pin: str) -> bool:
    """Whether this version of torch, in any build, is there and whole: pip writes the record last."""
    code = (
        "from importlib.metadata import distribution; t = distribution('torch'); "
        "print('torch==' + t.version.split('+')[0] if t.read_text('RECORD') else '')"
    )
    ran = subprocess.run([str(venv_python()), "-c", code], capture_output=True, text=True, env=clean_env())
    return ran.stdout.strip() == pin


def torch_source(pip: list[str], pin: str, choice: Any) -> list[str]:
    """What to tell pip so that torch comes in this build. Ends the program where it cannot be had.

    Without its needs: they come with the other packages, which are fixed.
    """
    for way in torch_build.ways(choice):
        what = ["--no-deps", *(["--index-url", way.address] if way.address else []), pin + way.version]
        brings = would_bring(pip, what)
        if brings is not None and way.only in ("", brings):
            return what
    stop("  " + torch_build.failure(choice, TORCH_INDEX_VARIABLE))


def would_bring(pip: list[str], what: list[str]) -> Optional[str]:
    """The kind of torch that pip would bring, as `torch_build.brought` says it; None if it cannot be had at all."""
    quick = ["--retries", "0", "--timeout", "8", "--quiet", "--dry-run", "--ignore-installed"]
    try:
        ran = subprocess.run(
            [*pip, "install", *quick, "--report", "-", *what],
            capture_output=True, text=True, encoding="utf-8", timeout=90, env=clean_env(),
        )  # fmt: skip
    except (
        subprocess.TimeoutExpired
    ):  # pip is downloading the package to look into it: it is there, and large
        return ""
    return torch_build.brought(ran.stdout) if ran.returncode == 0 else None


def check_torch(choice: Any) -> None:
    """Whether torch starts, and uses the card that its build was chosen for."""
    ran = subprocess.run(
        [str(venv_python()), "-c", torch_build.PROBE], capture_output=True, text=True, encoding="utf-8",
        errors="replace", env=clean_env(),
    )  # fmt: skip
    try:
        version, note = torch_build.verdict(choice, ran.stdout.strip().splitlines()[-1], TORCH_INDEX_VARIABLE)
    except (ValueError, IndexError):
        last = (ran.stderr.strip().splitlines() or [f"code {ran.returncode}"])[-1]
        windows = " On Windows it needs Microsoft's Visual C++ Redistributable." if WINDOWS else ""
        stop(f"  torch was installed and cannot be used ({last}).{windows}")
    print(f"  torch {version} starts" + (f"\n  NOTE: {note}" if note else ""))


def bring_blender() -> str:
    """Blender into the environment of the tests. What says why it is not there, else nothing: they are skipped then."""
    python = str(venv_python())
    probe = "import sys, importlib.util as u; print(*sys.version_info[:2], u.find_spec('bpy') is not None)"
    ran = subprocess.run([python, "-c", probe], capture_output=True, text=True, env=clean_env())
    *version, there = ran.stdout.split() or ["", "False"]
    if there == "True":
        return ""
    if version != [str(part) for part in BLENDERS_PYTHON]:
        return f"{BLENDER[0]} needs Python {'.'.join(map(str, BLENDERS_PYTHON))}, this is {'.'.join(version)}"
    pip = [
        python,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--no-input",
        "install",
        "--progress-bar",
        "off",
    ]
    tail = try_step("Blender for the tests", [*pip, "-c", str(ROOT / "requirements.txt"), *BLENDER])
    return (
        f"{BLENDER[0]} could not be installed ({tail[-1].strip() if tail else LOG})"
        if tail is not None
        else ""
    )


def run_step(name: str, command: list[str]) -> None:
    """Runs a command with one line of progress; its whole output goes to the log. Ends the program if it fails."""
    tail = try_step(name, command)
    if tail is not None:
        shown = "\n".join(f"    {line}" for line in tail)
        stop(f"  {name} failed:\n{shown}\nThe whole output is in {LOG}. Run the same command to try again.")


def try_step(name: str, command: list[str]) -> Optional[list[str]]:
    """The same, but a failure is told: the last lines of its output; None where it has succeeded."""
    began = time.monotonic()
    with LOG.open("a", encoding="utf-8", errors="replace") as log, Ticker(name) as ticker:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
            errors="replace", env=clean_env(), cwd=ROOT,
        )  # fmt: skip
        assert child.stdout is not None
        tail: list[str] = []
        try:
            for line in child.stdout:
                log.write(line)
                tail = [*tail[-14:], line.rstrip()]
                ticker.detail = package_of(line) or ticker.detail
        except KeyboardInterrupt:
            child.wait()
            raise
        code = child.wait()
    if code != 0:
        return tail
    print(f"  {name:<40} {words(time.monotonic() - began):>12}")
    return None


def package_of(line: str) -> str:
    """What a line of pip's says that it is doing; empty if it says nothing of the kind."""
    parts = line.split()
    if len(parts) > 1 and parts[0] in ("Collecting", "Downloading", "Building", "Processing"):
        size = parts[-2] + " " + parts[-1] if parts[0] == "Downloading" and parts[-1].endswith(")") else ""
        return f"{Path(parts[1]).name.split('-')[0].split('=')[0]} {size}".strip()
    return "writing files" if line.startswith("Installing collected packages") else ""


class Ticker:
    """A line that shows what goes on and for how long: redrawn at a terminal, now and then elsewhere."""

    def __init__(self, name: str) -> None:
        self.detail = ""
        self._name, self._began, self._done = name, time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Ticker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _tick(self) -> None:
        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns - 1
        while not self._done.wait(0.5 if terminal else 15):
            line = f"  {self._name}: {self.detail}   {words(time.monotonic() - self._began)}"
            line = f"\r{line[:width]:<{width}}" if terminal else line + "\n"
            print(line, end="", flush=True)
        if terminal:
            print(f"\r{'':<{width}}\r", end="", flush=True)


def words(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    return f"{minutes} min {s} s" if minutes else f"{s} s"


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
    if not arguments:
        for check in (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)):
            code = call("-m", *check)
            if code:
                return code
    return call("-m", "pytest", "-n", "2", *arguments, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")


def package() -> int:
    """The extension's zip and a repository's index.json in dist/; needs no environment, only a Python of ours."""
    return subprocess.call([*find_python(), str(ROOT / ".ci" / "package.py")], env=clean_env())


def call(*arguments: str, **variables: str) -> int:
    """Runs our Python at the root of the repository, with this program's terminal; returns its exit code."""
    sys.stdout.flush()
    child = subprocess.Popen([str(venv_python()), *arguments], cwd=ROOT, env={**clean_env(), **variables})
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
