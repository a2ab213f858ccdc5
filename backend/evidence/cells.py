"""The cells of a comparison: what each is, how it is carried out, and what it leaves on the disk.

OUT/PROMPT-SEED-METHOD-BUDGET.json   its figures, written last: a cell that has them is done
                            .npz    its loss, gradient norm and gap, each [iterations] float32; in 2D what else
                                    `flat.Flat.features` holds
                            .png    a picture of what it came to
                            /       in 3D: its job's folder
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.config import RECIPES, UNLEARNT, Preset, resolve
from backend.device import prepare_device
from backend.diffusion.prior import Prior
from backend.errors import DreamFlowError, InputError, SceneError
from backend.evidence.flat import run_flat
from backend.evidence.recovery import LEAST_IOU, judge_job
from backend.evidence.rows import ROWS, Row
from backend.files import disk_errors, write_bytes, write_text
from backend.jobs.drive import drive
from backend.jobs.priors import open_prior
from backend.meshes.write import png_bytes
from backend.stages.checkpoint_writer import newest
from dreamflow_blender.contract.files import read_plain
from dreamflow_blender.contract.jobfolder import JobFolder, slug
from dreamflow_blender.contract.protocol import Cancelled, Event, Failed, Finished, Generate, Job, Resume

PRESET = "draft"
SHOWN = 16  # particles in a picture
FEATURES = "features."  # before the names of a Flat's in the .npz


@dataclass(frozen=True)
class Terms:
    """What all cells of a comparison have in common; kept in OUT/terms.json.

    overrides  "stage.setting" -> value, over the preset's, of every job (3D)
    particles  pictures of a cell (2D)
    rate       AdamW's, of a picture's values (2D)
    """

    space: str  # 2d or 3d
    prior: str
    overrides: dict[str, Any]
    particles: int
    rate: float
    threads: int


@dataclass(frozen=True)
class Cell:
    prompt: str
    seed: int
    method: str  # of rows.ROWS
    budget: int  # updates, of all stages

    @property
    def name(self) -> str:
        return f"{slug(self.prompt)}-{self.seed}-{self.method}-{self.budget}"


@dataclass(frozen=True)
class Result:
    """A finished cell. failed: why there is no object; empty where there is one."""

    cell: Cell
    figures: dict[str, float]
    failed: str
    curves: dict[str, Tensor]
    picture: bytes
    features: dict[str, Tensor] = field(default_factory=dict)  # of a flat.Flat


@lru_cache(maxsize=1)
def prior_of(name: str) -> Prior:
    """The prior of this name, which keeps what it has made for a prompt from one cell to the next."""
    return open_prior(name, "cpu")


def carry_out(cell: Cell, terms: Terms, out: Path, emit: Callable[[Event], None]) -> None:
    """Run the cell, or go on with it where it was stopped, and write what it came to.

    Raises KeyboardInterrupt where it is stopped, DiskError, and whatever else says that the next cell would fail too.
    """
    if terms.space == "2d":
        prepare_device(torch.device("cpu"), terms.threads)
        flat = run_flat(
            prior_of(terms.prior),
            cell.prompt,
            flat_settings(cell.method),
            cell.budget,
            terms.particles,
            cell.seed,
            terms.rate,
        )
        picture = png_bytes(tiled(flat.images[:SHOWN]))
        _write(Result(cell, flat.figures, "", flat.curves, picture, flat.features), out)
        return
    folder = out / cell.name
    files = JobFolder(folder)
    ended = files.last_event()
    if not isinstance(ended, Finished):
        begun = files.job.is_file()
        request = Resume(str(folder)) if begun else Generate(job_of(cell, terms, folder))
        ended = drive(request, lambda: None, emit, overwrite=True)
    if isinstance(ended, Cancelled):
        raise KeyboardInterrupt
    curves = curves_of(folder, ROWS[cell.method].stages)
    if isinstance(ended, Failed):
        if ended.kind != SceneError.kind:
            raise DreamFlowError(f"{cell.name}: {ended.message}", ended.todo)
        _write(Result(cell, {}, ended.message, curves, b""), out)
        return
    judged = judge_job(folder, cell.prompt)
    failed = f"IoU under {LEAST_IOU}" if judged.iou < LEAST_IOU else ""
    figures = {
        "iou": judged.iou,
        "psnr": judged.psnr,
        "seconds": sum(ended.figures[f"seconds_{stage}"] for stage in ROWS[cell.method].stages),
    }
    with disk_errors(folder):
        picture = read_plain(files.preview)
    _write(Result(cell, figures, failed, curves, picture), out)


def job_of(cell: Cell, terms: Terms, folder: Path) -> Job:
    """An ordinary job, with the settings of the cell's row over those that all share. Raises InputError."""
    row = ROWS[cell.method]
    overrides = {
        key: value
        for key, value in terms.overrides.items()
        if not (key.endswith(".phi") and row.settings.get("nerf.method") in UNLEARNT)
    } | row.settings
    stated = prior_of(terms.prior).spec.settings
    preset = resolve(PRESET, {"recipe": RECIPES[row.recipe], "prior": stated, "job": overrides}).preset
    return Job(
        cell.name, "generate", cell.prompt, str(folder), seed=cell.seed, preset=PRESET, prior=terms.prior,
        stages=row.stages, threads=terms.threads, snapshot_faces=0, recipe=row.recipe,
        overrides=overrides | shared_out(row, preset, cell.budget),
    )  # fmt: skip


