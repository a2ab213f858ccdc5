"""Whole jobs with MVDream and ImageDream: four views an update in all stages, stopped and resumed to the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from backend.jobs import generate, resume
from dreamflow_blender.contract.protocol import Cancelled, Finished, Progress
from tests.tools.mvdream_reference import build
from tests.tools.tiny import tiny_job

FEW = {
    "nerf.levels": 3, "nerf.views": 1, "nerf.size": 64, "nerf.samples": 16, "nerf.normal_share": 0.5,
    "geometry.levels": 1, "geometry.size": 64, "texture.levels": 2, "texture.views": 1, "texture.size": 64,
    "refine.levels": 1, "refine.views": 1, "refine.size": 64,
}  # fmt: skip
STAGES = {"nerf", "geometry", "texture", "refine"}


@pytest.fixture(
    scope="module", params=["ldm", "diffusers", pytest.param("imagedream", marks=pytest.mark.slow)]
)
def stated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, base_folder: Path
) -> dict[str, str]:
    """The prior and, for ImageDream, the picture."""
    folder = tmp_path_factory.mktemp("models") / request.param
    if request.param != "imagedream":
        return {"prior": str(build(folder, base_folder, request.param))}
    picture = folder.with_suffix(".png")
    cup = Image.new("RGBA", (48, 40))
    cup.paste((200, 30, 40, 255), (10, 8, 40, 36))
    cup.save(picture)
    return {"prior": str(build(folder, base_folder, "ldm", words=6)), "image": f"{picture}:0.8"}


@pytest.fixture(scope="module")
def whole(stated: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "job"
    events = list(generate.generate(tiny_job(folder, **stated, overrides=FEW)))
    assert isinstance(events[-1], Finished)
    assert {event.stage for event in events if isinstance(event, Progress)} - {"deliver"} == STAGES
    return folder


def test_all_stages_end_with_a_textured_mesh(whole: Path) -> None:
    for name in ("mesh.npz", "mesh.glb", "albedo.png", "views.png"):
        assert (whole / name).stat().st_size > 0


@pytest.mark.parametrize("stage", ["nerf", pytest.param("texture", marks=pytest.mark.slow)])
def test_stopped_and_resumed_it_ends_with_the_same_bytes(
    stated: dict[str, str], whole: Path, tmp_path: Path, stage: str
) -> None:
    folder = tmp_path / "job"
    job = tiny_job(folder, **stated, overrides=FEW, checkpoint_seconds=0.0)

    def asked() -> str | None:
        return "cancel" if list((folder / "checkpoints").glob(f"[0-9]*-{stage}-*")) else None

    *_, last = generate.generate(job, asked)
    assert isinstance(last, Cancelled)
    *_, last = resume.resume(folder)
    assert isinstance(last, Finished)
    for name in ("mesh.npz", "albedo.png"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
