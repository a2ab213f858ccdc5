"""What `compare` and `evaluate` were asked for, read from their arguments (cli/evidence.py)."""

from __future__ import annotations

import argparse
from typing import TextIO

from backend.evidence.cells import Terms
from backend.evidence.compare import cells_of, compare, read_prompts

BUDGETS = {"2d": [100, 200, 500], "3d": [1500]}  # updates, unless others are asked for


def run(args: argparse.Namespace, out: TextIO) -> int:
    """`compare`; the exit code. Raises DreamFlowError."""
    methods, budgets = args.methods.split(","), args.budget or BUDGETS[args.space]
    cells = cells_of(read_prompts(args.prompts), args.seeds, methods, budgets)
    return compare(
        cells, Terms(args.space, args.prior, dict(args.set), args.particles, args.threads), args.out, out
    )
