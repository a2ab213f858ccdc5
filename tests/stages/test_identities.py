"""What the update of Eq. 12 must satisfy exactly, and the experiment that decides its sign."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler
from torch import Generator, Tensor

from backend.diffusion.convention import Prediction, scale_in
from backend.diffusion.denoiser import Network, Text, denoise, denoise_guided
from backend.diffusion.schedule import NoiseLevel, noise_levels, sigma_at
from backend.models.latent_prior import LatentPrior
from backend.scene.camera import Camera, RenderOutput, orbit
from backend.stages.apfo import Step, apfo
from backend.stages.update import LatentSpace, PictureSpace, euler_step
from tests.tools.tiny_models import BETAS

NO_TEXT = Text(torch.zeros(1, 1, 1))
CAMERA = orbit(*(torch.tensor([value]) for value in (10.0, 20.0, 1.2, 50.0)), 8, 8)
PREDICTIONS: list[Prediction] = ["epsilon", "v_prediction"]
PAPER = [(1.0, 0.199, 800), (0.8, 0.4, 1000), (0.5, 0.1, 400), (0.3, 0.0, 30)]  # its four stages


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def smooth_network(prediction: Prediction) -> Network:
    """Not a denoiser of anything, but as nonlinear in z and t as a network is."""

    def unet(sample: Tensor, timestep: Tensor, **_: Any) -> SimpleNamespace:
        mixed = torch.tanh(sample.roll(1, -1) + 0.5 * sample.roll(1, -2)) + 0.3 * torch.sin(timestep[0] / 90)
        return SimpleNamespace(sample=0.7 * sample + mixed)

    return Network(unet, prediction)


def euler_steps(network: Network, state: Tensor, levels: list[NoiseLevel], end: float) -> Iterator[Tensor]:
    """diffusers' sampler over the same timesteps: the state at every level, then where it lands."""
    scheduler = EulerDiscreteScheduler(**BETAS, prediction_type=network.prediction)
    # where a walk ends above zero, its end is one more timestep of the scheduler's, which is never walked
    scheduler.set_timesteps(
        timesteps=[level.timestep for level in levels] + ([1000 * end] if end > 0 else [])
    )
    for level, timestep in zip(levels, scheduler.timesteps, strict=False):
        yield state
        seen = scheduler.scale_model_input(state, timestep)
        state = scheduler.step(
            network.unet(seen, torch.tensor([level.timestep])).sample, timestep, state
        ).prev_sample
    yield state


def distance(a: Tensor, b: Tensor) -> float:
    """Relative to the size of b."""
    return float((a - b).norm() / b.norm())


def run_apfo(
    start: Tensor,
    levels: list[NoiseLevel],
    prior: Callable[[Tensor, NoiseLevel, Camera], Tensor],
    seed: int = 0,
    rate: float = 1.0,
    **others: Any,
) -> tuple[Tensor, list[Step]]:
    """The real loop with the identity as renderer and encoder, and SGD whose step is exactly x <- x_hat.

    rate: 1 / d^2 where the picture in the loss is d times as steep as the one that is updated.
    """
    x = start.clone().requires_grad_()
    exact = sum(level.kappa for level in levels) / len(
        levels
    )  # undoes the loss's constant, 1 / (2 mean kappa)
    walk = apfo(
        levels,
        1,
        sample_camera=lambda: CAMERA,
        render=lambda _: RenderOutput(x.permute(0, 2, 3, 1), torch.ones(())),
        prior=prior,
        regularize=lambda _out, _iteration: torch.zeros(()),
        optimizer=torch.optim.SGD([x], lr=rate * exact),
        generator=torch.Generator().manual_seed(seed),
        **({"phi": None, "space": LatentSpace(lambda image: image.permute(0, 3, 1, 2))} | others),
    )
    steps = list(walk)
    return x.detach(), steps


# 1, 2, 3, 4: the update and the samplers


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("start", "end", "count"), PAPER)
def test_1_with_one_noise_at_every_level_it_is_sdedit(
    prediction: Prediction, start: float, end: float, count: int
) -> None:
    network, levels = smooth_network(prediction), noise_levels(start, end, count)
    x, n = noise(1, 4, 8, 8), noise(1, 4, 8, 8, seed=1)
    *states, landed = euler_steps(network, x + levels[0].sigma * n, levels, end)
    for level, state in zip(levels, states, strict=True):
        assert distance(x + level.sigma * n, state) < 1e-6
        x = euler_step(x, denoise(network, x + level.sigma * n, level, NO_TEXT), x, level)
    assert distance(x + levels[-1].sigma_next * n, landed) < 1e-6
    assert (distance(x, landed) < 1e-6) == (end == 0)  # x itself is the sample only where no noise is left


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_2_with_fresh_noise_it_is_an_euler_step_less_the_noise_that_is_left(prediction: Prediction) -> None:
    network, (level,) = smooth_network(prediction), noise_levels(0.7, 0.6, 1)
    x, n = noise(1, 4, 8, 8), noise(1, 4, 8, 8, seed=1)
    _, euler = euler_steps(network, x + level.sigma * n, [level], 0.6)
    step = euler_step(x, denoise(network, x + level.sigma * n, level, NO_TEXT), x, level)
    assert distance(step, euler - level.sigma_next * n) < 1e-6


