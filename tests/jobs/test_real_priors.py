"""Every stage with Stable Diffusion 2.1-base, 2.1 for D_phi and the SDXL refiner, as published but narrow."""

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from backend.jobs import generate
from backend.models import load
from dreamflow_blender.contract import meshfile
from dreamflow_blender.contract.protocol import Finished, Progress
from tests.tools.real_folders import build
from tests.tools.tiny import tiny_job

FEW = {
    "nerf.levels": 2, "nerf.size": 64, "nerf.samples": 16, "geometry.levels": 1, "geometry.size": 64,
    "texture.levels": 1, "texture.size": 64, "refine.levels": 1, "refine.size": 128,
}  # fmt: skip


@pytest.mark.slow
def test_a_prompt_goes_through_all_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = build(tmp_path / "base", "sd21-base", "fp16")
    phi = build(tmp_path / "phi", "sd21", "full", seed=1)
    refiner = build(tmp_path / "refiner", "refiner", "both", seed=2)
    monkeypatch.setenv("DREAMFLOW_CACHE", str(tmp_path / "cache"))
    loaded: list[str] = []
    alive: list[weakref.ref[torch.nn.Module]] = []
    real = load._load

    def record(kind: Any, *args: Any, **dtype: torch.dtype) -> Any:
        if kind in (CLIPTextModel, CLIPTextModelWithProjection):  # each has the memory for itself
            assert all(network() is None for network in alive)
        loaded.append(kind.__name__)
        network = real(kind, *args, **dtype)
        alive.append(weakref.ref(network))
        return network

    monkeypatch.setattr(load, "_load", record)
    job = tiny_job(tmp_path / "job", prior=str(base), phi=str(phi), refiner=str(refiner), overrides=FEW)
    events = list(generate.generate(job))
    assert isinstance(events[-1], Finished)
    seen = {e.stage for e in events if isinstance(e, Progress)}
    assert seen - {"deliver"} == {"nerf", "geometry", "texture", "refine"}
    assert len(meshfile.read(tmp_path / "job" / "mesh.npz").t_pos_idx) > 0
    models = json.loads((tmp_path / "job" / "job.json").read_text(encoding="utf-8"))["models"]
    assert models["prior"] != models["refiner"]
    used = {Path(name).name for name in models["prior"]["prior"]["sha256"]}
    assert used == {"diffusion_pytorch_model.fp16.safetensors", "model.fp16.safetensors"}
    assert models["prior"]["phi"]["prediction"] == "v_prediction"
    # Every prompt is embedded before the first UNet comes: the refiner's encoder would be a third on top of 9 GB.
    first = loaded.index("UNet2DConditionModel")
    assert set(loaded[:first]) == {"CLIPTextModel", "CLIPTextModelWithProjection"}
    assert loaded[first] == loaded[-2] == "UNet2DConditionModel" and loaded[-1] == "AutoencoderKL"
    assert not any(name.startswith("CLIP") for name in loaded[first:])
