"""The paper's 2D experiment (section B, Fig. 14): pictures optimised themselves, with no object and no encoder.

The pictures are particles, each seen by a camera that stands still, in one loop (stages/apfo.py). Where the prior has
no network, D_phi is the exact denoiser of the particles as they are now, which is what VSD's LoRA is trained towards.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Generator, Tensor

from backend.config import PAPER, UNLEARNT, LoRA, TextureStage
from backend.diffusion.prior import Prior
from backend.diffusion.schedule import NoiseLevel
from backend.diffusion.view_words import view_words
from backend.errors import InputError
from backend.evidence.known_objects import truth
from backend.jobs.telemetry import Curves
from backend.objects.exact_prior import Bank, ExactPrior
from backend.scene.camera import Camera, RenderOutput, orbit, rings_of
from backend.scene.optimizer import adamw
from backend.stages.apfo import FittedDenoiser, apfo
from backend.stages.methods import FittedAnywhere, walk
from backend.stages.update import euler_step

ELEVATION, DISTANCE, FOV = 15.0, 1.5, 45.0  # degrees, metres, degrees: of the one camera
SIZE = 32  # pixels a side with a prior that states no size
TRUE = 2000  # true pictures that particles are compared with
BATCH = 64  # of them at a time


@dataclass(frozen=True)
class Flat:
    """What the particles came to. x [B,C,h,w]; images [B,H,W,3] in [0,1].

    features  with a prior of networks, float64: "own" [B,D] of the particles, "true" [D] and "true covariance" [D,D]
              of the true pictures
    """

    x: Tensor
    images: Tensor
    curves: dict[str, Tensor]  # loss, gradient, gap: each [iterations]
    figures: dict[str, float]
    features: dict[str, Tensor]


class ParticlesPhi:
    """D_phi of the particles as they are now: D(z; sigma) = sum_i softmax_i(-||z - x_i||^2 / (2 sigma^2)) x_i."""

    def fit(self, x: Tensor, level: NoiseLevel, camera: Camera, generator: Generator) -> Tensor:
        """Remembers the particles x [B,C,h,w]; there is nothing to learn."""
        self._x = x.detach()
        return x.new_zeros(())

    def __call__(self, z: Tensor, level: NoiseLevel, camera: Camera) -> Tensor:
        """D_phi(z) [B,C,h,w]. Distances are float64, as the exact prior's are."""
        x = self._x.flatten(1).double()
        distance = torch.cdist(z.flatten(1).double(), x).square()
        weight = torch.softmax(-distance / (2 * level.sigma**2), 1)
        return (weight @ x).view_as(z).to(z)


