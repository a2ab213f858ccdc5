"""Every stage with Stable Diffusion and the SDXL refiner, tiny and random but of the real configuration's shape."""

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTextModelWithProjection

from backend import pipeline
from backend.diffusion import load
from dreamflow_blender.contract import meshfile
from dreamflow_blender.contract.protocol import Finished, Progress
from tests.diffusion.tiny_models import build
from tests.tiny import tiny_job

FEW = {
    "nerf.levels": 2, "nerf.size": 64, "nerf.samples": 16, "geometry.levels": 1, "geometry.size": 64,
    "texture.levels": 1, "texture.size": 64, "refine.levels": 1, "refine.size": 128,
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("models")
    build(root / "base", "sd21-base")
    build(root / "refiner", "refiner")
    return root / "base", root / "refiner"


def test_a_prompt_goes_through_all_stages(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, refiner = folders
    monkeypatch.setenv("DREAMFLOW_CACHE", str(tmp_path / "cache"))
    loaded: list[str] = []
    alive: list[weakref.ref[torch.nn.Module]] = []
    real = load._load

    def record(kind: Any, *args: Any, **dtype: torch.dtype) -> Any:
        if kind is CLIPTextModelWithProjection:  # the refiner's is the first of its own
            assert alive and all(network() is None for network in alive)
        loaded.append(kind.__name__)
        network = real(kind, *args, **dtype)
        alive.append(weakref.ref(network))
        return network

    monkeypatch.setattr(load, "_load", record)
    job = tiny_job(tmp_path / "job", prior=str(base), refiner=str(refiner), overrides=FEW)
    events = list(pipeline.generate(job))
    assert isinstance(events[-1], Finished)
    seen = {e.stage for e in events if isinstance(e, Progress)}
    assert seen - {"deliver"} == {"nerf", "geometry", "texture", "refine"}
    assert len(meshfile.read(tmp_path / "job" / "mesh.npz").t_pos_idx) > 0
    models = json.loads((tmp_path / "job" / "job.json").read_text(encoding="utf-8"))["models"]
    assert models["prior"] != models["refiner"]
    # A text encoder is let go of before its UNet comes: the refiner's would be a third on top of 9 GB.
    assert loaded[:2] == ["CLIPTextModel", "UNet2DConditionModel"]
    assert loaded[-3:] == ["CLIPTextModelWithProjection", "UNet2DConditionModel", "AutoencoderKL"]
