"""Exact rings against a list of all rings written out, and what a ring knows that a view does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backend.diffusion.schedule import NoiseLevel, sigma_at
from benchmarks.exact_rings_prior import ExactRings, ring_mean

SIZE, FRAMES = 16, 4


@pytest.fixture(scope="module")
def prior() -> ExactRings:
    return ExactRings(torch.device("cpu"), FRAMES, 24)


def written_out(prior: ExactRings, ring: Tensor, sigma: float) -> Tensor:
    """The posterior mean over every ring, first frame and background, one by one."""
    bank = prior.prepare("a yellow duck", "", "colour", SIZE)
    candidates = []
    for first in range(0, len(bank.clear), FRAMES):
        for k in range(FRAMES):
            for background in range(len(bank.backgrounds)):
                rows = [first + (f + k) % FRAMES for f in range(FRAMES)]
                candidates.append(torch.stack([bank.image(row, background) for row in rows]))
    every = torch.stack(candidates).double()
    away = (every - ring).square().flatten(1).sum(1)
    weight = torch.softmax(-away / (2 * sigma**2), 0)
    return torch.einsum("n,nfcxy->fcxy", weight, every).float()


@pytest.mark.parametrize("t", [900, 500, 100])
def test_it_is_the_posterior_mean_over_all_rings(prior: ExactRings, t: int) -> None:
    bank = prior.prepare("a yellow duck", "", "colour", SIZE)
    clean = torch.stack([bank.image(4 + i, 1) for i in (1, 2, 3, 0)])
    noisy = clean + sigma_at(t) * torch.randn(clean.shape, generator=torch.Generator().manual_seed(t))
    got = ring_mean(noisy, sigma_at(t), bank)
    assert torch.allclose(got, written_out(prior, noisy, sigma_at(t)), atol=1e-4)


def test_cameras_are_rings_and_a_clean_ring_is_itself(prior: ExactRings) -> None:
    assert prior.spec.frames == FRAMES and len(prior.spec.poses) == 6
    bank = prior.prepare("a yellow duck", "", "colour", SIZE)
    assert len(bank.clear) == 24
    clean = torch.stack([bank.image(8 + i, 2) for i in range(FRAMES)])
    level = NoiseLevel(1, 1e-3, 0.0)
    camera = prior.spec.poses.sample(torch.Generator().manual_seed(0), 1, SIZE, SIZE)
    assert torch.allclose(prior.denoise(clean, level, camera, bank), clean, atol=1e-4)


def test_four_views_tell_more_than_one(prior: ExactRings) -> None:
    """At much noise, a view says little of which picture it is; its ring says it better."""
    single = ExactRings(torch.device("cpu"), 1, 24)
    rings, views = (p.prepare("a yellow duck", "", "colour", SIZE) for p in (prior, single))
    sigma, error = 4.0, {1: 0.0, FRAMES: 0.0}
    generator = torch.Generator().manual_seed(0)
    for ring in range(6):
        clean = torch.stack([rings.image(4 * ring + i, 1) for i in range(FRAMES)])
        noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
        error[FRAMES] += float((ring_mean(noisy, sigma, rings) - clean).square().mean())
        alone = torch.cat([ring_mean(view, sigma, views) for view in noisy.split(1)])
        error[1] += float((alone - clean).square().mean())
    assert error[FRAMES] < 0.8 * error[1]
