"""A refine job that takes a second: on the prior that knows a ball, with a small fit and no turntable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backend.jobs import priors, refine
from backend.results import deliver_refined
from backend.texture.colour_field import FitSettings
from dreamflow_blender.contract import meshfile
from dreamflow_blender.contract.meshfile import MeshArrays, ObjectArrays
from dreamflow_blender.contract.protocol import Event, Finished, Job
from tests.tools.oracle import Oracle

OVERRIDES = {
    "refine.size": 48, "refine.levels": 2, "refine.views": 2, "texture.size": 48, "texture.levels": 2,
    "texture.views": 2, "delivery.texture_size": 64,
}  # fmt: skip


def shorten(patch: Any = None) -> None:
    """Everything that does not matter here made small. patch: a pytest.MonkeyPatch; None: for good."""
    put = setattr if patch is None else patch.setattr
    put(priors, "open_prior", lambda *_: Oracle())
    put(refine, "FITS", {"draft": FitSettings(6, 2, 12, 64, 16, 40, 4096)})
    put(refine, "VIEWS", 12)
    put(refine, "VIEW_SIZE", 64)
    put(refine, "SNAPSHOT", 32)
    put(deliver_refined, "TURNTABLE_VIEWS", 1)
    for name in ("write_views", "write_curves", "write_turntable"):
        put(deliver_refined, name, lambda path, *_: path.write_bytes(b"left out"))


def refine_job(folder: Path, mesh: Path, **changes: Any) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    overrides = OVERRIDES | changes.pop("overrides", {})
    stages = changes.pop("stages", ("refine",))
    return Job(
        "r",
        "refine",
        "a ball",
        str(folder),
        stages=stages,
        mesh=str(mesh),
        overrides=overrides,
        threads=1,
        **changes,
    )


def run_file(folder: Path, mesh: Path, **changes: Any) -> tuple[Finished, list[Event]]:
    events = list(refine.refine(refine_job(folder, mesh, **changes)))
    assert isinstance(events[-1], Finished), events[-1]
    return events[-1], events


def run_arrays(folder: Path, arrays: ObjectArrays, **changes: Any) -> tuple[MeshArrays, np.ndarray, Finished]:
    """The delivered mesh and its first texture [H,W,4]."""
    source = folder.parent / f"{folder.name}.npz"
    source.write_bytes(meshfile.to_bytes(arrays))
    finished, _ = run_file(folder, source, **changes)
    albedo = np.asarray(Image.open(folder / "albedo.png").convert("RGBA"))
    return meshfile.read(folder / "mesh.npz"), albedo, finished
