"""Job folders and requests as no program of ours writes them, for fuzz.py: each trial is made of its seed alone."""

from __future__ import annotations

import json
import os
import random
import shutil
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backend.config import DRAFT
from backend.errors import DreamFlowError, InputError
from backend.jobs.drive import Begin, Control, Events, drive, folder_of
from backend.jobs.folder import job_so_far
from backend.jobs.listing import clean_jobs, list_jobs, remove_job
from backend.jobs.record import read_record, recorded_threads, settings_of
from benchmarks.fuzz_files import damaged, places
from dreamflow_blender.backlog.entries import find_jobs
from dreamflow_blender.backlog.work import in_folder
from dreamflow_blender.contract import protocol as p
from dreamflow_blender.contract.jobfolder import JobFolder

VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 1e308, 1e-320, float("nan"), float("inf"),
    "", " ", "\0", "a\0b", "\ud800", "\u202e", "\x1b[2J", "a\nb", "../x", "/dev/null/x",
    "\\\\server\\share\\x", "C:\\x",
    "CON", "nul.txt", "a/" * 2000, "x" * 300, "x" * 100_000, "é" * 300_000, "~", "~nobody/x", "$HOME", "file:///x",
    ".", "..", "{0.__class__}", "%s%n", [], {}, [[]] * 50, ["nerf", "nerf"], ["refine"], ["nerf"],
    {"nerf.levels": 1e400}, {"nerf.size": -1}, {"": 1}, {"a": {"b": [1]}}, {"nerf.phi": "lora"},
]  # fmt: skip
EVENTS: list[p.Event] = [
    p.Started("nerf", 4), p.Progress("nerf", 1, 4, 1, 4, 2.0, 0.5, 0.1), p.Preview("preview.png"), p.Warning("Look."),
    p.Finished({"mesh.glb": "mesh.glb"}, {"seconds": 1.0}), p.Cancelled({}), p.Failed("disk", "Full.", "Free some."),
]  # fmt: skip


def changed(document: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """With up to three values or keys of it replaced, removed or added, at any depth."""
    document = json.loads(json.dumps(document))
    for _ in range(chance.choice([0, 1, 1, 2, 3])):
        found = places(document, [])
        if not found:
            break
        holder, key = chance.choice(found)
        if chance.random() < 0.2:
            del holder[key]
        elif chance.random() < 0.1 and isinstance(holder, dict):
            holder[chance.choice(["wings", "\ud800", "__class__"])] = deepcopy(chance.choice(VALUES))
        else:
            holder[key] = deepcopy(chance.choice(VALUES))
    return document


def make_folder(folder: Path, chance: random.Random) -> None:
    """A job's folder of which something is wrong."""
    kind = chance.choice(["generate", "refine"])
    more: dict[str, Any] = {"mesh": "a.glb", "stages": ("refine",)} if kind == "refine" else {}
    job = p.Job("1", kind, "a red mug", str(folder), **more)
    record = {
        "job": asdict(job),
        "settings": asdict(DRAFT),
        "set_by": {},
        "threads": 1,
        "models": {},
        "versions": {},
    }
    folder.mkdir()
    files = JobFolder(folder)
    text = json.dumps(changed(record, chance)).encode()
    files.job.write_bytes(damaged(text, chance, chance.choice([0, 0, 0, 1, 5])))
    lines = [p.encode(event).encode() for event in chance.choices(EVENTS, k=chance.randrange(6))]
    lines += [json.dumps(changed(json.loads(line), chance)).encode() for line in lines[:2]]
    files.events.write_bytes(damaged(b"\n".join([*lines, b""]), chance, chance.choice([0, 0, 1, 5])))
    files.lock.write_text(chance.choice(["", "1", "inf", "-1", "9" * 5000, "\0"]))
    (files.checkpoints / chance.choice(["000001-nerf-1", "x", "\u202e"])).mkdir(parents=True)
    for path in (files.mesh_glb, files.preview, folder / "mine.txt"):
        path.write_bytes(b"x")
    if chance.random() < 0.4 and os.name != "nt":
        replace_one(chance.choice([files.job, files.events, files.lock, files.log, files.mesh_glb]), chance)


def replace_one(path: Path, chance: random.Random) -> None:
    """By something that is no file of its own."""
    path.unlink(missing_ok=True)
    match chance.randrange(5):
        case 0:
            os.mkfifo(path)
        case 1:
            path.symlink_to(chance.choice(["/dev/zero", "/dev/full", "nowhere", path.name, ".."]))
        case 2:
            path.mkdir()
        case 3:
            with path.open("wb") as file:
                file.truncate(1 << 40)
        case _:
            path.symlink_to("victim")
    (path.parent / "victim").write_text("Another's.\nWithout an end")


def try_folder(seed: str, root: Path) -> None:
    """All that either program does with a folder before a job's networks are loaded. Raises what they should not."""
    chance = random.Random(f"job {seed}")
    folder = root / "jobs" / "one"
    shutil.rmtree(root / "jobs", ignore_errors=True)
    (root / "jobs").mkdir()
    make_folder(folder, chance)
    victim = folder / "victim"
    before = victim.read_text() if victim.is_file() else ""
    assert len(list(list_jobs(root))) <= 1
    find_jobs(root / "jobs")
    asked = p.Job("2", "generate", "a red mug", str(folder))
    in_folder(asked, folder)
    for look in (
        lambda folder: settings_of(read_record(folder)),
        recorded_threads,
        lambda _: job_so_far(asked),
    ):
        with suppress(DreamFlowError):
            look(folder)
    for overwrite in (False, True):
        begin(p.Resume(str(folder)) if not overwrite else p.Generate(asked), overwrite)
    clean_jobs(root)
    with suppress(DreamFlowError):
        remove_job(folder)
    assert before == (victim.read_text() if victim.is_file() else before), "another's file was changed"


def try_request(seed: str, root: Path) -> None:
    """One line to the worker, and its answer."""
    chance = random.Random(f"wire {seed}")
    os.chdir(root)
    job = asdict(p.Job("1", "generate", "a red mug", f"job-{seed.replace('/', '-')}"))
    refine = job | {"kind": "refine", "mesh": "a.obj", "stages": ["refine"]}
    message = chance.choice(
        [{"request": "resume", "folder": "a"}, {"request": "hello", "protocol": 1}]
        + [{"request": "generate", "job": job}, {"request": "refine", "job": refine}] * 3
    )
    if chance.random() < 0.1:
        deep, (opened, closed) = (
            chance.choice([10, 900, 1000, 100_000]),
            chance.choice(["[]", ('{"job":', "}")]),
        )
        line = (opened * deep + "1" + closed * deep).encode()
    else:
        line = damaged(json.dumps(changed(message, chance)).encode(), chance, chance.choice([0, 0, 0, 1, 4]))
    try:
        request = p.decode_request(line)
    except p.BadMessage as error:
        p.encode(p.Refused(str(error)))
        return
    if isinstance(request, p.Generate | p.Refine | p.Resume):
        try:
            os.fsencode(str(folder_of(request)))
        except UnicodeEncodeError:  # the desk refuses those
            return
        begin(request, False)


def begin(request: Begin, overwrite: bool) -> None:
    """Up to where its networks would be loaded: its end is an event that fits on a line, and no bug."""
    end = drive(request, lambda: None, lambda event: None, overwrite, not_run)
    p.encode(end)
    assert isinstance(end, p.Failed) and end.kind != "internal", end


def not_run(request: Begin, control: Control) -> Events:
    raise InputError("It is not run.", "It was tried alone.")
    yield
