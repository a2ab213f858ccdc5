"""Whole jobs with SDXL as a folder and with what is added to it, and with SD 1.5, 2.1 and SDXL as one file: killed and
resumed to the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image
from safetensors.torch import save_file

from backend.jobs import generate, resume
from dreamflow_blender.contract.protocol import Finished, Progress
from tests.tools import tiny_control, tiny_reference, tiny_sides
from tests.tools.one_file import small_families, write_one_file
from tests.tools.real_folders import build
from tests.tools.tiny import tiny_job

FEW = {
    "nerf.levels": 3, "nerf.views": 1, "nerf.size": 64, "nerf.samples": 16, "geometry.levels": 1, "geometry.views": 1,
    "geometry.size": 64, "texture.levels": 2, "texture.views": 1, "texture.size": 64, "refine.levels": 2,
    "refine.views": 1, "refine.size": 64, "texture.guidance_rescale": 0.7,
}  # fmt: skip
LAYER = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "kind"),
    [("sdxl", "folder"), ("sdxl", "lora"), ("sdxl", "shown"), ("sdxl", "six sides")]
    + [(family, "file") for family in ("sd15", "sd21-base", "sd21", "sdxl")],
)
def test_killed_and_resumed_it_ends_with_the_same_bytes(
    family: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies on the disk when a stage has begun is what a kill leaves."""
    monkeypatch.setenv("DREAMFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("backend.weights.checkpoint_kind.families", small_families)
    monkeypatch.setattr("backend.models.single_file.families", small_families)
    model, lora = build(tmp_path / family, family, "full"), tmp_path / "glaze.safetensors"
    if kind == "file":
        model = write_one_file(model, family, tmp_path / f"{family}.safetensors")
    draw = torch.Generator().manual_seed(3)
    shapes = {"A": (2, 16), "B": (16, 2)}
    save_file(
        {f"{LAYER}.lora_{name}.weight": torch.randn(shape, generator=draw) for name, shape in shapes.items()},
        lora,
    )
    more: dict[str, Any] = {"lora": (f"{lora}:0.5",)} if kind == "lora" else {}
    if kind == "six sides":
        more = {
            "control": (f"{tiny_sides.beside(model, tmp_path / 'mvadapter_tg2mv_tiny.safetensors')}:0.8",)
        }
    if kind == "shown":
        picture = tmp_path / "cup.png"
        Image.new("RGB", (40, 40), "red").save(picture)
        adapter = tiny_reference.beside(model, tmp_path / "ipadapter")
        control = tiny_control.beside(model, ControlNetModel, tmp_path / "controlnet-depth-sdxl")
        more = {"control": (str(control),), "image": str(picture), "image_adapter": str(adapter)}
    job = tiny_job(tmp_path / "job", prior=str(model), overrides=FEW, checkpoint_seconds=0.0, **more)
    left: list[Path] = []
    seen = set()
    for event in generate.generate(job):
        if isinstance(event, Progress) and event.stage not in seen:
            seen.add(event.stage)
            if list((tmp_path / "job" / "checkpoints").glob("[0-9]*")):
                left.append(shutil.copytree(tmp_path / "job", tmp_path / f"killed in {event.stage}"))
    assert isinstance(event, Finished) and {"nerf", "geometry", "texture", "refine"} <= seen
    assert len(left) >= 3
    for folder in left:
        *_, last = resume.resume(folder)
        assert isinstance(last, Finished)
        for name in ("mesh.npz", "albedo.png"):
            assert (folder / name).read_bytes() == (tmp_path / "job" / name).read_bytes(), (folder.name, name)
