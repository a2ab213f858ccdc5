"""Renews the figures in docs/: runs each command that a page names, and writes what it prints over the old.

    python -m benchmarks.all [--list] [--only WORD]

In a page, figures that one command makes stand between `<!-- figures -->` and a line
"Measured by `COMMAND` at `COMMIT`, in N minutes of processor." (of an AMD EPYC). --list says what there is and how long
it took. What is being measured has to be committed, so that the commit can be named.
"""

from __future__ import annotations

import argparse
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIGURES = re.compile(
    r"<!-- figures -->\n(?P<figures>.*?)\n*Measured by `(?P<command>[^`]+)` at `\w+`(?P<time>[^\n]*?)\.\n",
    re.DOTALL,
)


def measured(command: str) -> str:
    """What the command prints, as Markdown, and the line that says where it comes from. SystemExit where it fails."""
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    python, *rest = shlex.split(command)
    assert python == "python", command
    done = subprocess.run([sys.executable, *rest], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1) or "Traceback" in done.stderr:  # 1: a figure misses what is wanted
        sys.exit(f"{command} ended with {done.returncode}:\n{done.stderr}")
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    minutes = (ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime) / 60
    lines = done.stdout.strip("\n").split("\n")
    if not lines[0].startswith("|"):
        lines = [f"    {line}".rstrip() for line in lines]
    source = f"Measured by `{command}` at `{commit()}`, in {minutes:.1f} minutes of processor."
    return "\n".join(("<!-- figures -->", *lines, "", source, ""))


def commit() -> str:
    """The newest one. SystemExit where the code has changed since."""
    changed = git("status", "--porcelain", "--", "backend", "benchmarks", "dreamflow_blender", "tests")
    if changed:
        sys.exit(f"Commit this first, so that figures can name what they are of:\n{changed}")
    return git("rev-parse", "--short=7", "HEAD")


def git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="name the commands, and run none")
    parser.add_argument(
        "--only", default="", metavar="WORD", help="those that have it in their page's name or command"
    )
    asked = parser.parse_args()
    for page in sorted((ROOT / "docs").glob("*.md")):
        for command, took in [
            (found["command"], found["time"]) for found in FIGURES.finditer(page.read_text(encoding="utf-8"))
        ]:
            if asked.only not in f"{page.name} {command}":
                continue
            print(f"{page.name}: {command}{took}", flush=True)
            if not asked.list:
                commit()  # before the hours
                renew(page, command, measured(command))


def renew(page: Path, command: str, now: str) -> None:
    """The page, with these figures of the command."""
    text = page.read_text(encoding="utf-8")
    page.write_text(
        FIGURES.sub(lambda found: now if found["command"] == command else found[0], text), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
