"""The loop with everything that makes it fast against the plain one: the same result but for rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from backend.diffusion.denoiser import denoise
from backend.diffusion.schedule import noise_levels
from backend.diffusion.view_words import view_indices
from backend.models.latent_prior import LatentPrior
from backend.scene.camera import Camera, RenderOutput
from backend.scene.optimizer import adamw
from backend.stages.apfo import apfo
from backend.stages.update import LatentSpace
from tests.tools.tiny_models import build

LEVELS = noise_levels(0.6, 0.2, 10)  # two views each: 20 iterations
SCALE = 7.5
# In AdamW's denominator, a tenth to a hundredth of a gradient. With the product's 1e-15 a gradient within rounding of 0
# takes a whole step, in whichever direction rounding has it, D_phi learns from that, and what is compared is the
# processor, the number of threads, and what ran before in the process.
PICTURE_EPS, PHI_EPS = 1e-4, 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("models") / "base", "sd21-base")


def run(folder: Path, fast: bool) -> Tensor:
    """A picture that is its own render, after 20 iterations."""
    prior = LatentPrior(folder, "cpu")
    prior.load()
    conditioning = prior.prepare("a red mug", "blurry", "colour", 64)
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(1, 64, 64, 3, generator=generator).requires_grad_()
    phi: Any = prior.phi(conditioning, 4, 1e-3, 1, 0)
    phi._optimizer.param_groups[0]["eps"] = PHI_EPS
    optimizer: torch.optim.Optimizer = adamw([([picture], 1e-2)])
    if fast:
        prior._network.unet.to(memory_format=torch.channels_last)
        prior._vae.to(memory_format=torch.channels_last)
    else:
        optimizer = torch.optim.AdamW(
            [{"params": [picture], "lr": 1e-2}], betas=(0.9, 0.99), foreach=False, fused=False
        )
    optimizer.param_groups[0]["eps"] = PICTURE_EPS

    def plain_prior(z: Tensor, level: Any, camera: Camera) -> Tensor:
        """Two calls, one with the text and one without."""
        text = conditioning.views.rows(view_indices(camera))
        told, untold = (denoise(prior._network, z, level, t) for t in (text, conditioning.negative))
        return untold + SCALE * (told - untold)

    def fast_prior(z: Tensor, level: Any, camera: Camera) -> Tensor:
        return prior.denoise(z, level, camera, conditioning, SCALE)

    class EncodesAgain:
        """D_phi that encodes the render for itself."""

        def fit(self, x: Tensor, level: Any, camera: Camera, generator: torch.Generator) -> Tensor:
            with torch.no_grad():
                return phi.fit(prior.encode(picture), level, camera, generator)

        def __call__(self, *args: Any) -> Tensor:
            return phi(*args)

    for _ in apfo(
        LEVELS, 2,
        sample_camera=lambda: prior.spec.poses.sample(generator, 1, 64, 64),
        render=lambda camera: RenderOutput(picture, torch.ones_like(picture[..., :1])),
        space=LatentSpace(prior.encode),
        prior=fast_prior if fast else plain_prior,
        phi=phi if fast else EncodesAgain(),
        regularize=lambda out, iteration: picture.new_zeros(()),
        optimizer=optimizer,
        generator=generator,
    ):  # fmt: skip
        pass
    return picture.detach()


@pytest.mark.slow
def test_twenty_iterations_give_the_same_picture(folder: Path) -> None:
    fast, plain = run(folder, True), run(folder, False)
    start = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    moved = float((plain - start).norm())
    assert moved > 1  # it has gone somewhere
    assert float((fast - plain).norm()) < 2e-4 * moved