class NoEncoder:
    """A TargetSpace of particles: a render is its own latents."""

    def read(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return image, image.detach()

    def target(self, x: Tensor, latents: Tensor, d_p: Tensor, d_phi: Tensor, level: NoiseLevel) -> Tensor:
        return euler_step(latents, d_p, d_phi, level)


def run_flat(
    prior: Prior, prompt: str, settings: Mapping[str, Any], steps: int, particles: int, seed: int, rate: float
) -> Flat:
    """`steps` updates of `particles` pictures that begin as N(0, 1), from p = 1 to p = 0; `rate` is AdamW's.

    settings  of a TextureStage, such as {"method": "sds"}; with several views a level `steps` is rounded down

    Raises InputError for a prompt that the prior cannot read, or particles that are no whole number of its rings.
    """
    frames = prior.spec.frames
    if particles % frames:
        raise InputError(
            f"{prior.name} denoises rings of {frames} views, and {particles} pictures are no whole number of them.",
            f"Give --particles a multiple of {frames}.",
        )
    size = prior.spec.native_size or SIZE
    conditioning = prior.prepare(prompt, "", "colour", size)
    began = time.monotonic()
    generator = torch.Generator().manual_seed(seed)
    side = size // prior.factor
    x = torch.randn(particles, prior.channels, side, side, generator=generator).requires_grad_()
    camera = cameras(prior, particles, size, generator)
    scale = 7.5 if prior.spec.guidance is None else prior.spec.guidance
    stage = replace(TextureStage(1.0, 0.0, steps, 1, size, scale), **settings)
    stage = replace(stage, levels=max(1, steps // stage.views))
    strength = stage.guidance_scale, stage.guidance_rescale
    levels, views = walk(stage, seed)
    curves = Curves()
    for step in apfo(
        levels, views,
        sample_camera=lambda: camera,
        render=lambda _: RenderOutput(x, x.detach()[:, :1]),
        space=NoEncoder(),
        prior=lambda z, level, camera: prior.denoise(z, level, camera, conditioning, *strength),
        phi=make_phi(prior, conditioning, stage, seed),
        regularize=lambda out, iteration: out.image.new_zeros(()),
        optimizer=adamw([([x], rate)], weight_decay=0.0),
        generator=generator,
    ):  # fmt: skip
        curves.add(step)
    seconds = time.monotonic() - began
    found = x.detach()
    seen = dict[str, Tensor]()
    if isinstance(conditioning, Bank):
        figures = nearest_figures(found, front_images(conditioning))
    else:
        own, true = features(found), features(many_true_latents(cast(Hashable, prior), prompt))
        others = features(true_latents(prior, prompt, particles, seed))
        mean, cov = moments(true)
        figures = {"frechet": frechet(*moments(own), mean, cov),
                   "frechet of true": frechet(*moments(others), mean, cov)}  # fmt: skip
        seen = {"own": own, "true": mean, "true covariance": cov}
    return Flat(found, prior.decode(found), curves.arrays(), figures | {"seconds": seconds}, seen)


def make_phi(prior: Prior, conditioning: Any, stage: TextureStage, seed: int) -> FittedDenoiser | None:
    """The prior's own D_phi, trained; without networks the exact one; None where D_phi(x) = x.

    Particles begin as noise, which it has to learn: where updates are few its rate is higher, so that it may come as
    far as in the paper's stage 1 (docs/evidence.md).
    """
    if stage.method in UNLEARNT or stage.phi == "none":
        return None
    if isinstance(prior, ExactPrior):
        return ParticlesPhi()
    lora = LoRA()
    warmup = min(lora.warmup, stage.iterations // 10)
    rate = lora.learning_rate * max(1.0, PAPER.nerf.iterations / stage.iterations)
    phi = prior.phi(conditioning, lora.rank, rate, warmup, seed)
    return FittedAnywhere(phi) if phi is not None and stage.phi_level == "random" else phi


def cameras(prior: Prior, count: int, size: int, generator: Generator) -> Camera:
    """Of the particles: all in front; those of a prior that is told where a camera stands, its poses, in rings."""
    if prior.spec.camera == "words":
        return front(count, size)
    frames = prior.spec.frames
    return rings_of(prior.spec.poses.sample(generator, count // frames, size, size), frames)


def front(count: int, size: int) -> Camera:
    """`count` times the camera in front."""
    same = torch.ones(count)
    return orbit(0 * same, ELEVATION * same, DISTANCE * same, FOV * same, size, size)


def front_images(bank: Bank) -> Tensor:
    """[N,3,h,w]: the exact prior's images that its word for the front selects."""
    rows = range(*bank.rows["front"].indices(len(bank.clear)))
    return torch.stack([bank.image(row, ground) for row in rows for ground in range(len(bank.backgrounds))])


def nearest_figures(x: Tensor, images: Tensor) -> dict[str, float]:
    """distance: root mean square from a particle to its nearest image, the mean over particles.
    coverage: different images among the nearest, as a share of what as many independent draws would find.
    """
    distance, index = torch.cdist(x.flatten(1).double(), images.flatten(1).double()).min(1)
    count, draws = len(images), len(x)
    expected = count * (1 - (1 - 1 / count) ** draws)
    return {
        "distance": float(distance.mean()) / x[0].numel() ** 0.5,
        "coverage": len(index.unique()) / expected,
    }


@lru_cache(maxsize=1)
def many_true_latents(prior: Prior, prompt: str) -> Tensor:
    """[TRUE,C,h,w]; those of the last prompt are kept."""
    return true_latents(prior, prompt, TRUE, 0)


@torch.no_grad()
def true_latents(prior: Prior, prompt: str, count: int, seed: int) -> Tensor:
    """[count,C,h,w]: true pictures through the prior's encoder, by its poses; of these by those in front alone, where
    a word tells where a camera stands.
    """
    generator = torch.Generator().manual_seed(seed)
    size, found, spec = prior.spec.native_size or SIZE, list[Tensor](), prior.spec
    while (left := count - sum(map(len, found))) > 0:
        camera = spec.poses.sample(generator, BATCH, size, size)
        words = view_words(camera, spec.views)
        rows = [i for i in range(BATCH) if spec.camera != "words" or words[i] == spec.views[0]][:left]
        seen = truth(prompt, Camera(camera.c2w[rows], camera.proj[rows], size, size))
        grounds = torch.stack([spec.backgrounds.sample_solid(generator) for _ in range(BATCH)])[rows]
        found.append(prior.encode(seen.colour * seen.alpha + (1 - seen.alpha) * grounds[:, None, None]))
    return torch.cat(found)


def features(x: Tensor) -> Tensor:
    """[B,16 C]: latents averaged over a grid of 4 by 4, so that few samples have a covariance to speak of."""
    return torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1).double()


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and covariance [D,D] of features [N,D]."""
    return x.mean(0), torch.cov(x.T)


def frechet(mean: Tensor, cov: Tensor, other_mean: Tensor, other_cov: Tensor) -> float:
    """The Frechet distance of two Gaussians, ||m - m'||^2 + tr(C + C' - 2 (C C')^(1/2)); m [D], C [D,D]."""
    values, vectors = torch.linalg.eigh(cov)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    both = torch.linalg.eigvalsh(root @ other_cov @ root).clamp(min=0).sqrt().sum()
    return float((mean - other_mean).square().sum() + cov.trace() + other_cov.trace() - 2 * both)


def frechet_of_all(cells: Sequence[dict[str, Tensor]]) -> float:
    """Between all particles of several `Flat.features` and the true pictures of them all, each cell's as many."""
    mean = torch.stack([one["true"] for one in cells])
    within_cells = torch.stack([one["true covariance"] for one in cells]).mean(0)
    between_cells = torch.cov(mean.T, correction=0).view_as(within_cells)
    own = torch.cat([one["own"] for one in cells])
    return frechet(*moments(own), mean.mean(0), within_cells + between_cells)
