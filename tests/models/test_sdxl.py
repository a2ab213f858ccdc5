"""SDXL's base model as D_p and D_phi, held against diffusers' own pipeline; a tiny random network of its layout."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from backend.diffusion.schedule import NoiseLevel, sigma_at
from backend.diffusion.view_words import VIEWS
from backend.models.latent_prior import Conditioning, LatentPrior
from backend.models.model_folder import open_folder
from backend.scene.camera import orbit
from tests.tools.real_folders import build

LEVEL = NoiseLevel(300, sigma_at(300), sigma_at(290))
FRONT = orbit(torch.zeros(1), torch.full((1,), 10.0), 1.2 * torch.ones(1), 50 * torch.ones(1), 64, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("sdxl") / "sdxl", "sdxl", "full")


@pytest.fixture(scope="module")
def prior(folder: Path) -> LatentPrior:
    return LatentPrior(folder, "cpu")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True, dtype=torch.float32)


@pytest.mark.parametrize("negative", ["", "blurry"])
def test_both_encoders_and_the_pooled_sentence_are_diffusers_own(
    negative: str, prior: LatentPrior, pipeline: StableDiffusionXLPipeline
) -> None:
    """An empty negative prompt is one that was not given: zeros."""
    conditioning = prior.prepare("a red mug", negative, "colour", 128)
    with torch.no_grad():
        hidden, none, pooled, none_pooled = pipeline.encode_prompt(
            f"a red mug, {VIEWS[0]} view", device="cpu", negative_prompt=negative or None
        )
    ids = pipeline._get_add_time_ids(
        (128, 128), (0, 0), (128, 128), dtype=torch.float32, text_encoder_projection_dim=12
    )
    for text, expected, expected_pooled in (
        (conditioning.views.rows(torch.tensor([0])), hidden, pooled),
        (conditioning.negative, none, none_pooled),
    ):
        assert text.pooled is not None and text.time_ids is not None
        torch.testing.assert_close(text.hidden, expected)
        torch.testing.assert_close(text.pooled, expected_pooled)
        assert torch.equal(text.time_ids, ids)
    assert bool(conditioning.negative.hidden.any()) == (negative != "")
    assert conditioning.phi.hidden.shape[-1] == 32 and bool(conditioning.phi.hidden.any())


def test_a_model_that_was_trained_on_empty_sentences_is_given_one(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    index = other / "model_index.json"
    index.write_text(
        json.dumps(json.loads(index.read_text("utf-8")) | {"force_zeros_for_empty_prompt": False})
    )
    assert LatentPrior(other, "cpu").prepare("a mug", "", "colour", 64).negative.hidden.any()


def test_d_p_is_the_pipelines_step(prior: LatentPrior, pipeline: StableDiffusionXLPipeline) -> None:
    """Guided epsilon through diffusers' own UNet and scheduler: D to 1e-5."""
    conditioning = prior.prepare("a red mug", "blurry", "colour", 64)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    ours = prior.denoise(z, LEVEL, FRONT, conditioning, 5.0)
    with torch.no_grad():
        hidden, none, pooled, none_pooled = pipeline.encode_prompt(
            "a red mug, front view", device="cpu", negative_prompt="blurry"
        )
        added = {
            "text_embeds": torch.cat((none_pooled, pooled)),
            "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]]).expand(2, -1),
        }
        bar = 1 / (1 + LEVEL.sigma**2)
        seen = (z * bar**0.5).expand(2, -1, -1, -1)
        without, with_text = pipeline.unet(
            seen, 300, encoder_hidden_states=torch.cat((none, hidden)), added_cond_kwargs=added
        ).sample.chunk(2)
    eps = without + 5.0 * (with_text - without)
    torch.testing.assert_close(ours, z - LEVEL.sigma * eps, rtol=1e-5, atol=1e-5)


def test_what_it_states_of_itself(prior: LatentPrior, folder: Path) -> None:
    model = open_folder(folder)
    assert model.encoders == ["text_encoder", "text_encoder_2"] and model.empty_is_zeros
    assert (prior.spec.native_size, prior.spec.refiner) == (64, "sdxl-refiner")


def by_phi(conditioning: Conditioning) -> Conditioning:
    """The views told as D_phi is: without words for them."""
    return replace(conditioning, views=conditioning.phi.repeated(len(VIEWS)))


def test_d_phi_learns_on_its_network(prior: LatentPrior) -> None:
    conditioning = prior.prepare("a red mug", "", "colour", 64)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    before = prior.denoise(z, LEVEL, FRONT, conditioning, 1.0)
    phi = prior.phi(conditioning, 4, 1e-2, 0, seed=0)
    assert torch.equal(phi(z, LEVEL, FRONT), prior.denoise(z, LEVEL, FRONT, by_phi(conditioning), 1.0))
    phi.fit(z, LEVEL, FRONT, torch.Generator().manual_seed(1))
    assert not torch.equal(phi(z, LEVEL, FRONT), before)
    assert torch.equal(prior.denoise(z, LEVEL, FRONT, conditioning, 1.0), before)
