"""Whole jobs on the pretended card: every kind and prior, stopped and resumed, out of memory; what they wait for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image

from backend.errors import OutOfMemory
from backend.jobs import generate as jobs_generate
from backend.jobs import resume
from backend.jobs.telemetry import RunClock
from backend.objects import exact_prior
from backend.objects import room as rooms
from backend.results import deliver
from backend.stages.checkpoint_writer import listed
from dreamflow_blender.contract import protocol as p
from tests.card import accelerators
from tests.card.iterations import by_place, waits_by_iteration
from tests.card.pretended import PretendedCard
from tests.tools import mvdream_reference, refine_run, strict_nvdiffrast, tiny_reference, tiny_sides
from tests.tools.made_meshes import painted_ball
from tests.tools.tiny import tiny_job
from tests.tools.tiny_control import beside
from tests.tools.tiny_models import build

pytestmark = [
    pytest.mark.skipif(torch.backends.cuda.is_built(), reason="this torch has CUDA: there is a card to ask"),
    pytest.mark.slow,  # two minutes of one core; .ci/run has a step for them
]

FEW: dict[str, Any] = {"nerf.levels": 2, "geometry.levels": 1, "texture.levels": 1, "refine.levels": 1}
LORA = {f"{stage}.phi": "lora" for stage in ("nerf", "texture", "refine")}


@pytest.fixture
def card() -> Iterator[PretendedCard]:
    with PretendedCard() as card:
        yield card


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """SD 2.1-base, SD 2.1 for D_phi, and the refiner, in the sizes of tests."""
    root = tmp_path_factory.mktemp("models")
    build(root / "base", "sd21-base")
    build(root / "v", "sd21", seed=1)
    build(root / "refiner", "refiner", seed=2)
    return {"prior": str(root / "base"), "phi": str(root / "v"), "refiner": str(root / "refiner")}


@pytest.fixture(autouse=True)
def small_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exact prior's pictures are traced at the size of the stage, not at 128 pixels."""
    monkeypatch.setattr(exact_prior, "TRACED", 16)


def finished(folder: Path, events: Iterator[p.Event]) -> list[p.Event]:
    told = list(events)
    assert isinstance(told[-1], p.Finished), told[-1]
    for name in ("mesh.npz", "mesh.glb", "albedo.png", "views.png", "turntable.webp", "curves.png"):
        assert (folder / name).stat().st_size > 0
    return told


def generate(folder: Path, overrides: dict[str, Any], **changes: Any) -> list[p.Event]:
    job = tiny_job(folder, device="cuda", overrides=FEW | overrides, **changes)
    return finished(folder, jobs_generate.generate(job))


def test_the_exact_prior(card, tmp_path, monkeypatch):
    monkeypatch.setattr(RunClock, "PREVIEW_EVERY", 0.0)
    told = generate(tmp_path / "job", {}, prior="exact", snapshot_seconds=0.01)
    ready = next(event for event in told if isinstance(event, p.Ready))
    assert ready.devices == ("Pretended RTX",) and set(ready.kernels.values()) == {"warp"}
    assert any(isinstance(event, p.Snapshot) for event in told)
    assert any(isinstance(event, p.Preview) for event in told)
    assert card.operators["convolution"] == 0 and card.operators["index_add"] > 0


