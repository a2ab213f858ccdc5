"""A comparison as one HTML page that needs no network, and as a CSV."""

from __future__ import annotations

import base64
import csv
import html
import io
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from backend.evidence.cells import Result, Terms
from backend.evidence.rows import ROWS
from backend.files import write_text
from backend.results.curves import PANELS

STYLE = """body{font:15px/1.5 sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#262626}
table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}
figure{display:inline-block;margin:.4em}figcaption{font-size:12px;color:#666}img{max-width:100%}
.cell img{height:128px}"""


def write_csv(path: Path, results: Sequence[Result]) -> None:
    """A row a cell. Raises DiskError."""
    figures = list(dict.fromkeys(name for result in results for name in result.figures))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["prompt", "seed", "method", "updates", "failed", *figures])
    for r in results:
        own = [r.figures.get(name, "") for name in figures]
        rows.writerow([r.cell.prompt, r.cell.seed, r.cell.method, r.cell.budget, r.failed, *own])
    write_text(path, text.getvalue())


def write_page(path: Path, terms: Terms, rows: Sequence[Sequence[str]], results: Sequence[Result]) -> None:
    """The table, its figures over the budgets where there are several, the curves of each budget, and a picture a cell.

    Raises DiskError.
    """
    heading, *body = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    parts = [
        f"<h1>Methods in {html.escape(terms.space)}, prior {html.escape(terms.prior)}</h1>",
        f"<p>Medians over prompts and seeds. Terms: <code>{html.escape(repr(terms))}</code></p>",
        f"<table><tr>{heading.replace('td>', 'th>')}</tr>{''.join(f'<tr>{row}</tr>' for row in body)}</table>",
    ]
    parts += [
        f"<div><b>{html.escape(name)}</b>: <code>{html.escape(str(ROWS[name]))}</code></div>"
        for name in dict.fromkeys(r.cell.method for r in results)
    ]
    budgets = dict.fromkeys(r.cell.budget for r in results)
    if len(budgets) > 1 and any(r.figures for r in results):
        parts.append(f"<p><img alt='figures over updates' src='{_embedded(budgets_png(results))}'></p>")
    for budget in budgets:
        own = [r for r in results if r.cell.budget == budget]
        parts.append(f"<h2>{budget} updates</h2><p><img alt='curves' src='{_embedded(curves_png(own))}'></p>")
        parts += [_figure(r) for r in own if r.picture]
    write_text(
        path,
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Methods</title><style>{STYLE}</style>"
        + "\n".join(parts)
        + "</html>\n",
    )


def medians(results: Sequence[Result], name: str) -> dict[str, dict[int, float]]:
    """Method -> updates, rising -> the median of this figure over the cells that have it."""
    found: dict[str, dict[int, list[float]]] = {}
    for r in sorted((r for r in results if name in r.figures), key=lambda r: r.cell.budget):
        found.setdefault(r.cell.method, {}).setdefault(r.cell.budget, []).append(r.figures[name])
    return {m: {budget: statistics.median(v) for budget, v in own.items()} for m, own in found.items()}


def budgets_png(results: Sequence[Result]) -> bytes:
    """Each figure but the seconds over the updates of a cell: `medians`."""
    names = [n for n in dict.fromkeys(n for r in results for n in r.figures) if n != "seconds"]
    figure = Figure(figsize=(6 * len(names), 3.8), dpi=90, layout=ConstrainedLayoutEngine())
    FigureCanvasAgg(figure)
    methods = list(dict.fromkeys(r.cell.method for r in results))
    budgets = sorted({r.cell.budget for r in results})
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        axes.set_title(name, fontsize=11)
        axes.set_xscale("log")
        axes.set_xticks(budgets, [str(budget) for budget in budgets])
        axes.minorticks_off()
        axes.set_xlabel("updates")
        for method, own in medians(results, name).items():
            colour = _colour(methods.index(method))
            axes.plot(list(own), list(own.values()), marker="o", color=colour, label=method)
        if name == "distance":
            axes.set_yscale("log")
        axes.legend(fontsize=8)
    return _png(figure)


def curves_png(results: Sequence[Result]) -> bytes:
    """Loss, gradient norm and gap over the updates, on log scales: the median over a method's cells."""
    figure = Figure(figsize=(12, 3.4), dpi=90, layout=ConstrainedLayoutEngine())
    FigureCanvasAgg(figure)
    for axes, (name, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        axes.set_title(title, fontsize=11)
        axes.set_yscale("log")
        axes.set_xlabel("update")
        for number, method in enumerate(dict.fromkeys(r.cell.method for r in results)):
            found = [r.curves[name].numpy() for r in results if r.cell.method == method and name in r.curves]
            if found:
                shortest = min(map(len, found))
                middle = np.median([values[:shortest] for values in found], axis=0)
                shown = np.where(middle > 0, middle, np.nan)
                axes.plot(shown, color=_colour(number), linewidth=0.9, label=method)
        axes.legend(fontsize=8)
    return _png(figure)


def _colour(number: int) -> tuple[float, float, float, float]:
    """Of a method by its place."""
    return colormaps["tab20"]((2 * number + number // 10) % 20)


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def _figure(result: Result) -> str:
    said = "  ".join(f"{name} {value:.3f}" for name, value in result.figures.items())
    caption = html.escape(f"{result.cell.name}  {said}  {result.failed}")
    picture = f"<img alt='' src='{_embedded(result.picture)}'>"
    return f"<figure class='cell'>{picture}<figcaption>{caption}</figcaption></figure>"


def _embedded(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
