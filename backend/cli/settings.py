"""`python -m backend settings`: what `--set` can change, and what each preset and each profile of `--deliver` says."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any, TextIO

EXAMPLES = """\
examples:
  python -m backend settings                 every setting, with its value in each preset
  python -m backend settings --preset draft  as arguments of generate: --set nerf.levels=300, a line each

The last lines are the profiles of --deliver, whose settings have options of their own.
A prior may want other values than the preset: job.json holds what a job was resolved to, and who set it.
"""


def add_parser(commands: Any) -> None:
    """Add the command to what `argparse` gave for the subcommands."""
    settings = commands.add_parser(
        "settings", help="list the settings of the presets", description="List what --set can change.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    settings.add_argument("--preset", metavar="NAME", help="one preset alone: paper, fast or draft")
    settings.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace, out: TextIO) -> int:
    """The exit code. Raises InputError for an unknown preset."""
    from backend.config import PRESETS, resolve, setting_names
    from backend.game.game import Game
    from backend.game.quads import Quads
    from backend.results.printing import Print

    wanted = [args.preset] if args.preset else list(PRESETS)
    presets = {name: resolve(name).preset for name in wanted}
    profiles = {
        name: dataclasses.asdict(made)
        for name, made in (("game", Game()), ("quads", Quads()), ("print", Print()))
    }
    if args.json:
        found = {name: dataclasses.asdict(preset) for name, preset in presets.items()}
        out.write(json.dumps(found if args.preset else {**found, "profiles": profiles}) + "\n")
        return 0
    names = setting_names()
    rows = [[_value(preset, name) for preset in presets.values()] for name in names]
    if args.preset:
        out.writelines(f"--set {name}={row[0]}\n" for name, row in zip(names, rows, strict=True))
        return 0
    width = max(map(len, names))
    for name, row in zip(["", *names], [wanted, *rows], strict=True):
        out.write(f"{name:<{width}}" + "".join(f"  {cell:>9}" for cell in row) + "\n")
    for profile, settings in profiles.items():
        out.write(f"\n--deliver {profile}\n")
        out.writelines(f"{name:<{width}}  {json.dumps(value):>9}\n" for name, value in settings.items())
    return 0


def _value(preset: Any, name: str) -> str:
    """As --set takes it."""
    stage, _, setting = name.partition(".")
    value = getattr(getattr(preset, stage), setting)
    return value if isinstance(value, str) else json.dumps(value)
