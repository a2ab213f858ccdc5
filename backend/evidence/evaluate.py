"""`python -m backend evaluate`: finished jobs, judged by CLIP and, where their object is procedural, by the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import TextIO

from backend.errors import InputError
from backend.evidence.clip import (
    BACKGROUND,
    DISTANCE,
    ELEVATION,
    FOV,
    VIEWS,
    Clip,
    bootstrap,
    r_precision,
    render_views,
)
from backend.evidence.compare import as_text
from backend.evidence.recovery import judge_job, read_result
from backend.jobs.folder import read_job
from backend.objects.grammar import parse_object


def evaluate(
    folders: Sequence[Path], prompts: Sequence[str], clip: Path | None, truth: bool, say: TextIO
) -> dict[str, list[float]]:
    """A row a job, then the means; what was measured, by its name, a value a job.

    prompts  the gallery: all that a render's own prompt is told from
    Raises InputError, DiskError, ModelError before the first job is judged where it can.
    """
    if clip is None and not truth:
        raise InputError("There is nothing to judge by.", "Give --clip FOLDER, --truth, or both.")
    jobs = [read_job(folder).prompt for folder in folders]
    for folder, prompt in zip(folders, jobs, strict=True):
        if clip is not None and prompt not in prompts:
            raise InputError(
                f"{folder} is of {prompt!r}, which the prompts do not hold.", "Add it to the file."
            )
        if truth:
            parse_object(prompt)
        read_result(folder)
    measured: dict[str, list[float]] = {}
    network = None if clip is None else Clip(clip)
    texts = None if network is None else network.texts(prompts)
    for folder, prompt in zip(folders, jobs, strict=True):
        if network is not None and texts is not None:
            seen = network.images(render_views(*read_result(folder)))
            measured.setdefault("R-precision", []).append(r_precision(seen, texts, prompts.index(prompt)))
        if truth:
            judged = judge_job(folder, prompt)
            measured.setdefault("IoU", []).append(judged.iou)
            measured.setdefault("PSNR", []).append(judged.psnr)
    rows = [["job", *measured]]
    for row, folder in enumerate(folders):
        rows.append([folder.name, *(f"{values[row]:.3f}" for values in measured.values())])
    rows.append(["mean", *(f"{mean(values):.3f}" for values in measured.values())])
    intervals = [bootstrap(values) for values in measured.values()]
    rows.append(["95 %", *(f"{low:.3f} to {high:.3f}" for low, high in intervals)])
    say.write(as_text(rows))
    if network is not None:
        seen_from = (
            f"{VIEWS} views, elevation {ELEVATION:g}, distance {DISTANCE:g}, field of view {FOV:g} degrees"
        )
        say.write(f"R = 1 of {len(prompts)} prompts; {seen_from}, background {BACKGROUND:g}.\n")
    return measured
