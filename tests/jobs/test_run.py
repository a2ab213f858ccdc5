"""A whole job, seconds long: what it writes, that it repeats to the byte, and what it does when it must not."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backend.config import resolve
from backend.errors import NumericsError, SceneError
from backend.jobs import generate
from backend.jobs.record import resolve_job
from backend.scene.mesh import Mesh, components, face_cross, is_closed
from backend.stages import chain
from backend.stages.happenings import Note
from backend.stages.setup import set_up
from dreamflow_blender.contract import meshfile
from dreamflow_blender.contract.protocol import Finished, Job, Started
from tests.tools.made_meshes import signed_volume
from tests.tools.oracle import Oracle
from tests.tools.tiny import tiny_job

FILES = {
    "mesh.glb", "mesh.npz", "albedo.png", "views.png", "curves.png", "turntable.webp", "preview.png", "job.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def patched():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backend.jobs.priors.open_prior", lambda *_: Oracle())
        yield patch


def run(folder: Path, **changes) -> Finished:
    job = tiny_job(folder, **changes)
    events = list(generate.generate(job))
    assert [e.stage for e in events if isinstance(e, Started)] == [*job.stages, "deliver"]
    finished = events[-1]
    assert isinstance(finished, Finished)
    return finished


@pytest.fixture(scope="module")
def first(patched, tmp_path_factory):
    folder = tmp_path_factory.mktemp("é first")
    return folder, run(folder)


def test_everything_promised_is_there(first) -> None:
    folder, finished = first
    assert {path.name for path in folder.iterdir()} >= FILES
    assert finished.figures["faces"] <= 500 and finished.figures["seconds"] > 0
    assert all(Path(path).is_file() for path in finished.paths.values())
    image = Image.open(folder / "albedo.png")
    assert image.size == (64, 64) and image.mode == "RGB" and "srgb" in image.info


def test_the_job_file_says_what_was_resolved(first) -> None:
    record = json.loads((first[0] / "job.json").read_text(encoding="utf-8"))
    assert record["settings"]["nerf"]["size"] == 16 and record["device"] == "cpu" and record["threads"] == 1
    assert set(record["kernels"]) == set(record["kernels_why"]) == {"hash grid", "rasteriser", "marching"}
    assert record["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert record["models"]["prior"]["name"] == "oracle"


def test_the_mesh_is_one_closed_solid_with_a_texture_everywhere(first) -> None:
    arrays = meshfile.read(first[0] / "mesh.npz")
    mesh = Mesh(torch.from_numpy(arrays.v_pos), torch.from_numpy(arrays.t_pos_idx).long())
    assert is_closed(mesh) and signed_volume(mesh) > 0
    assert float(face_cross(mesh).norm(dim=1).min()) > 0
    assert components(mesh)[0] == 1
    assert len(arrays.t_tex_idx) == len(arrays.t_pos_idx)
    uv = arrays.v_tex[arrays.t_tex_idx]
    area = np.cross(uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0])
    assert (np.abs(area) > 0).all() and uv.min() >= 0 and uv.max() <= 1


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(first, tmp_path: Path) -> None:
    folder, _ = first
    torch.manual_seed(1234)  # whatever the process has drawn before changes nothing
    run(tmp_path / "again")
    run(tmp_path / "other", seed=43)
    for name in ("mesh.npz", "albedo.png"):
        same, other = (tmp_path / which / name for which in ("again", "other"))
        assert same.read_bytes() == (folder / name).read_bytes(), name
        assert other.read_bytes() != (folder / name).read_bytes(), name


def test_stages_can_be_left_out(patched, tmp_path: Path) -> None:
    finished = run(tmp_path / "nerf only", stages=("nerf",))
    assert "seconds_nerf" in finished.figures and "seconds_geometry" not in finished.figures
    assert (tmp_path / "nerf only" / "mesh.glb").is_file()


def test_closing_the_run_in_the_middle_leaves_a_mesh(patched, tmp_path: Path) -> None:
    events = generate.generate(tiny_job(tmp_path / "job"))
    for event in events:
        if isinstance(event, Started) and event.stage == "geometry":
            break
    events.close()
    assert meshfile.read(tmp_path / "job" / "mesh.npz").t_pos_idx.shape[0] > 0
    assert (tmp_path / "job" / "mesh.glb").is_file()


def test_a_nan_names_stage_iteration_and_tensor(patched, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backend.jobs.priors.open_prior", lambda *_: Oracle(fault=float("nan")))
        with pytest.raises(NumericsError, match="nerf, iteration 0: D_p"):
            list(generate.generate(tiny_job(tmp_path / "job")))
    assert not (tmp_path / "job" / "mesh.npz").exists()


def test_an_empty_scene_is_tried_with_three_seeds_and_then_told() -> None:
    job = Job("empty", "generate", "a ball", "unused", overrides={}, seed=5)
    few = {"nerf.levels": 20, "nerf.views": 2, "nerf.size": 16, "nerf.occupancy_every": 4}
    preset = resolve("draft", {"job": few}).preset
    preset = dataclasses.replace(preset, nerf=dataclasses.replace(preset.nerf, density_bias=-1e3, half=0.3))
    told, error = [], None
    try:
        for happening in chain.run_stages(set_up(job, preset, Oracle(), {}, torch.device("cpu"))):
            if isinstance(happening, Note):
                told.append(happening.message)
    except SceneError as caught:
        error = caught
    assert error is not None and "Three seeds" in error.message and error.todo
    assert len(told) == 2 and all("another seed" in note for note in told)


def test_a_prior_s_guidance_goes_before_the_preset_s_and_the_user_s_before_both() -> None:
    refiner = Oracle()
    refiner.spec = dataclasses.replace(refiner.spec, guidance=2)
    job = Job("1", "generate", "a ball", "unused", overrides={"geometry.guidance_scale": 4.5})
    resolved = resolve_job(job, Oracle(), {"refine": refiner})
    preset = resolved.preset
    assert [getattr(preset, stage).guidance_scale for stage in ("nerf", "geometry", "texture", "refine")] == [
        1.0, 4.5, 1.0, 2.0,
    ]  # fmt: skip
    assert resolved.set_by == {
        "nerf.guidance_scale": "prior", "geometry.guidance_scale": "job", "texture.guidance_scale": "prior",
        "refine.guidance_scale": "refiner",
    }  # fmt: skip
    refiner.spec = dataclasses.replace(refiner.spec, guidance=None)
    plain = Job("1", "generate", "a ball", "unused")
    assert resolve_job(plain, refiner, {}) == resolve("draft")