def test_2_what_is_left_of_the_initial_image() -> None:
    levels = noise_levels(1.0, 0.199, 80)
    ends = [
        run_apfo(start, levels, lambda z, level, camera: torch.full_like(z, 0.3))[0]
        for start in (noise(1, 4, 8, 8), 10 + noise(1, 4, 8, 8))
    ]
    left = float((ends[1] - ends[0]).mean()) / 10
    assert left == pytest.approx(levels[-1].sigma_next / levels[0].sigma, rel=1e-4)
    assert left == pytest.approx(0.039, abs=5e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("phi_prediction", PREDICTIONS)
def test_3_the_step_is_the_difference_of_scores(prediction: Prediction, phi_prediction: Prediction) -> None:
    """kappa (D_p - D_phi) = -(sigma_i - sigma_{i+1}) (eps_p - eps_phi), also between the two kinds of network."""
    level = noise_levels(0.6, 0.2, 9)[3]
    x = noise(1, 4, 8, 8)
    z = x + level.sigma * noise(1, 4, 8, 8, seed=1)
    d_p = denoise(smooth_network(prediction), z, level, NO_TEXT)
    d_phi = denoise(smooth_network(phi_prediction), 0.9 * z, level, NO_TEXT)
    eps_p, eps_phi = (z - d_p) / level.sigma, (z - d_phi) / level.sigma
    step = euler_step(x, d_p, d_phi, level) - x
    torch.testing.assert_close(
        step, -(level.sigma - level.sigma_next) * (eps_p - eps_phi), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("timestep", [1, 300, 999])
def test_4_scaling_is_diffusers_noising(timestep: int) -> None:
    scheduler = DDPMScheduler(**{k: v for k, v in BETAS.items() if k != "steps_offset"})
    level = NoiseLevel(timestep, sigma_at(timestep), 0)
    x, n = noise(1, 4, 8, 8), noise(1, 4, 8, 8, seed=1)
    assert scale_in(level) == pytest.approx(float(scheduler.alphas_cumprod[timestep]) ** 0.5, rel=1e-5)
    noisy = scheduler.add_noise(x, n, torch.tensor([timestep]))
    torch.testing.assert_close((x + level.sigma * n) * scale_in(level), noisy, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("timestep", [2, 300, 999])
def test_4_a_ddim_step_is_the_euler_step(prediction: Prediction, timestep: int) -> None:
    network = smooth_network(prediction)
    scheduler = DDIMScheduler(**BETAS, clip_sample=False, prediction_type=prediction)
    scheduler.set_timesteps(1000)
    level = NoiseLevel(timestep, sigma_at(timestep), sigma_at(timestep - 1))
    x, n = noise(1, 4, 8, 8), noise(1, 4, 8, 8, seed=1)
    z = x + level.sigma * n
    output = network.predict(z, level, NO_TEXT)
    ddim = scheduler.step(output, timestep, z * scale_in(level), eta=0).prev_sample
    ours = euler_step(x, denoise(network, z, level, NO_TEXT), x, level) + level.sigma_next * n
    ours = ours / (1 + level.sigma_next**2) ** 0.5
    assert distance(ours, ddim) < 1e-6


# 5: nothing to learn


@pytest.mark.parametrize("folder", ["base_folder", "v_folder"])
def test_5_phi_equal_to_the_prior_leaves_the_render_alone(
    folder: str, request: pytest.FixtureRequest
) -> None:
    """One network under a fresh LoRA and a zero camera layer, guidance 1, the same prompt: a zero gradient."""
    path: Path = request.getfixturevalue(folder)
    prior = LatentPrior(path, "cpu")
    conditioning = prior.prepare("a red mug", "", "colour", prior.spec.native_size)
    same = replace(conditioning, views=conditioning.phi.repeated(4))
    image = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before = image.detach().clone()
    steps = apfo(
        noise_levels(0.9, 0.3, 2),
        1,
        sample_camera=lambda: CAMERA,
        render=lambda _: RenderOutput(image, torch.ones(())),
        space=LatentSpace(prior.encode),
        prior=lambda z, level, camera: prior.denoise(z, level, camera, same, 1.0),
        phi=prior.phi(same, rank=4, learning_rate=0.0, warmup=1, seed=0),  # fits, but stays fresh
        regularize=lambda _out, _iteration: torch.zeros(()),
        optimizer=torch.optim.SGD([image], lr=1.0),
        generator=torch.Generator().manual_seed(0),
    )
    for step in steps:
        assert float(step.loss) == float(step.gap) == float(step.gradient) == 0
    assert torch.equal(image.detach(), before)
    different = prior.denoise(noise(1, 4, 8, 8), noise_levels(0.9, 0.3, 2)[0], CAMERA, conditioning, 1.0)
    equal = prior.denoise(noise(1, 4, 8, 8), noise_levels(0.9, 0.3, 2)[0], CAMERA, same, 1.0)
    assert not torch.equal(different, equal)  # the view words do matter, so the zero above says something


# 6, 7, 10 and the sign: closed forms


def gaussian_denoiser(mean: Tensor, spread: float) -> Callable[[Tensor, NoiseLevel, Camera], Tensor]:
    """E[x | z] of N(mean, spread^2)."""

    def denoiser(z: Tensor, level: NoiseLevel, camera: Camera) -> Tensor:
        a = spread**2 / (spread**2 + level.sigma**2)
        return a * z + (1 - a) * mean

    return denoiser


def test_6_a_gaussian_prior_contracts_the_mean() -> None:
    mean, spread = noise(1, 4, 8, 8, seed=2), 0.7
    denoiser = gaussian_denoiser(mean, spread)
    for level in noise_levels(1.0, 0.0, 13):
        x, n = 3 + noise(1, 4, 8, 8), noise(1, 4, 8, 8, seed=1)
        # linear in n, so the mean over n and -n is the expectation
        steps = [euler_step(x, denoiser(x + level.sigma * s * n, level, CAMERA), x, level) for s in (1, -1)]
        rate = 1 - level.kappa * level.sigma**2 / (spread**2 + level.sigma**2)
        torch.testing.assert_close(sum(steps) / 2 - mean, rate * (x - mean), rtol=1e-4, atol=1e-5)


def test_7_landing_on_zero_gives_the_priors_answer() -> None:
    level = noise_levels(0.3, 0.0, 30)[-1]
    x, n = noise(1, 4, 8, 8), noise(1, 4, 8, 8, seed=1)
    d_p = denoise(smooth_network("v_prediction"), x + level.sigma * n, level, NO_TEXT)
    torch.testing.assert_close(euler_step(x, d_p, x, level), d_p)


@pytest.mark.parametrize(("start", "end", "count"), [*PAPER, (1.0, 0.2, 7)])
@pytest.mark.parametrize("seed", [0, 1])
def test_10_a_prior_of_one_image_contracts_by_the_ratio_of_sigmas(
    start: float, end: float, count: int, seed: int
) -> None:
    levels = noise_levels(start, end, count)
    image, first = noise(1, 4, 4, 4, seed=5), noise(1, 4, 4, 4, seed=6)
    last, _ = run_apfo(first, levels, lambda z, level, camera: image, seed)
    ratio = float((last - image).norm() / (first - image).norm())
    assert ratio == pytest.approx(levels[-1].sigma_next / levels[0].sigma, rel=1e-4, abs=1e-6)


def test_only_the_sign_of_eq_12_moves_towards_the_data() -> None:
    """Line 9 of Algorithm 1 as printed, with D_p and D_phi swapped, walks away from a Gaussian prior."""
    levels = noise_levels(1.0, 0.2, 200)
    mean, spread = torch.full((1, 4, 8, 8), 1.5), 0.05
    denoiser = gaussian_denoiser(mean, spread)
    start = noise(1, 4, 8, 8)
    first = float((start - mean).norm())
    ours, _ = run_apfo(start, levels, denoiser)
    assert float((ours - mean).norm()) < first / 10

    x, generator = start, torch.Generator().manual_seed(0)
    for level in levels:
        z = x + level.sigma * torch.randn(x.shape, generator=generator)
        x = euler_step(x, d_p=x, d_phi=denoiser(z, level, CAMERA), level=level)
    assert float((x - mean).norm()) > first * 10


def test_with_a_phi_of_the_renders_the_population_moves_to_the_prior() -> None:
    """Renders N(0, 2^2), prior N(1.5, 0.5^2), and the exact D_phi of the renders as they stand.

    The mean arrives; the spread shrinks towards the prior's without collapsing below it.
    """
    levels = noise_levels(1.0, 0.0, 400)
    prior = gaussian_denoiser(torch.tensor(1.5), 0.5)
    x, generator = 2 * noise(4096, 1, 1, 1), torch.Generator().manual_seed(0)
    for level in levels:
        z = x + level.sigma * torch.randn(x.shape, generator=generator)
        renders = gaussian_denoiser(x.mean(), float(x.std()))
        x = euler_step(x, prior(z, level, CAMERA), renders(z, level, CAMERA), level)
    assert float(x.mean()) == pytest.approx(1.5, abs=0.1)
    assert 0.5 < float(x.std()) < 0.9


# 8, 9: the loop


class SpyPhi:
    """A D_phi that remembers what it was shown and draws as a real one does."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.drawn: list[Tensor] = []

    def fit(self, x: Tensor, level: NoiseLevel, camera: Camera, generator: Generator) -> Tensor:
        assert not x.requires_grad
        self.drawn.append(torch.randn(x.shape, generator=generator))
        return torch.zeros(())

    def __call__(self, z: Tensor, level: NoiseLevel, camera: Camera) -> Tensor:
        self.seen.append(z)
        return 0.5 * z


def test_8_both_denoisers_see_one_noise_and_the_fit_another() -> None:
    phi, seen = SpyPhi(), []
    levels, start = noise_levels(0.9, 0.3, 3), noise(1, 4, 8, 8)
    weight = torch.tensor(0.8, requires_grad=True)  # of a network of D_p: no gradient may reach it

    def prior(z: Tensor, level: NoiseLevel, camera: Camera) -> Tensor:
        seen.append(z)
        return weight * z

    run_apfo(start, levels, prior, phi=phi)
    assert all(torch.equal(a, b) for a, b in zip(seen, phi.seen, strict=True)) and len(seen) == 3
    noise_of_first = (seen[0] - start) / levels[0].sigma
    assert not torch.allclose(noise_of_first, phi.drawn[0], atol=0.1)
    assert weight.grad is None
    assert len({float(n.sum()) for n in phi.drawn}) == 3


def test_8_guidance_scale_one_makes_no_unconditional_call() -> None:
    sizes = []

    def unet(sample: Tensor, timestep: Tensor, **_: Any) -> SimpleNamespace:
        sizes.append(len(sample))
        return SimpleNamespace(sample=sample)

    z, level = noise(2, 4, 8, 8), noise_levels(0.5, 0.1, 1)[0]
    for scale in (1.0, 7.5):
        denoise_guided(Network(unet, "epsilon"), z, level, NO_TEXT.repeated(2), NO_TEXT, scale)
    assert sizes == [2, 4]


def test_9_the_gradient_on_the_latent() -> None:
    level = noise_levels(0.6, 0.2, 9)[3]
    x = noise(1, 4, 8, 8).requires_grad_()
    d_p, d_phi = noise(1, 4, 8, 8, seed=1), noise(1, 4, 8, 8, seed=2)
    (x - euler_step(x.detach(), d_p, d_phi, level)).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * level.kappa * (d_phi - d_p), rtol=1e-3, atol=1e-6)


# the target between pictures


def test_between_pictures_is_between_latents_where_latents_are_pictures() -> None:
    levels = noise_levels(1.0, 0.2, 20)
    network = smooth_network("v_prediction")

    def prior(z: Tensor, level: NoiseLevel, _: Camera) -> Tensor:
        return denoise(network, z, level, NO_TEXT)

    start = noise(1, 3, 8, 8).sigmoid()

    def encode(image: Tensor) -> Tensor:
        return 2 * image.permute(0, 3, 1, 2) - 1

    pictures = PictureSpace(encode, lambda x: (x.permute(0, 2, 3, 1) + 1) / 2)
    latent, _ = run_apfo(start, levels, prior, rate=0.25, space=LatentSpace(encode))
    picture, _ = run_apfo(start, levels, prior, rate=0.25, space=pictures)
    assert distance(picture, latent) < 1e-5


def test_between_pictures_contracts_whatever_the_encoder_does() -> None:
    """||x_N - x*|| / ||x_0 - x*|| = sigma_N / sigma_0, although latents are cubes of pictures, at double the size."""
    levels = noise_levels(1.0, 0.2, 50)
    wanted, start = noise(1, 8, 8, 3, seed=1).sigmoid(), noise(1, 3, 8, 8).sigmoid()

    def encode(image: Tensor) -> Tensor:
        return (2 * image - 1).permute(0, 3, 1, 2).repeat_interleave(2, 2).repeat_interleave(2, 3) ** 3

    def decode(x: Tensor) -> Tensor:
        return (x.sign() * x.abs() ** (1 / 3) + 1).permute(0, 2, 3, 1) / 2

    end, _ = run_apfo(start, levels, lambda *_: encode(wanted), space=PictureSpace(encode, decode), rate=0.25)
    ratio = (end.permute(0, 2, 3, 1) - wanted).norm() / (start.permute(0, 2, 3, 1) - wanted).norm()
    assert float(ratio) == pytest.approx(levels[-1].sigma_next / levels[0].sigma, rel=1e-3)
