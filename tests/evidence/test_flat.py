"""The 2D experiment's own parts, each against an answer that is known."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from backend.config import TextureStage
from backend.diffusion.schedule import NoiseLevel
from backend.errors import InputError
from backend.evidence import flat
from backend.evidence.flat import (
    NoEncoder,
    ParticlesPhi,
    frechet,
    frechet_of_all,
    moments,
    nearest_figures,
    run_flat,
)
from backend.evidence.known_objects import truth
from backend.objects import exact_prior
from backend.objects.exact_prior import ExactPrior
from backend.scene.camera import Camera
from backend.scene.optimizer import adamw
from backend.stages.apfo import apfo
from backend.stages.methods import method_levels
from tests.tools.oracle import GREYS, Oracle, generator

X = torch.randn(5, 3, 4, 4, generator=generator(1))


def test_the_particles_phi_is_the_mean_of_the_particles_given_what_is_seen() -> None:
    phi, z = ParticlesPhi(), 0.3 * X.flip(0) + 0.1
    level = NoiseLevel(500.0, 2.0, 1.0)
    phi.fit(X, level, flat.front(5, 4), generator())
    for one, found in zip(z, phi(z, level, flat.front(5, 4)), strict=True):
        weights = torch.stack([torch.exp(-(one - x).square().sum() / 8) for x in X])
        expected = sum(w * x for w, x in zip(weights / weights.sum(), X, strict=True))
        assert torch.allclose(found, expected, atol=1e-5)
    near = NoiseLevel(0.0, 0.01, 0.0)
    assert torch.allclose(phi(X + 0.01, near, flat.front(5, 4)), X)  # little noise: each is its own


def test_nearest_figures_of_particles_that_are_known() -> None:
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    on_two = torch.tensor([0.0, 0.0, 2.5, 2.5]).view(4, 1, 1, 1).expand(4, 3, 2, 2) - 0.1
    found = nearest_figures(on_two, images)
    assert found["distance"] == pytest.approx((0.1 + 0.1 + 0.4 + 0.4) / 4)
    assert found["coverage"] == pytest.approx(2 / (4 * (1 - 0.75**4)))


def test_the_frechet_distance_of_gaussians_that_are_known() -> None:
    one = torch.randn(20_000, 2, generator=generator(2), dtype=torch.float64)
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)
    other = one * torch.tensor([2.0, 3.0], dtype=torch.float64) @ turn + 1.5
    own, others = moments(one), moments(other)
    assert frechet(*own, *own) == pytest.approx(0, abs=1e-9)
    # of N(0, 1) and N(m, C): |m|^2 + sum (sqrt(eigenvalue) - 1)^2
    assert frechet(*own, *others) == pytest.approx(2 * 1.5**2 + 1 + 4, rel=0.03)
    assert frechet(*others, *own) == pytest.approx(frechet(*own, *others))


def test_cells_together_are_held_against_all_their_true_pictures() -> None:
    """Two prompts' pictures as two cells have the distance of one set of them all."""
    true = [torch.randn(3000, 2, generator=generator(i), dtype=torch.float64) + 3 * i for i in range(2)]
    own = [torch.randn(8, 2, generator=generator(5 + i), dtype=torch.float64) * 2 for i in range(2)]
    cells = [
        {"own": x, "true": t.mean(0), "true covariance": torch.cov(t.T)}
        for x, t in zip(own, true, strict=True)
    ]
    directly = frechet(*moments(torch.cat(own)), *moments(torch.cat(true)))
    assert frechet_of_all(cells) == pytest.approx(directly, rel=1e-3)
    assert frechet_of_all(cells[:1]) == pytest.approx(frechet(*moments(own[0]), *moments(true[0])))
    assert frechet_of_all(cells) > 1.2 * frechet_of_all(cells[:1])


