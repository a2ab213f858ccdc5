from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline
from torch import Tensor

from backend.diffusion.prior import Prior
from backend.diffusion.schedule import NoiseLevel, noise_levels, sigma_at
from backend.diffusion.view_words import VIEWS
from backend.models.latent_prior import LatentPrior
from backend.scene.camera import orbit

LEVEL = NoiseLevel(300, sigma_at(300), sigma_at(290))
FOUR = orbit(
    torch.tensor([0.0, 90, 180, 0]),
    torch.tensor([10.0, 10, 10, 80]),
    1.2 * torch.ones(4),
    50 * torch.ones(4),
    64,
    64,
)  # in the order of VIEWS


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def prior(refiner_folder: Path) -> LatentPrior:
    return LatentPrior(refiner_folder, "cpu")


@pytest.fixture(scope="module")
def pipeline(refiner_folder: Path) -> StableDiffusionXLImg2ImgPipeline:
    return StableDiffusionXLImg2ImgPipeline.from_pretrained(refiner_folder, local_files_only=True)


def sizes_and_scores(pipeline: StableDiffusionXLImg2ImgPipeline, side: int) -> tuple[Tensor, Tensor]:
    """diffusers' own time_ids, with the defaults that its refiner pipeline has."""
    defaults = inspect.signature(pipeline.__call__).parameters
    good, bad = pipeline._get_add_time_ids(
        (side, side),
        (0, 0),
        (side, side),
        defaults["aesthetic_score"].default,
        defaults["negative_aesthetic_score"].default,
        (side, side),
        (0, 0),
        (side, side),
        dtype=torch.float32,
        text_encoder_projection_dim=12,
    )
    return good, bad


def test_prompt_and_micro_conditioning_are_diffusers_own(
    prior: LatentPrior, pipeline: StableDiffusionXLImg2ImgPipeline
) -> None:
    promised: Prior = prior
    conditioning = promised.prepare("a red mug", "", "colour", 128)
    sentences = [f"a red mug, {view} view" for view in VIEWS]
    with torch.no_grad():
        text, negative, pooled, negative_pooled = pipeline.encode_prompt(
            sentences, device="cpu", negative_prompt=[""] * 4
        )
        plain, _, plain_pooled, _ = pipeline.encode_prompt("a red mug", device="cpu", negative_prompt="")
    good, bad = sizes_and_scores(pipeline, 128)
    torch.testing.assert_close(conditioning.views.hidden, text)
    torch.testing.assert_close(conditioning.views.pooled, pooled)
    torch.testing.assert_close(conditioning.negative.hidden, negative[:1])
    torch.testing.assert_close(conditioning.negative.pooled, negative_pooled[:1])
    torch.testing.assert_close(conditioning.phi.hidden, plain)
    torch.testing.assert_close(conditioning.phi.pooled, plain_pooled)
    torch.testing.assert_close(conditioning.views.time_ids, good.expand(4, -1))
    torch.testing.assert_close(conditioning.negative.time_ids, bad)
    assert good.tolist() == [[128, 128, 0, 0, 6.0]] and bad.tolist() == [[128, 128, 0, 0, 2.5]]


def test_a_small_render_is_told_the_size_it_is_enlarged_to(prior: LatentPrior) -> None:
    conditioning = prior.prepare("a red mug", "", "colour", 32)
    assert conditioning.phi.time_ids is not None
    assert conditioning.phi.time_ids.tolist() == [[64, 64, 0, 0, 6.0]]
    assert prior.encode(torch.rand(1, 32, 32, 3)).shape == (1, 4, 8, 8)