def test_the_embedded_prior(card, tmp_path):
    generate(tmp_path / "job", {}, prior="mini")
    assert card.operators["convolution"] > 100


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job on the embedded prior with a learnt D_phi in every stage that can have one."""
    folder = tmp_path_factory.mktemp("whole") / "job"
    with PretendedCard() as card:
        generate(folder, LORA, prior="mini")
        assert card.operators["_fused_adamw_"] + card.operators["_foreach_addcdiv_"] > 0
    return folder


def test_stable_diffusion_and_the_refiner(card, tmp_path, folders):
    size = {"nerf.size": 16, "geometry.size": 64, "texture.size": 64, "refine.size": 64}
    generate(tmp_path / "job", LORA | size, **folders)
    assert card.operators["convolution"] > 1000


def test_a_controlnet_is_shown_the_mesh(card, tmp_path, folders):
    net = beside(Path(folders["prior"]), ControlNetModel, tmp_path / "depth")
    size = {"nerf.size": 16, "geometry.size": 64, "texture.size": 64, "refine.size": 64}
    stated = {"prior": folders["prior"], "control": (str(net),)}
    generate(tmp_path / "job", LORA | size, **stated)


def test_six_sides_at_once(card, tmp_path, folders):
    file = tiny_sides.beside(Path(folders["prior"]), tmp_path / "mvadapter_tg2mv_tiny.safetensors")
    size = {"nerf.size": 16, "geometry.size": 64, "texture.size": 64, "refine.size": 64}
    generate(tmp_path / "job", LORA | size, prior=folders["prior"], control=(str(file),))


def test_a_scene_round_the_cameras(card, tmp_path, monkeypatch):
    monkeypatch.setattr(rooms, "TRACED", 16)
    monkeypatch.setattr(rooms.RoomPrior.__init__, "__defaults__", ("cpu", 12))
    monkeypatch.setattr(deliver, "WITHIN_SIZE", 24)
    settings = {"nerf.levels": 30, "geometry.cells": 16, "nerf.density_bias": -60.0}
    job = tiny_job(
        tmp_path / "job",
        device="cuda",
        overrides=FEW | settings,
        prior="exact",
        seed=3,
        scene=True,
        stages=("nerf",),
    )
    job = dataclasses.replace(job, prompt="a room with a red mug and a blue chair")
    finished(tmp_path / "job", jobs_generate.generate(job))


def test_noise_on_the_surface_and_carried(card, tmp_path):
    generate(tmp_path / "job", {"texture.noise": "surface", "refine.noise": "carried"}, prior="mini")


def test_a_picture_is_shown_beside_the_prompt(card, tmp_path, folders):
    adapter, picture = (
        tiny_reference.beside(Path(folders["prior"]), tmp_path / "adapter"),
        tmp_path / "one.png",
    )
    Image.new("RGB", (40, 30), "green").save(picture)
    size = {"nerf.size": 16, "geometry.size": 64, "texture.size": 64, "refine.size": 64}
    stated = {"prior": folders["prior"], "image": str(picture), "image_adapter": str(adapter)}
    generate(tmp_path / "job", LORA | size, **stated)


def test_an_imagedream_sees_a_picture_beside_every_ring(card, tmp_path, base_folder):
    model = mvdream_reference.build(tmp_path / "imagedream", base_folder, "ldm", words=6)
    picture = tmp_path / "one.png"
    cut_out = Image.new("RGBA", (40, 30))
    cut_out.paste((0, 128, 0, 255), (8, 5, 30, 25))
    cut_out.save(picture)
    size = {"nerf.size": 64, "geometry.size": 64, "texture.size": 64, "refine.size": 64}
    generate(tmp_path / "job", LORA | size, prior=str(model), image=str(picture))


def test_another_model_textures_what_mvdream_has_made(card, tmp_path, base_folder, folders):
    model = mvdream_reference.build(tmp_path / "mvdream", base_folder, "ldm")
    size = {"nerf.size": 64, "geometry.size": 64, "texture.size": 64, "refine.size": 64}
    named = {"texturer": folders["prior"], "refiner": folders["refiner"]}
    generate(tmp_path / "job", LORA | size, prior=str(model), **named)


@pytest.mark.parametrize(
    "stage", ["nerf", "texture"]
)  # test_checkpoint.py, on the plugin's card, has them all
def test_stopped_and_resumed_it_ends_the_same(card, whole, tmp_path, stage):
    folder = tmp_path / "job"
    job = tiny_job(folder, device="cuda", prior="mini", overrides=FEW | LORA, checkpoint_seconds=0.0)

    def asked() -> str | None:
        return "cancel" if any(f"-{stage}-" in path.name for path in listed(folder)) else None

    *_, last = jobs_generate.generate(job, asked)
    assert isinstance(last, p.Cancelled)
    finished(folder, resume.resume(folder))
    for name in ("mesh.npz", "albedo.png"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_the_cpu_then_the_card_then_the_cpu(tmp_path):
    """In one process, as a worker that is kept between jobs."""

    def on(name: str, device: str) -> bytes:
        job = tiny_job(tmp_path / name, device=device, prior="mini", overrides=FEW)
        finished(tmp_path / name, jobs_generate.generate(job))
        return (tmp_path / name / "mesh.npz").read_bytes()

    with PretendedCard() as card:
        first = on("first", "cpu")
        assert not card.operators
        on("second", "cuda")
        assert card.operators.total() > 10000
        torch.cuda.empty_cache()
        assert on("third", "cpu") == first


def test_out_of_memory_steps_down_and_goes_on(tmp_path, folders):
    changes = {"nerf.size": 16, "texture.size": 64} | LORA
    stages = ("nerf", "geometry", "texture")
    job = tiny_job(
        tmp_path / "job", device="cuda", overrides=FEW | changes, stages=stages, prior=folders["prior"]
    )
    with PretendedCard() as card:
        real, asked = card.memory.put, []

        def put(tensor: torch.Tensor) -> None:
            asked.append(1)
            if len(asked) == 6000:  # in the middle of an iteration
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            real(tensor)

        card.memory.put = put  # type: ignore[method-assign]
        told = finished(tmp_path / "job", jobs_generate.generate(job))
    assert any("Out of memory in stage" in event.message for event in told if isinstance(event, p.Warning))


def test_a_card_that_is_too_small_says_what_to_change(tmp_path):
    job = tiny_job(tmp_path / "job", device="cuda", prior="exact", overrides=FEW)
    with PretendedCard() as card, pytest.raises(OutOfMemory) as caught:
        for event in jobs_generate.generate(job):
            if isinstance(event, p.Started):
                card.memory.limit = card.memory.allocated + 2000
    assert "nerf.budget" in caught.value.todo


def refine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    refine_run.shorten(monkeypatch)
    arrays = dataclasses.replace(painted_ball(), **changes)
    _, albedo, _ = refine_run.run_arrays(tmp_path / "job", arrays, device="cuda")
    assert albedo.shape[-1] == 4


@pytest.mark.parametrize("with_nvdiffrast", [False, True], ids=["warp", "nvdiffrast"])
def test_refine_of_an_object_with_uvs(card, tmp_path, monkeypatch, with_nvdiffrast):
    calls = accelerators.install_nvdiffrast(monkeypatch) if with_nvdiffrast else []
    refine(tmp_path, monkeypatch)
    assert card.operators.total() > 1000 and (len(calls) > 1) == with_nvdiffrast  # the first is a trial


def test_refine_of_a_selection(card, tmp_path, monkeypatch):
    arrays = painted_ball()
    selected = arrays.v_pos[arrays.t_pos_idx].mean(1)[:, 2] > 0
    refine(tmp_path, monkeypatch, weight=np.repeat(selected[:, None], 3, 1).astype(np.float32))


def test_a_job_with_both_accelerators(card, tmp_path, monkeypatch):
    drawn, encoded = (
        accelerators.install_nvdiffrast(monkeypatch),
        accelerators.install_tinycudann(monkeypatch),
    )
    generate(tmp_path / "job", {}, prior="mini")
    assert len(drawn) > 1 and len(encoded) > 1  # the first of each is a trial


def test_an_accelerator_built_for_another_card(card, tmp_path, monkeypatch):
    def launch():
        card.left = "no kernel image is available for execution on the device"
        raise RuntimeError("Cuda error: 209[cudaLaunchKernel(...);]")

    strict_nvdiffrast.install(monkeypatch, own=launch)
    told = generate(tmp_path / "job", {}, prior="exact")
    ready = next(event for event in told if isinstance(event, p.Ready))
    assert set(ready.kernels.values()) == {"warp"} and "Cuda error: 209" in ready.kernels_why["rasteriser"]
    assert any("uninstall it" in event.message for event in told if isinstance(event, p.Warning))


MOST = {"nerf": 2, "geometry": 5, "texture": 2, "refine": 2}  # waits of an iteration
RING = {
    "nerf": 2,
    "geometry": 11,
    "texture": 8,
    "refine": 8,
}  # of four views, meshes being drawn view by view
EXACT = {"nerf": 4, "geometry": 7, "texture": 4, "refine": 4}  # which picks its pictures by the view's word


@pytest.mark.parametrize("name", ["exact", "mini", "stable diffusion"])
def test_waits_of_an_iteration(card, tmp_path, folders, name):
    known = {
        "backend/kernels/march_warp.py march: tolist",
        "backend/stages/stages.py nerf_stage.<locals>.after: _local_scalar_dense",  # the opacity, beside the occupancy
        "backend/scene/isosurface.py marching_tetrahedra: nonzero",
        "backend/kernels/silhouette.py edge_table: nonzero",
        "backend/kernels/silhouette.py _crossings: repeat_interleave",
        "backend/kernels/raster.py fragments: nonzero",
    }
    if name == "exact":
        known |= {
            "backend/diffusion/view_words.py view_words: tolist",
            "backend/objects/exact_prior.py posterior_mean: nonzero",
        }
    few = {"nerf.levels": 3, "geometry.levels": 2, "texture.levels": 2, "refine.levels": 2}
    changes: dict[str, Any] = {"prior": name}
    if name == "stable diffusion":
        changes = dict(folders)
        few |= LORA | {"geometry.size": 64, "texture.size": 64, "refine.size": 64}
    found = waits_by_iteration(card, tiny_job(tmp_path / "job", device="cuda", overrides=few, **changes))
    assert set(found) == set(p.STAGES)
    most = {"exact": EXACT, "mini": RING}.get(name, MOST)
    for stage, iterations in found.items():
        assert iterations
        for waits in iterations:
            assert set(by_place(waits)) <= known, f"{stage}: {by_place(waits)}"
            assert waits.total() <= most[stage], f"{stage}: {by_place(waits)}"
