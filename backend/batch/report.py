"""What became of a list of jobs: report.json, report.csv, and index.html, which shows them all without a network."""

from __future__ import annotations

import csv
import html
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from backend.batch.share import DONE, FAILED, RUNNING, SKIPPED, STOPPED, WAITING, Record, Share
from backend.files import disk_errors, write_text
from dreamflow_blender.contract.files import write_json
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.locks import locked
from dreamflow_blender.contract.protocol import Job
from dreamflow_blender.contract.words import duration

REPORT, TABLE, PAGE = "report.json", "report.csv", "index.html"
STATES = (DONE, SKIPPED, FAILED, STOPPED, RUNNING, WAITING)
COLUMNS = ("prompt", "seed", "preset", "prior", "state", "seconds", "host", "folder", "error")
STYLE = """body{font:15px/1.4 sans-serif;margin:2em;background:#f4f4f4;color:#222}
main{display:grid;grid-template-columns:repeat(auto-fill,minmax(220px,1fr));gap:1em}
figure{margin:0;background:#fff;border:1px solid #ddd;border-radius:6px;padding:.6em}
img,.none{width:100%;aspect-ratio:1;object-fit:contain;background:#eee}
figcaption{overflow-wrap:anywhere}small{color:#666}.failed{border-color:#c0392b}.error{color:#c0392b}"""


def write_report(root: Path, jobs: Sequence[Job], share: Share, before: set[str]) -> dict[str, int]:
    """All three files, of the whole list as it is now; how many jobs are in which state. Raises DiskError.

    before  folders of the jobs that were done before this process began: they count as skipped

    Several processes write the same files, one after the other: the last one has seen what the others did.
    """
    lock = root / ".batch" / "report.lock"
    with disk_errors(lock), locked(lock):
        rows = [row_of(job, share.state(job), share.record(job), before) for job in jobs]
        counts = Counter(row["state"] for row in rows)
        said = {state: counts[state] for state in STATES}
        write_json(root / REPORT, {**said, "prompts": rows})
        write_text(root / TABLE, table(rows))
        write_text(root / PAGE, page(rows, said))
    return said


def row_of(job: Job, state: str, record: Record | None, before: set[str]) -> dict[str, Any]:
    """One job for the report; its paths are relative to the report's folder, so that both can be moved."""
    record = record or Record(state)
    name = Path(job.folder).name
    return {
        "prompt": job.prompt, "seed": job.seed, "preset": job.preset, "prior": job.prior,
        "state": SKIPPED if state == DONE and job.folder in before else state,
        "seconds": record.seconds, "host": record.host, "folder": name,
        "files": {file: f"{name}/{file}" for file in JobFolder(job.folder).result_files()},
        "warnings": record.warnings, "error": record.error if state in (FAILED, STOPPED) else {},
    }  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line a job. A cell that a spreadsheet would take for a formula begins with an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        cells = [row["error"].get("message", "") if name == "error" else row[name] for name in COLUMNS]
        writer.writerow([f"'{c}" if isinstance(c, str) and c[:1] in tuple("=+-@") else c for c in cells])
    return text.getvalue()


def page(rows: Sequence[dict[str, Any]], counts: dict[str, int]) -> str:
    """The contact sheet: no script, nothing from outside its folder."""
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    cards = "\n".join(map(_card, rows))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>DreamFlow batch</title>\n'
        f"<style>{STYLE}</style></head><body>\n"
        f"<h1>{len(rows)} prompts: {said}</h1>\n<main>\n{cards}\n</main></body></html>\n"
    )


def _card(row: dict[str, Any]) -> str:
    files = {name: html.escape(quote(path)) for name, path in row["files"].items()}
    prompt = html.escape(row["prompt"])
    named = JobFolder("")
    shown = files.get(named.preview.name)
    picture = f'<img loading="lazy" src="{shown}" alt="{prompt}">' if shown else '<div class="none"></div>'
    if turn := files.get(named.turntable.name):
        picture = f'<a href="{turn}">{picture}</a>'
    labels = {
        named.mesh_glb: "GLB",
        named.turntable: "turntable",
        named.views: "views",
        named.albedo: "albedo",
    }
    links = " · ".join(
        f'<a href="{files[path.name]}">{label}</a>' for path, label in labels.items() if path.name in files
    )
    took = f", {duration(row['seconds'])}" if row["seconds"] else ""
    error = html.escape(row["error"].get("message", ""))
    about = f"seed {row['seed']}, {html.escape(row['preset'])}, {row['state']}{took}"
    return (
        f'<figure class="{row["state"]}">{picture}<figcaption>{prompt}<br><small>{about}</small><br>{links}'
        f'<div class="error">{error}</div></figcaption></figure>'
    )
