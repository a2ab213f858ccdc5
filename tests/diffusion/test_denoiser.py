from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from backend.diffusion.convention import CONVENTIONS, Prediction, flow_time, scale_in
from backend.diffusion.denoiser import Network, Text, denoise, denoise_guided, guided, join
from backend.diffusion.schedule import NoiseLevel, noise_levels, sigma_at
from tests.tools import tiny_models
from tests.tools.tiny_models import BETAS

LEVEL = noise_levels(0.5, 0.1, 4)[1]


class Recorder:
    """A UNet in diffusers' convention that answers with the mean of its text, and remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, sample: Tensor, timestep: Tensor, **kwargs: Any) -> SimpleNamespace:
        self.calls.append({"sample": sample, "timestep": timestep} | kwargs)
        shift = kwargs["encoder_hidden_states"].mean((1, 2))
        return SimpleNamespace(sample=torch.tanh(sample) + shift[:, None, None, None])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("prediction", CONVENTIONS)
@pytest.mark.parametrize("p", [1.0, 0.5, 0.0123])
def test_a_perfect_network_denoises_to_x(prediction: Prediction, p: float) -> None:
    level = NoiseLevel(min(999, 1000 * p), sigma_at(min(999, 1000 * p)), 0)
    x, n = noise(2, 4, 8, 8), noise(2, 4, 8, 8, seed=1)
    answer = CONVENTIONS[prediction].answer(x, n, level)
    network = Network(lambda *_, **__: SimpleNamespace(sample=answer), prediction)
    d = denoise(network, x + level.sigma * n, level, Text(torch.zeros(2, 1, 1)))
    torch.testing.assert_close(d, x, rtol=1e-4, atol=1e-5 * max(1, level.sigma**2))


@pytest.mark.parametrize("timestep", [3, 200, 999])
def test_predictions_are_diffusers_own(timestep: int) -> None:
    scheduler = DDPMScheduler(**{k: v for k, v in BETAS.items() if k != "steps_offset"})
    level = NoiseLevel(timestep, sigma_at(timestep), 0)
    x, n = noise(1, 4, 8, 8), noise(1, 4, 8, 8, seed=1)
    velocity = scheduler.get_velocity(x, n, torch.tensor([timestep]))
    torch.testing.assert_close(
        CONVENTIONS["v_prediction"].answer(x, n, level), velocity, rtol=1e-4, atol=1e-5
    )
    assert CONVENTIONS["epsilon"].answer(x, n, level) is n


@pytest.mark.parametrize("prediction", CONVENTIONS)
def test_every_convention_gives_the_mean_of_a_gaussian_prior(prediction: Prediction) -> None:
    """x ~ N(mu, s^2): the best network answers the mean of its target given z, and D(z) is the mean of x given z."""
    mu, s, told = 0.7, 0.4, CONVENTIONS[prediction]
    level = NoiseLevel(500, 1.3, 0)
    z = noise(1, 4, 8, 8)
    gain = s**2 / (s**2 + level.sigma**2)
    x_mean, n_mean = mu + gain * (z - mu), (1 - gain) * (z - mu) / level.sigma

    def best(sample: Tensor, timestep: Tensor, **_: Any) -> SimpleNamespace:
        torch.testing.assert_close(sample, z * told.scale_in(level))
        assert float(timestep) == pytest.approx(told.timestep(level))
        return SimpleNamespace(sample=told.answer(x_mean, n_mean, level))  # targets are linear in x and n

    torch.testing.assert_close(
        denoise(Network(best, prediction), z, level, Text(torch.zeros(1, 1, 1))), x_mean
    )


def test_a_flow_is_a_straight_path() -> None:
    """z_t = (1 - t) x + t n and D = z_t - t v, with t = sigma / (1 + sigma), as diffusers' flow scheduler steps it."""
    level = NoiseLevel(500, 0.25, 0)
    t, x, n = flow_time(level), noise(1, 4, 8, 8), noise(1, 4, 8, 8, seed=1)
    flow, z = CONVENTIONS["flow"], x + level.sigma * n
    assert t == pytest.approx(0.2) and flow.timestep(level) == pytest.approx(200)
    z_t = z * flow.scale_in(level)
    torch.testing.assert_close(z_t, (1 - t) * x + t * n)
    v = noise(1, 4, 8, 8, seed=2)
    torch.testing.assert_close(flow.denoised(v, z, level), z_t - t * v)
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[t])  # one step, to sigma = 0
    torch.testing.assert_close(scheduler.step(v, scheduler.timesteps[0], z_t).prev_sample, z_t - t * v)


