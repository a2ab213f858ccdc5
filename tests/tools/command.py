"""The real command line in this process, on jobs of a second or two."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from backend import __main__ as cli
from dreamflow_blender.contract.protocol import Event, Job

OVERRIDES: dict[str, Any] = {
    "nerf.levels": 6, "nerf.views": 2, "nerf.size": 16, "nerf.samples": 16, "nerf.grid_levels": 4,
    "nerf.grid_log2_size": 10, "nerf.grid_finest": 32, "nerf.hidden": 8, "nerf.occupancy": 16,
    "nerf.orientation_points": 64, "nerf.occupancy_every": 4,
    "geometry.levels": 2, "geometry.views": 2, "geometry.size": 24, "geometry.cells": 10,
    "texture.levels": 2, "texture.views": 2, "texture.size": 24,
    "refine.levels": 2, "refine.views": 2, "refine.size": 32,
    "delivery.texture_size": 64, "delivery.max_faces": 500,
}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """How a command ended: its exit code and its last event's fields."""

    code: int
    kind: str
    message: str
    todo: str


def tiny(**changes: Any) -> Callable[[Job], Iterator[Event]]:
    """A run of the pipeline with settings of seconds; `changes` of settings, dots as two underscores."""
    overrides = OVERRIDES | {name.replace("__", "."): value for name, value in changes.items()}

    def run(job: Job) -> Iterator[Event]:
        from backend.jobs.generate import generate

        return generate(replace(job, overrides=overrides))

    return run


def ask(capfd: pytest.CaptureFixture[str], *arguments: str, run: Any = None) -> Answer:
    """`generate` with these arguments. A failure is told once, without a traceback, and with what to do."""
    code = cli.main(["generate", *arguments, "--json"], run)
    out, err = capfd.readouterr()  # from the second time on, the first one's standard error is both
    assert "Traceback" not in out + err
    events = [json.loads(line) for line in (out + err).splitlines() if line.startswith('{"event"')]
    last = events[-1]
    assert [event["event"] in ("finished", "failed", "cancelled") for event in events].count(True) == 1
    if last["event"] == "failed":
        assert last["message"] and last["todo"]
    return Answer(code, last.get("kind", ""), last.get("message", ""), last.get("todo", ""))


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything that lies in a folder: relative path -> content, None for a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def old_job(folder: Path) -> Path:
    """A folder as an older job has left it."""
    folder.mkdir(parents=True)
    for name in ("job.json", "events.jsonl", "mesh.glb", "albedo.png", "notes of mine.txt"):
        (folder / name).write_text(f"old {name}")
    return folder
