"""What `compare` and `evaluate` were asked for, read from their arguments (cli/evidence.py)."""

from __future__ import annotations

import argparse
from typing import TextIO

from backend.evidence.cells import Terms
from backend.evidence.compare import cells_of, compare, read_prompts
from backend.evidence.evaluate import Judges, evaluate, read_gallery

BUDGETS = {"2d": [100, 200, 500], "3d": [1500]}  # updates, unless others are asked for


def run(args: argparse.Namespace, out: TextIO) -> int:
    """The exit code. Raises DreamFlowError."""
    if args.command == "evaluate":
        judges = Judges(args.clip, args.truth, args.recognise, args.export)
        evaluate(args.jobs, read_gallery(args.prompts), judges, out)
        return 0
    methods, budgets = args.methods.split(","), args.budget or BUDGETS[args.space]
    cells = cells_of(read_prompts(args.prompts), args.seeds, methods, budgets)
    terms = Terms(args.space, args.prior, dict(args.set), args.particles, args.rate, args.threads)
    return compare(cells, terms, args.out, out)