def test_the_network_sees_a_scaled_input_and_a_fractional_timestep() -> None:
    unet = Recorder()
    level = NoiseLevel(400.4, sigma_at(400.4), 0)
    z = noise(2, 4, 8, 8)
    Network(unet, "epsilon").predict(z, level, Text(torch.zeros(2, 3, 5)))
    (call,) = unet.calls
    torch.testing.assert_close(call["sample"], z / (1 + level.sigma**2) ** 0.5)
    torch.testing.assert_close(call["timestep"], torch.tensor([400.4, 400.4]))
    assert call["added_cond_kwargs"] is None


def test_diffusers_unet_takes_fractional_timesteps() -> None:
    torch.manual_seed(0)
    unet = tiny_models.unet("sd21-base", tiny_models.TINY_SD).eval()
    network, text, z = Network(unet, "epsilon"), Text(noise(1, 5, 16)), noise(1, 4, 8, 8)
    with torch.no_grad():
        low, middle, high = (
            network.predict(z, NoiseLevel(t, LEVEL.sigma, 0), text) for t in (400.0, 400.5, 401.0)
        )
        whole = unet(z * scale_in(LEVEL), 400, encoder_hidden_states=text.hidden).sample
    torch.testing.assert_close(low, whole)
    assert min((middle - low).norm(), (high - middle).norm()) > 0.1 * (high - low).norm()  # not rounded away


def test_guidance_is_one_batched_call() -> None:
    unet = Recorder()
    network, z = Network(unet, "epsilon"), noise(3, 4, 8, 8)
    text, negative = Text(noise(3, 2, 5, seed=1)), Text(noise(1, 2, 5, seed=2))
    guided = denoise_guided(network, z, LEVEL, text, negative, 7.5)
    assert [len(call["sample"]) for call in unet.calls] == [6]
    with_text = denoise(network, z, LEVEL, text)
    without = denoise(network, z, LEVEL, negative.repeated(3))
    torch.testing.assert_close(guided, without + 7.5 * (with_text - without))
    torch.testing.assert_close(denoise_guided(network, z, LEVEL, text, negative, 0), without)


def test_guidance_scale_one_makes_no_unconditional_call() -> None:
    unet = Recorder()
    network, z, text = Network(unet, "epsilon"), noise(3, 4, 8, 8), Text(noise(3, 2, 5, seed=1))
    negative = cast(Text, None)  # would fail if it were looked at
    torch.testing.assert_close(
        denoise_guided(network, z, LEVEL, text, negative, 1.0), denoise(network, z, LEVEL, text)
    )
    assert [len(call["sample"]) for call in unet.calls] == [3, 3]


def test_rescaled_guidance_has_the_deviation_of_the_text_alone_over_all_views() -> None:
    """Two views of a ring, one three times as strong: each by itself would lose that, and both means their sign."""
    with_text, without = noise(2, 4, 8, 8), 0.5 * noise(2, 4, 8, 8, seed=1)
    with_text[1] *= 3
    plain = guided(with_text, without, 7.5)
    whole, half = guided(with_text, without, 7.5, 1.0), guided(with_text, without, 7.5, 0.5)
    torch.testing.assert_close(whole.std(), with_text.std())
    torch.testing.assert_close(half, (plain + whole) / 2)
    torch.testing.assert_close(whole[1].std() / whole[0].std(), plain[1].std() / plain[0].std())
    assert plain.std() > 2 * with_text.std()
    assert torch.equal(guided(with_text, without, 7.5, 0.0), without + 7.5 * (with_text - without))
    flat = torch.full((1, 4, 8, 8), 2.0)
    assert torch.isfinite(guided(flat, flat, 7.5, 1.0)).all()


def test_text_keeps_its_rows_together() -> None:
    text = Text(
        torch.arange(3.0).reshape(3, 1, 1), torch.arange(3.0)[:, None], 10 * torch.arange(3.0)[:, None]
    )
    picked = join(text.rows(torch.tensor([2, 0])), text.rows(torch.tensor([1])))
    assert picked.hidden.flatten().tolist() == [2, 0, 1]
    assert picked.pooled is not None and picked.pooled.flatten().tolist() == [2, 0, 1]
    assert picked.time_ids is not None and picked.time_ids.flatten().tolist() == [20, 0, 10]
    assert join(Text(text.hidden), Text(text.hidden)).pooled is None
