"""A grey object whose texture MV-Adapter's six views make, with a tiny random model: killed and resumed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.jobs import priors, refine, resume
from dreamflow_blender.contract import meshfile
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import Finished
from tests.tools import tiny_sides
from tests.tools.made_meshes import painted_ball
from tests.tools.real_folders import build
from tests.tools.refine_run import refine_job, shorten

FEW = {"texture.size": 64, "texture.levels": 2, "texture.views": 1}


def test_killed_and_resumed_it_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies on the disk after an update is what a kill leaves."""
    real = priors.open_prior
    shorten(monkeypatch)
    monkeypatch.setattr(priors, "open_prior", real)
    monkeypatch.setenv("DREAMFLOW_CACHE", str(tmp_path / "cache"))
    model = build(tmp_path / "sd", "sd15", "full")
    file = tiny_sides.beside(model, tmp_path / "mvadapter_tg2mv_tiny.safetensors")
    arrays = painted_ball(image=[-1], images=(), base=[(0.6, 0.6, 0.6, 1.0)])
    (tmp_path / "grey.npz").write_bytes(meshfile.to_bytes(arrays))
    job = refine_job(
        tmp_path / "job", tmp_path / "grey.npz", stages=("texture",), overrides=FEW, prior=str(model),
        control=(f"{file}:0.8",), checkpoint_seconds=0.0,
    )  # fmt: skip

    def asked() -> str | None:
        """After every update, where progress is shown now and then only."""
        if not (tmp_path / "killed").exists() and list(
            (tmp_path / "job/checkpoints").glob("[0-9]*-texture-*")
        ):
            shutil.copytree(tmp_path / "job", tmp_path / "killed")
        return None

    *_, event = refine.refine(job, asked)
    assert isinstance(event, Finished)
    assert "sides" in JobFolder(tmp_path / "job").job.read_text("utf-8")
    albedo = np.asarray(Image.open(tmp_path / "job/albedo.png").convert("RGB")).astype(int)
    assert (abs(albedo - 153).max(-1) > 1).mean() > 0.95  # nothing is left grey
    *_, last = resume.resume(tmp_path / "killed")
    assert isinstance(last, Finished)
    assert (tmp_path / "killed/albedo.png").read_bytes() == (tmp_path / "job/albedo.png").read_bytes()
