"""`python -m backend evaluate`: finished jobs, judged by networks from outside and by the truth."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TextIO

from torch import Tensor

from backend.errors import InputError
from backend.evidence import clip, gpteval3d, outside, recovery
from backend.evidence.clip import Clip, bootstrap, r_precision
from backend.evidence.compare import as_text, read_prompts
from backend.files import disk_errors
from backend.jobs.folder import read_job
from backend.objects.grammar import parse_object
from backend.scene.mesh import Mesh

Figures = dict[str, float | str]
# of a prompt, and of what it became: a mesh and its texture [S,S,3]
Judge = Callable[[str, Mesh, Tensor], Figures]


@dataclass(frozen=True)
class Judges:
    """Who is asked. clip: a model's folder or its name on the hub; gpteval3d: the folder that its renders go to."""

    clip: str = ""
    truth: bool = False
    recognise: bool = False
    gpteval3d: Path | None = None


def evaluate(folders: Sequence[Path], prompts: Sequence[str], judges: Judges, say: TextIO) -> list[Figures]:
    """A row a job, then the means: what was measured, by its name.

    prompts  the gallery: all that a render's own prompt is told from
    Raises InputError, DiskError, ModelError before the first job is judged where it can.
    """
    if judges == Judges():
        raise InputError(
            "There is nothing to judge by.", "Give --clip, --recognise, --truth or --export gpteval3d FOLDER."
        )
    jobs = [read_job(folder) for folder in folders]
    for folder, job in zip(folders, jobs, strict=True):
        if job.prompt not in prompts and (judges.clip or judges.recognise or judges.gpteval3d):
            raise InputError(
                f"{folder} is of {job.prompt!r}, which the prompts do not hold.", "Add it to the file."
            )
        if judges.truth:
            parse_object(job.prompt)
        recovery.read_result(folder)
    asked: list[Judge] = []
    if judges.clip:
        asked.append(_ask_clip(judges.clip, prompts))
    if judges.recognise:
        asked.append(_recognise(prompts))
    if judges.truth:
        asked.append(_truth)
    rows = []
    for folder, job in zip(folders, jobs, strict=True):
        mesh, albedo = recovery.read_result(folder)
        rows.append(
            {name: value for judge in asked for name, value in judge(job.prompt, mesh, albedo).items()}
        )
        if judges.gpteval3d is not None:
            gpteval3d.write_views(judges.gpteval3d, prompts.index(job.prompt), job.seed, mesh, albedo)
    if asked:
        _tell(rows, folders, say)
    if judges.clip:
        seen_from = f"{clip.VIEWS} views, elevation {clip.ELEVATION:g}, distance {clip.DISTANCE:g}"
        seen_from += f", field of view {clip.FOV:g} degrees, background {clip.BACKGROUND:g}"
        say.write(f"R = 1 of {len(prompts)} prompts; {seen_from}.\n")
    if judges.gpteval3d is not None:
        say.write(f"{gpteval3d.VIEWS} colour and normal renders of each are in {judges.gpteval3d}\n")
    return rows


def _tell(rows: Sequence[Figures], folders: Sequence[Path], say: TextIO) -> None:
    """A line a job, then means and their intervals; a dash where a judge was not asked."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [["job", *names]]
    for folder, row in zip(folders, rows, strict=True):
        lines.append([folder.name, *(_text(row.get(name)) for name in names)])
    means, intervals = ["mean"], ["95 %"]
    for name in names:
        values = [value for row in rows if isinstance(value := row.get(name), float)]
        means.append(_text(mean(values)) if values else "-")
        intervals.append("{:.3f} to {:.3f}".format(*bootstrap(values)) if values else "-")
    say.write(as_text([*lines, means, intervals]))


def _text(value: float | str | None) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:.3f}"


def _ask_clip(model: str, prompts: Sequence[str]) -> Judge:
    """R-precision as the paper has it. Raises InputError and ModelError."""
    network = Clip(model)
    texts = network.texts(prompts)

    def judge(prompt: str, mesh: Mesh, albedo: Tensor) -> Figures:
        seen = network.results(mesh, albedo)
        return {"R-precision": r_precision(seen, texts, prompts.index(prompt))}

    return judge


def _recognise(prompts: Sequence[str]) -> Judge:
    """ConSE's R-precision; for kinds that it knows their mass, also as a share of the truth's, and the top five."""
    network, sentences = outside.Recogniser(), outside.Sentences()
    names, texts = sentences.embed(network.names), sentences.embed(prompts)

    def judge(prompt: str, mesh: Mesh, albedo: Tensor) -> Figures:
        seen = network.probabilities(outside.render_views(mesh, albedo))
        figures: Figures = {
            "ConSE": r_precision(outside.as_sentences(seen, names), texts, prompts.index(prompt))
        }
        kind = outside.known_kind(prompt)
        if kind:
            ideal = network.probabilities(outside.true_views(prompt))
            figures["mass"] = network.mass(seen, kind)
            figures["of the true"] = network.mass(seen, kind) / network.mass(ideal, kind)
            figures["top 5"] = float(network.among_five(seen, kind))
        return figures

    return judge


def _truth(prompt: str, mesh: Mesh, albedo: Tensor) -> Figures:
    found = recovery.judge(mesh, albedo, prompt)
    surfaces = recovery.compare_surfaces(mesh, recovery.true_surface(prompt))
    return {
        "IoU": found.iou, "PSNR": found.psnr, "colour error": found.colour, "chamfer": surfaces.chamfer,
        "normals": surfaces.normals, "nearest": recovery.nearest_kind(mesh, albedo, prompt),
    }  # fmt: skip


def read_gallery(path: Path) -> list[str]:
    """Prompts of a list, one a line, or of GPTEval3D's prompts.json. Raises InputError and DiskError."""
    if path.suffix.lower() != ".json":
        return read_prompts(path)
    try:
        with disk_errors(path):
            prompts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}).", "Give a list of prompts.") from error
    if not isinstance(prompts, list) or not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise InputError(f"{path} is not a list of prompts.", 'Write ["a prompt", ...].')
    return prompts
