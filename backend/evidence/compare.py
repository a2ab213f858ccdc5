"""`python -m backend compare`: methods side by side, on the same prior, cameras, optimiser and number of updates."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from backend.errors import InputError
from backend.evidence.cells import (
    Cell,
    Result,
    Terms,
    carry_out,
    flat_settings,
    job_of,
    prior_of,
    read_result,
)
from backend.evidence.flat import frechet_of_all
from backend.evidence.page import write_csv, write_page
from backend.evidence.rows import ROWS
from backend.files import disk_errors, write_text

INTERRUPTED = 130  # exit code


def cells_of(
    prompts: Sequence[str], seeds: int, methods: Sequence[str], budgets: Sequence[int]
) -> list[Cell]:
    """Methods change first, so that all are met early; prompts last, since a prior keeps what it has made for one.

    Raises InputError for a method that there is not.
    """
    for method in methods:
        if method not in ROWS:
            raise InputError(f"There is no method {method!r}.", f"Choose of {', '.join(ROWS)}.")
    return [
        Cell(prompt, seed, method, budget)
        for prompt in prompts for budget in budgets for seed in range(1, seeds + 1) for method in methods
    ]  # fmt: skip


def read_prompts(path: Path) -> list[str]:
    """One a line; empty lines and those that begin with # are left out. Raises InputError and DiskError."""
    with disk_errors(path):
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise InputError(f"{path} holds no prompts.", "Write one a line.")
    return prompts


def compare(cells: Sequence[Cell], terms: Terms, out: Path, say: TextIO) -> int:
    """Carry out the cells that are not done yet, then write OUT/index.html and OUT/cells.csv; the exit code.

    Ctrl-C keeps what there is: the same command goes on. Raises InputError before anything runs, DiskError, ModelError.
    """
    prior = prior_of(terms.prior)
    for prompt in dict.fromkeys(cell.prompt for cell in cells):
        prior.check(prompt, "", "colour", prior.spec.native_size or 32)
    for cell in cells:
        if terms.space == "2d":
            flat_settings(cell.method)
        else:
            job_of(cell, terms, out)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    _agree(terms, out / "terms.json")
    left = [cell for cell in cells if read_result(cell, out) is None]
    say.write(f"{len(cells)} cells, {len(left)} to do\n")
    say.flush()
    try:
        for number, cell in enumerate(left, 1):
            began = time.monotonic()
            carry_out(cell, terms, out, lambda event: None)
            done = read_result(cell, out)
            assert done is not None, "it was written"
            shown = "  ".join(f"{name} {value:.3f}" for name, value in done.figures.items())
            took = time.monotonic() - began
            say.write(f"{number}/{len(left)}  {cell.name}  {shown}  {done.failed}  ({took:.0f} s)\n")
            say.flush()
    except KeyboardInterrupt:
        say.write("Stopped. The same command goes on from here.\n")
        return INTERRUPTED
    finally:
        results = [found for cell in cells if (found := read_result(cell, out))]
        if results:
            rows = table(results)
            write_csv(out / "cells.csv", results)
            write_page(out / "index.html", terms, rows, results)
            say.write(as_text(rows))
    return 0


def _agree(terms: Terms, path: Path) -> None:
    """The folder is this comparison's. Raises InputError where it is another's."""
    told = json.dumps(asdict(terms), indent=2, sort_keys=True) + "\n"
    with disk_errors(path):
        if path.exists() and path.read_text(encoding="utf-8") != told:
            raise InputError(
                f"{path.parent} holds a comparison on other terms: {path.name} says which.",
                "Choose another folder with --out.",
            )
    write_text(path, told)


def table(results: Sequence[Result]) -> list[list[str]]:
    """A heading, then a row a budget and method: cells, failures, and the median of each figure; with features the
    Frechet distance of all cells together as well, which has more pictures to go by than a cell."""
    figures = list(dict.fromkeys(name for result in results for name in result.figures))
    together = ["frechet of all"] if any(r.features for r in results) else []
    rows = [["updates", "method", "cells", "failed", *figures, *together]]
    groups = dict.fromkeys((r.cell.budget, r.cell.method) for r in results)
    for budget, method in groups:
        own = [r for r in results if (r.cell.budget, r.cell.method) == (budget, method)]
        row = [str(budget), method, str(len(own)), str(sum(r.failed != "" for r in own))]
        for name in figures:
            values = [r.figures[name] for r in own if name in r.figures]
            row.append(f"{statistics.median(values):.3f}" if values else "-")
        if together:  # an older cell has none, and some of them are not all
            known = all(r.features for r in own)
            row.append(f"{frechet_of_all([r.features for r in own]):.3f}" if known else "-")
        rows.append(row)
    return rows


def as_text(rows: Sequence[Sequence[str]]) -> str:
    """In columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join("  ".join(map(str.ljust, row, widths)).rstrip() + "\n" for row in rows)
