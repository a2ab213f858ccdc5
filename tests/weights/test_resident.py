"""Networks that a process keeps: read once, and no job sees what another one has done with its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from backend.diffusion.savings import SAVINGS
from backend.diffusion.schedule import NoiseLevel, sigma_at
from backend.models.latent_prior import LatentPrior
from backend.scene.camera import orbit
from backend.weights import resident
from backend.weights.resident import RESIDENT

LEVEL = NoiseLevel(500, sigma_at(500), sigma_at(499))
ONE = torch.ones(1)
CAMERA = orbit(0 * ONE, 10 * ONE, 1.2 * ONE, 50 * ONE, 64, 64)


@pytest.fixture
def folder(base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of its own, and a process that keeps what it reads."""
    for name, value in {"keeping": True, "read": 0, "_kept": {}}.items():
        monkeypatch.setattr(RESIDENT, name, value)
    return shutil.copytree(base_folder, tmp_path / "model")


def job(folder: Path, prompt: str) -> list[Tensor]:
    """All that a job does to its networks; what it sees."""
    prior = LatentPrior(folder, "cpu")
    prior.save_memory(SAVINGS[2][1])
    words = prior.prepare(prompt, "", "colour", 64)
    generator = torch.Generator().manual_seed(3)
    x = prior.encode(torch.rand(1, 64, 64, 3, generator=generator).requires_grad_())
    phi = prior.phi(words, 4, 1e-2, 0, 5)
    losses = [phi.fit(x, LEVEL, CAMERA, generator)]
    prior.release()
    return [
        x.detach(),
        *losses,
        prior.denoise(x.detach(), LEVEL, CAMERA, words, 3.0),
        prior.decode(x.detach()),
    ]


def test_every_network_is_read_once_and_no_job_changes_the_next_one_s(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RESIDENT.keeping = False
    monkeypatch.setenv("DREAMFLOW_CACHE", str(tmp_path / "empty"))  # no text is known
    alone = job(folder, "a red mug")
    assert RESIDENT.read == 5  # the encoder of texts, and UNet and VAE before and after the release
    monkeypatch.setenv("DREAMFLOW_CACHE", str(tmp_path / "cache"))  # no text is known again
    RESIDENT.keeping, RESIDENT.read = True, 0
    job(folder, "a blue duck")
    assert all(torch.equal(a, b) for a, b in zip(job(folder, "a red mug"), alone, strict=True))
    assert RESIDENT.read == 3


def test_a_model_that_has_changed_is_read_again(folder: Path) -> None:
    first = LatentPrior(folder, "cpu")._network.unet.conv_in.bias.clone()
    (path,) = (folder / "unet").glob("*.safetensors")
    tensors = load_file(path)
    tensors["conv_in.bias"] += 1
    save_file(
        {name: tensor.clone() for name, tensor in tensors.items()}, path, {"format": "pt", "edition": "2"}
    )
    second = LatentPrior(folder, "cpu")._network.unet.conv_in.bias
    assert RESIDENT.read == 2 and torch.allclose(second, first + 1)


def test_where_memory_is_short_nothing_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "MOST", 0.0)
    LatentPrior(folder, "cpu").load()
    assert RESIDENT._kept == {} and RESIDENT.read == 2
