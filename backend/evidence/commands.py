"""What `compare` and `evaluate` were asked for, read from their arguments (cli/evidence.py)."""

from __future__ import annotations

import argparse
from typing import TextIO

from backend.evidence.cells import Terms
from backend.evidence.compare import cells_of, compare, read_prompts
from backend.evidence.evaluate import Judges, evaluate, read_gallery
from backend.evidence.rows import ABLATION, ABLATIONS, NOISE
from dreamflow_blender.contract.settings import METHODS

BUDGETS = {"2d": [100, 200, 500], "3d": [1500]}  # updates, unless others are asked for


def run(args: argparse.Namespace, out: TextIO) -> int:
    """The exit code. Raises DreamFlowError."""
    if args.command == "evaluate":
        judges = Judges(args.clip, args.truth, args.recognise, args.export)
        evaluate(args.jobs, read_gallery(args.prompts), judges, out)
        return 0
    budgets = args.budget or BUDGETS[args.space]
    cells = cells_of(read_prompts(args.prompts), args.seeds, rows_of(args), budgets)
    terms = Terms(args.space, args.prior, dict(args.set), args.particles, args.rate, args.threads)
    return compare(cells, terms, args.out, out)


def rows_of(args: argparse.Namespace) -> list[str]:
    """Names of rows, those of ROWS or of mistakes; all methods where none are asked for."""
    names = [*args.methods, *args.recipe, *(NOISE + noise for noise in args.noise)]
    if args.ablations:
        names += ["apfo", *(ABLATION + name for name in ABLATIONS)]
    return list(dict.fromkeys(names or METHODS))
