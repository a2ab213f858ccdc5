"""A prior that is told the camera's matrix and denoises four views together, in Stable Diffusion's layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from backend.diffusion.camera_label import CAMERA_CONFIG, camera_label
from backend.diffusion.convention import scale_in
from backend.diffusion.savings import Savings
from backend.diffusion.schedule import NoiseLevel, sigma_at
from backend.errors import InputError, ModelError
from backend.models.latent_prior import LatentPrior
from backend.models.model_folder import open_folder
from backend.scene.camera import Camera, orbit, rings_of

LEVEL = NoiseLevel(500, sigma_at(500), sigma_at(499))
FRAMES = 4
STATED = {"camera": "c2w", "frames": FRAMES, "view_prompt": "{prompt}"}


def ring_folder(folder: Path, base: Path, stated: dict | None, told: bool = True) -> Path:
    """The tiny Stable Diffusion with a UNet that takes a camera, and what dreamflow.json states of it."""
    shutil.copytree(base, folder)
    config = UNet2DConditionModel.load_config(base / "unet")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        unet = UNet2DConditionModel.from_config({**config, **(CAMERA_CONFIG if told else {})})
    unet.save_pretrained(folder / "unet")
    if stated is not None:
        (folder / "dreamflow.json").write_text(json.dumps(stated), "utf-8")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Path:
    return ring_folder(tmp_path_factory.mktemp("rings") / "ring", base_folder, STATED)


@pytest.fixture(scope="module")
def prior(folder: Path) -> LatentPrior:
    return LatentPrior(folder, "cpu")


def rings(count: int) -> Camera:
    ones = torch.ones(count)
    return rings_of(orbit(torch.arange(count) * 20.0 + 10, 15 * ones, 1.2 * ones, 50 * ones, 32, 32), FRAMES)


def noise(views: int, seed: int = 0) -> Tensor:
    return torch.randn(views, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def reference(folder: Path, prior: LatentPrior, z: Tensor, camera: Camera, scale: float) -> Tensor:
    """D_p by diffusers' own call a half, its attention joined by hand where it is computed."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", local_files_only=True).eval()
    for block in (m for name, m in unet.named_modules() if name.endswith("attn1")):
        plain = block.forward

        def joined(hidden: Tensor, *args: object, plain: object = plain, **kwargs: object) -> Tensor:
            b, n, c = hidden.shape
            return plain(hidden.reshape(b // FRAMES, FRAMES * n, c), *args, **kwargs).reshape(b, n, c)  # type: ignore[operator]

        block.forward = joined
    said = prior.prepare("a red mug", "blurry", "colour", 32)
    found = []
    for text in (said.views, said.negative):
        assert len(text.hidden) == 1  # one sentence, whatever the camera
        with torch.no_grad():
            out = unet(
                z * scale_in(LEVEL),
                500,
                encoder_hidden_states=text.hidden.expand(len(z), -1, -1),
                class_labels=camera_label(camera.c2w),
            ).sample
        found.append(z - LEVEL.sigma * out)
    return found[1] + scale * (found[0] - found[1])


def test_it_denoises_rings_as_an_independent_reference_does(folder: Path, prior: LatentPrior) -> None:
    camera, z = rings(2), noise(2 * FRAMES)
    got = prior.denoise(z, LEVEL, camera, prior.prepare("a red mug", "blurry", "colour", 32), 3.0)
    assert prior.spec.frames == FRAMES
    assert torch.allclose(got, reference(folder, prior, z, camera, 3.0), atol=1e-4)


def test_one_view_moves_its_ring_and_the_camera_is_heard(prior: LatentPrior) -> None:
    camera, z = rings(2), noise(2 * FRAMES)
    said = prior.prepare("a red mug", "blurry", "colour", 32)
    before = prior.denoise(z, LEVEL, camera, said, 3.0)
    moved = z.clone()
    moved[5] += 1
    change = (prior.denoise(moved, LEVEL, camera, said, 3.0) - before).abs().amax((1, 2, 3)) > 1e-6
    assert change.tolist() == [False] * FRAMES + [True] * FRAMES
    turned = Camera(camera.c2w.roll(1, 0), camera.proj, 32, 32)
    assert not torch.allclose(prior.denoise(z, LEVEL, turned, said, 3.0), before, atol=1e-5)
    with pytest.raises(InputError, match="no whole number of rings"):
        prior.denoise(z[:3], LEVEL, camera[:3], said, 3.0)


def test_a_learnt_phi_on_its_network_begins_as_it_and_is_told_the_camera(folder: Path) -> None:
    prior = LatentPrior(folder, "cpu")
    said = prior.prepare("a red mug", "", "colour", 32)
    camera, z = rings(1), noise(FRAMES)
    phi = prior.phi(said, 2, 1e-3, 1, 0)
    assert torch.allclose(phi(z, LEVEL, camera), prior.denoise(z, LEVEL, camera, said, 1.0), atol=1e-5)
    loss = phi.fit(0.1 * z, LEVEL, camera, torch.Generator().manual_seed(0))
    assert loss.isfinite() and not torch.allclose(
        phi(z, LEVEL, camera), prior.denoise(z, LEVEL, camera, said, 1.0), atol=1e-5
    )


def test_a_ring_takes_the_memory_of_its_views(folder: Path, base_folder: Path) -> None:
    ring, single = (LatentPrior(path, "cpu") for path in (folder, base_folder))
    ratio = ring.footprint(512, Savings()) / single.footprint(512, Savings())
    assert 3.9 < ratio < 4.1


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        (None, True),  # a UNet that wants a camera which nobody would give it
        (STATED, False),  # one that takes none
        ({**STATED, "camera": "euler"}, True),
        ({**STATED, "frames": 0}, True),
        ({**STATED, "frames": 2.5}, True),
        ({**STATED, "frames": True}, True),
        ({**STATED, "frames": 1000}, True),
        ({**STATED, "still": {}}, True),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, base_folder: Path, stated: dict | None, told: bool
) -> None:
    with pytest.raises(ModelError):
        open_folder(ring_folder(tmp_path / "ring", base_folder, stated, told))


def test_rings_stand_in_equal_steps_and_share_the_rest() -> None:
    angles = (
        torch.tensor([10.0, -150.0]),
        torch.tensor([20.0, 70.0]),
        torch.tensor([1.2, 1.5]),
        torch.tensor([45.0, 60.0]),
    )
    camera = rings_of(orbit(*angles, 8, 16), 4)
    azimuth, elevation, distance, fov = (a.repeat_interleave(4) for a in angles)
    wanted = orbit(azimuth + 90.0 * torch.arange(4).repeat(2), elevation, distance, fov, 8, 16)
    assert torch.allclose(camera.c2w, wanted.c2w, atol=1e-6) and torch.equal(camera.proj, wanted.proj)
    one = orbit(*angles, 8, 16)
    assert rings_of(one, 1) is one