def test_the_prior_denoises_as_the_pipelines_unet_does(
    prior: LatentPrior, pipeline: StableDiffusionXLImg2ImgPipeline
) -> None:
    conditioning, z = prior.prepare("a red mug", "blurry", "colour", 64), noise(4, 4, 8, 8)
    ours = prior.denoise(z, LEVEL, FOUR, conditioning, 5.0)
    good, bad = sizes_and_scores(pipeline, 64)
    bar = 1 / (1 + LEVEL.sigma**2)
    with torch.no_grad():
        for i, view in enumerate(VIEWS):
            text, negative, pooled, negative_pooled = pipeline.encode_prompt(
                f"a red mug, {view} view", device="cpu", negative_prompt="blurry"
            )

            def answer(hidden: Tensor, pooled: Tensor, ids: Tensor, seen: Tensor) -> Tensor:
                added: dict[str, Any] = {"text_embeds": pooled, "time_ids": ids}
                output = pipeline.unet(
                    seen, 300, encoder_hidden_states=hidden, added_cond_kwargs=added
                ).sample
                return output

            seen = z[i : i + 1] * bar**0.5
            eps_text, eps_none = (
                answer(text, pooled, good, seen),
                answer(negative, negative_pooled, bad, seen),
            )
            eps = eps_none + 5 * (eps_text - eps_none)
            x0 = (seen - (1 - bar) ** 0.5 * eps) / bar**0.5
            torch.testing.assert_close(ours[i : i + 1], x0, rtol=1e-5, atol=1e-5 * float(x0.abs().max()))


def test_aesthetic_score_and_size_matter(prior: LatentPrior) -> None:
    z = noise(1, 4, 8, 8)
    small, large = (prior.prepare("a red mug", "", "colour", size) for size in (64, 128))
    assert not torch.equal(
        prior.denoise(z, LEVEL, FOUR[:1], small, 1.0), prior.denoise(z, LEVEL, FOUR[:1], large, 1.0)
    )
    assert not torch.allclose(
        prior.denoise(z, LEVEL, FOUR[:1], small, 1.0),
        prior.denoise(
            z, LEVEL, FOUR[:1], prior.prepare("a red mug", "a red mug, front view", "colour", 64), 0.0
        ),
    )


def test_encode_is_the_scaled_mode_of_its_own_vae(
    prior: LatentPrior, pipeline: StableDiffusionXLImg2ImgPipeline
) -> None:
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    x = prior.encode(image)
    with torch.no_grad():
        mode = pipeline.vae.encode(image.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mode()
    torch.testing.assert_close(x.detach(), mode * 0.13025)
    x.square().sum().backward()
    assert image.grad is not None and float(image.grad.abs().sum()) > 0
    assert prior.decode(x).shape == image.shape


def test_phi_shares_the_network_and_gives_it_back(prior: LatentPrior) -> None:
    conditioning, z = prior.prepare("a red mug", "", "colour", 64), noise(1, 4, 8, 8)
    before = prior.denoise(z, LEVEL, FOUR[:1], conditioning, 5.0)
    phi = prior.phi(conditioning, rank=4, learning_rate=1e-2, warmup=1, seed=0)
    fresh = phi(z, LEVEL, FOUR[:1])
    for i in range(2):
        loss = phi.fit(noise(1, 4, 8, 8, seed=i), LEVEL, FOUR[:1], torch.Generator().manual_seed(i))
        assert torch.isfinite(loss)
    assert not torch.equal(phi(z, LEVEL, FOUR[:1]), fresh)
    assert torch.equal(prior.denoise(z, LEVEL, FOUR[:1], conditioning, 5.0), before)
    assert torch.equal(prior.phi(conditioning, 4, 1e-2, 1, 0)(z, LEVEL, FOUR[:1]), fresh)


def test_every_level_of_stage_3_is_finite(prior: LatentPrior) -> None:
    conditioning, z = prior.prepare("a red mug", "", "colour", 64), noise(1, 4, 8, 8)
    for level in noise_levels(0.3, 0.0, 30):
        assert torch.isfinite(prior.denoise(z * level.sigma, level, FOUR[:1], conditioning, 5.0)).all()
