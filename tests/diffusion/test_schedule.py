from __future__ import annotations

import hashlib
from decimal import Context, Decimal, localcontext
from itertools import pairwise

import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler

from backend.diffusion.schedule import noise_levels, sigma_at, sigma_table
from tests.tools.tiny_models import BETAS


def test_a_schedule_is_the_same_on_every_processor() -> None:
    """Against exact numbers to all but the last two bits; torch's lerp fuses on some processors, Python never."""
    with localcontext(Context(prec=40)):
        first, last = Decimal("0.00085").sqrt(), Decimal("0.012").sqrt()
        bar, exact = Decimal(1), []
        for i in range(1000):
            bar *= 1 - (first + (last - first) * i / 999) ** 2
            exact.append(((1 - bar) / bar).sqrt())
        assert all(abs(Decimal(sigma_at(i)) / exact[i] - 1) < Decimal("2e-14") for i in range(1000))
        between = exact[998] + (exact[999] - exact[998]) * Decimal("0.25")
        assert abs(Decimal(sigma_at(998.25)) / between - 1) < Decimal("2e-14")
    assert sigma_table().tolist() == [sigma_at(i) for i in range(1000)]
    bits = hashlib.sha256(repr(noise_levels(0.8, 0.4, 1000)).encode()).hexdigest()
    assert bits == "99a89aca39eb3c5543f8978a4ef712a2e2dd37da8cfa62f2601d7b49d0c86f16"  # geometry's


def test_sigmas_are_stable_diffusions() -> None:
    scheduler = DDPMScheduler(**{k: v for k, v in BETAS.items() if k != "steps_offset"})
    bar = scheduler.alphas_cumprod.double()
    torch.testing.assert_close(sigma_table(), ((1 - bar) / bar).sqrt(), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("p", "sigma"),
    [
        (1.0, 14.61),
        (0.9, 8.35),
        (0.8, 5.11),
        (0.7, 3.33),
        (0.6, 2.28),
        (0.5, 1.618),
        (0.4, 1.164),
        (0.3, 0.833),
        (0.2, 0.572),
        (0.1, 0.344),
        (0.0, 0.0292),
    ],
)
def test_sigma_of_the_papers_times(p: float, sigma: float) -> None:
    assert sigma_at(min(999, 1000 * p)) == pytest.approx(sigma, rel=3e-3)  # the table is rounded


@pytest.mark.parametrize(
    ("start", "end", "count", "first", "last", "landing"),
    [
        (1.0, 0.199, 800, 999, 200, 199),
        (0.8, 0.4, 1000, 800, 400.4, 400),
        (0.5, 0.1, 400, 500, 101, 100),
        (0.3, 0.0, 30, 300, 10, None),
        (1.0, 0.2, 7, 999, 200 + 799 / 7, 200),
    ],
)
def test_a_schedule_walks_from_the_first_timestep_and_lands(
    start: float, end: float, count: int, first: float, last: float, landing: float | None
) -> None:
    levels = noise_levels(start, end, count)
    assert len(levels) == count
    assert levels[0].timestep == first
    assert levels[-1].timestep == pytest.approx(last)
    assert levels[-1].sigma_next == (0 if landing is None else pytest.approx(sigma_at(landing)))
    steps = [a.timestep - b.timestep for a, b in pairwise(levels)]
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert all(level.sigma > level.sigma_next >= 0 for level in levels)
    assert all(a.sigma_next == b.sigma for a, b in pairwise(levels))
    assert all(level.sigma == pytest.approx(sigma_at(level.timestep)) for level in levels)


def test_kappa_is_nearly_flat_over_the_paper_and_one_at_its_end() -> None:
    nerf, refine = noise_levels(1.0, 0.199, 800), noise_levels(0.3, 0.0, 30)
    assert nerf[0].kappa == pytest.approx(0.0060, abs=1e-4)
    assert nerf[-1].kappa == pytest.approx(0.0042, abs=1e-4)
    assert refine[0].kappa == pytest.approx(0.034, abs=1e-3)
    assert refine[-1].kappa == 1


def test_fractional_timesteps_agree_with_diffusers_interpolation() -> None:
    scheduler = EulerDiscreteScheduler(**BETAS)
    scheduler.set_timesteps(timesteps=[812.25, 400.0])
    assert sigma_at(812.25) == pytest.approx(float(scheduler.sigmas[0]), rel=1e-5)
    assert sigma_at(400) == pytest.approx(float(scheduler.sigmas[1]), rel=1e-5)
    assert sigma_at(812.25) == pytest.approx(0.75 * sigma_at(812) + 0.25 * sigma_at(813))
    assert sigma_at(999) == float(sigma_table()[999])


@pytest.mark.parametrize(
    ("start", "end", "count"), [(1.1, 0.2, 3), (0.5, 0.5, 3), (0.2, 0.5, 3), (0.5, -0.1, 3), (1, 0, 0)]
)
def test_an_impossible_schedule_is_refused(start: float, end: float, count: int) -> None:
    with pytest.raises(ValueError, match="schedule"):
        noise_levels(start, end, count)


@pytest.mark.parametrize("timestep", [-0.1, 999.1, float("nan")])
def test_a_timestep_outside_the_table_is_refused(timestep: float) -> None:
    with pytest.raises(ValueError, match="timestep"):
        sigma_at(timestep)