def shared_out(row: Row, preset: Preset, budget: int) -> dict[str, int]:
    """The levels of the row's stages: the budget in the proportions of the preset's updates, rounded down.

    Raises InputError where one stage has it all and it is no whole number of levels.
    """
    stages = {name: getattr(preset, name) for name in row.stages}
    if len(stages) == 1 and budget % preset.nerf.views:
        raise InputError(
            f"A budget of {budget} updates is no whole number of levels of {preset.nerf.views} views.",
            f"Give a multiple of {preset.nerf.views}, or --set nerf.views=1.",
        )
    total = sum(stage.iterations for stage in stages.values())
    return {
        f"{name}.levels": max(1, budget * stage.iterations // total // stage.views)
        for name, stage in stages.items()
    }


def flat_settings(name: str) -> dict[str, Any]:
    """Those of the row for pictures themselves, which have one stage. Raises InputError for a row that has more."""
    row = ROWS[name]
    if row.stages != ("nerf",):
        raise InputError(f"{name} is about stages, and pictures have none.", "Compare it with --space 3d.")
    return {key.removeprefix("nerf."): value for key, value in row.settings.items()}


def curves_of(folder: Path, stages: Sequence[str]) -> dict[str, Tensor]:
    """Loss, gap and gradient over the updates of these stages, one after the other; of a job's newest checkpoint."""
    files, curves = JobFolder(folder), dict[str, Tensor]()
    saved = newest(folder, files.read_job().id)[0] if files.job.is_file() else None
    if saved is None:
        return {}
    for stage in stages:
        for name, values in saved.part(f"curve.{stage}.").items():
            curves[name] = torch.cat((curves[name], values)) if name in curves else values
    return curves


def tiled(images: Tensor) -> Tensor:
    """[B,H,W,3] in one row, [H,B W,3]."""
    return images.permute(1, 0, 2, 3).flatten(1, 2)


def _write(result: Result, out: Path) -> None:
    base = out / result.cell.name
    arrays = io.BytesIO()
    named = result.curves | {FEATURES + name: values for name, values in result.features.items()}
    np.savez(arrays, **{name: values.numpy() for name, values in named.items()})
    write_bytes(base.with_name(f"{base.name}.npz"), arrays.getvalue())
    write_bytes(base.with_name(f"{base.name}.png"), result.picture)
    record = {**vars(result.cell), "failed": result.failed, "figures": result.figures}
    write_text(base.with_name(f"{base.name}.json"), json.dumps(record, indent=2) + "\n")


def read_result(cell: Cell, out: Path) -> Result | None:
    """What the cell came to; None where it is not done. Raises DiskError."""
    base = out / cell.name
    path = base.with_name(f"{base.name}.json")
    if not path.is_file():
        return None
    with disk_errors(path):
        record = json.loads(path.read_text(encoding="utf-8"))
        with np.load(base.with_name(f"{base.name}.npz"), allow_pickle=False) as stored:
            arrays = {name: torch.from_numpy(stored[name]) for name in stored.files}
        picture = base.with_name(f"{base.name}.png").read_bytes()
    curves = {name: values for name, values in arrays.items() if not name.startswith(FEATURES)}
    features = {n.removeprefix(FEATURES): values for n, values in arrays.items() if n.startswith(FEATURES)}
    return Result(cell, record["figures"], record["failed"], curves, picture, features)