def test_with_a_prior_of_one_image_every_falling_method_finds_it() -> None:
    """Whatever the level's weight: D_p is the image, so x moves towards it until it is there."""
    image = torch.tanh(X[:1])

    def end(method: str) -> Tensor:
        x = torch.randn(2, 3, 4, 4, generator=generator(3)).requires_grad_()
        for _ in apfo(
            method_levels(method, 1.0, 0.0, 150, 0), 1,
            sample_camera=lambda: flat.front(2, 4),
            render=lambda _: flat.RenderOutput(x, x.detach()[:, :1]),
            space=NoEncoder(),
            prior=lambda z, level, camera: image.expand_as(z),
            phi=None,
            regularize=lambda out, iteration: out.image.new_zeros(()),
            optimizer=adamw([([x], 0.03)], weight_decay=0.0),
            generator=generator(4),
        ): ...  # fmt: skip
        return x.detach()

    for method in ("apfo", "sdedit", "vsd-linear", "dreamtime"):
        assert (end(method) - image).square().mean().sqrt() < 0.05, method


def test_the_same_seed_gives_the_same_particles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "SIZE", 8)
    monkeypatch.setattr(exact_prior, "TRACED", 16)
    prior = ExactPrior(views=12)
    first, again = (run_flat(prior, "a ball", {"method": "vsd"}, 4, 3, seed, 0.03) for seed in (1, 1))
    assert torch.equal(first.x, again.x) and first.images.shape == (3, 8, 8, 3)
    assert {len(values) for values in first.curves.values()} == {4}
    assert not torch.equal(first.x, run_flat(prior, "a ball", {"method": "vsd"}, 4, 3, 2, 0.03).x)
    assert set(first.figures) == {"distance", "coverage", "seconds"}


class Rings(Oracle):
    """D_p is the true picture of the prompt's object from each view's own camera; it takes whole rings alone."""

    spec = dataclasses.replace(Oracle.spec, native_size=8, camera="c2w", frames=4)
    shown_last: Camera | None = None

    def prepare(self, prompt: str, negative: str, kind: str, size: int) -> str:
        return prompt

    def denoise(
        self, z: Tensor, level: NoiseLevel, camera: Camera, conditioning: str, guidance_scale: float,
        guidance_rescale: float = 0.0,
    ) -> Tensor:  # fmt: skip
        if self.shown_last is None:
            standing = camera.c2w[:, :3, 3].unflatten(0, (-1, 4))
            assert torch.allclose(standing[:, 0, :2], -standing[:, 2, :2], atol=1e-5)  # opposite each other
            assert standing[:, 0, 2].unique().numel() == len(standing)  # and no ring like another
            self.shown_last = camera
            views = truth(conditioning, camera)
            greys = torch.tensor(GREYS).repeat(len(z) // 3, 1)[:, None, None]
            self.true = self.encode_quietly(views.colour * views.alpha + (1 - views.alpha) * greys)
        assert camera is self.shown_last
        return self.true


def test_a_prior_of_rings_is_shown_rings_by_its_own_poses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "TRUE", 48)
    prior = Rings()
    found = run_flat(prior, "a duck", {"method": "apfo"}, 100, 24, 1, 0.1)
    assert (found.x - prior.true).square().mean().sqrt() < 0.03
    assert set(found.figures) == {"frechet", "frechet of true", "seconds"}
    # both are of 24 true pictures beside 48 others
    assert found.figures["frechet"] == pytest.approx(found.figures["frechet of true"], rel=0.5)
    with pytest.raises(InputError, match="rings of 4 views, and 6 pictures"):
        run_flat(prior, "a duck", {"method": "apfo"}, 2, 6, 1, 0.05)


def test_a_true_picture_is_no_brighter_than_what_it_shows() -> None:
    """A white ball before greys: a halo round it would be above white."""
    true = flat.true_latents(Rings(), "a white ball", 8, 1)
    assert true.shape == (8, 3, 8, 8) and 0.9 < true.max() <= 1


def test_a_learnt_phi_may_come_as_far_in_few_updates_as_in_the_papers_stage_1() -> None:
    class Asked(Rings):
        def phi(self, conditioning: str, rank: int, learning_rate: float, warmup: int, seed: int) -> None:
            self.rate = learning_rate

    prior = Asked()
    for steps, rate in ((100, 4e-3), (400, 1e-3), (4000, 1e-4), (10_000, 1e-4)):
        flat.make_phi(prior, "a duck", TextureStage(1.0, 0.0, steps, 1, 8, 1.0), 1)
        assert prior.rate == pytest.approx(rate)
