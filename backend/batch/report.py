"""What became of a list of jobs: report.json, report.csv, and index.html, which shows them all without a network."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backend.batch.page import SHEETS, page, sheet_of
from backend.batch.share import DONE, FAILED, RUNNING, SKIPPED, STOPPED, WAITING, Record, Share
from backend.files import disk_errors, write_text
from dreamflow_blender.contract.files import write_json
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.locks import locked
from dreamflow_blender.contract.protocol import Job

REPORT, TABLE, PAGE = "report.json", "report.csv", "index.html"
STATES = (DONE, SKIPPED, FAILED, STOPPED, RUNNING, WAITING)
COLUMNS = ("prompt", "seed", "preset", "prior", "state", "seconds", "host", "folder", "error")


def write_report(root: Path, jobs: Sequence[Job], share: Share, before: set[str]) -> dict[str, int]:
    """All three files, of the whole list as it is now; how many jobs are in which state. Raises DiskError.

    before  folders of the jobs that were done before this process began: they count as skipped

    Several processes write the same files, one after the other: the last one has seen what the others did.
    """
    lock = root / ".batch" / "report.lock"
    with disk_errors(lock), locked(lock):
        rows = [row_of(root, job, share.state(job), share.record(job), before) for job in jobs]
        counts = Counter(row["state"] for row in rows)
        said = {state: counts[state] for state in STATES}
        write_json(root / REPORT, {**said, "prompts": rows})
        write_text(root / TABLE, table(rows))
        write_text(root / PAGE, page(rows, said))
    return said


def row_of(root: Path, job: Job, state: str, record: Record | None, before: set[str]) -> dict[str, Any]:
    """One job for the report; its paths are relative to the report's folder, so that both can be moved."""
    record = record or Record(state)
    name = Path(job.folder).name
    return {
        "prompt": job.prompt, "seed": job.seed, "preset": job.preset, "prior": job.prior,
        "state": SKIPPED if state == DONE and job.folder in before else state,
        "seconds": record.seconds, "host": record.host, "folder": name,
        "files": {file: f"{name}/{file}" for file in JobFolder(job.folder).result_files()},
        "sheet": f"{SHEETS}/{name}.webp" if sheet_of(root, name).is_file() else "",
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
