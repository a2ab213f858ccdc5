"""Marching and compositing against chords of a ball, a plain loop, and finite differences."""

import pytest
import torch

from backend.kernels import march as marching
from backend.kernels.march import Samples, composite, march

HALF = 1.0
FULL = torch.ones(16, 16, 16, dtype=torch.bool)


def parallel_rays(offsets):
    """Rays along +Y, [R] metres beside the axis, from y = -3."""
    origins = torch.tensor([0.0, -3.0, 0.0]).repeat(len(offsets), 1)
    origins[:, 0] = offsets
    return origins, torch.tensor([0.0, 1.0, 0.0]).repeat(len(offsets), 1)


def ball(radius, cells):
    """Cells [G,G,G] that touch a ball."""
    side = (torch.arange(cells) + 0.5) / cells * 2 * HALF - HALF
    centre = torch.stack(torch.meshgrid(side, side, side, indexing="ij"), -1)
    return centre.norm(dim=-1) < radius + 3**0.5 * HALF / cells


def random_rays(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    origins = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1) * 2.5
    target = torch.rand(count, 3, generator=generator) - 0.5
    return origins, torch.nn.functional.normalize(target - origins, dim=1)


def test_a_uniform_ball_is_as_thick_as_its_chords():
    radius, sigma, n = 0.5, 3.0, 512
    offsets = torch.tensor([0.0, 0.1, 0.3, 0.45, 0.6, 5.0])
    origins, directions = parallel_rays(offsets)
    samples = march(origins, directions, FULL, HALF, 0.05, n)
    density = sigma * (samples.points(origins, directions).norm(dim=1) < radius)
    opacity, _, depth, _ = composite(density, torch.zeros(len(density), 0), samples)
    chord = 2 * (radius**2 - offsets**2).clamp(min=0).sqrt()
    step = 2 * 3**0.5 * HALF / n
    assert torch.allclose(-(1 - opacity[:, 0]).log() / sigma, chord, atol=2 * step)
    # mean free path through a slab of thickness c that starts at s
    start = 3 - chord / 2
    expected = (start + 1 / sigma) * (1 - (-sigma * chord).exp()) - chord * (-sigma * chord).exp()
    assert torch.allclose(depth[:, 0], expected, atol=3 * step)


def test_jittered_steps_measure_lengths_without_bias():
    origins, directions = parallel_rays(torch.full((4000,), 0.2))
    generator = torch.Generator().manual_seed(0)
    samples = march(origins, directions, FULL, HALF, 0.05, 24, generator)
    inside = samples.points(origins, directions).norm(dim=1) < 0.5
    assert samples.dt[inside].sum() / 4000 == pytest.approx(2 * (0.25 - 0.04) ** 0.5, rel=0.01)
    assert samples.dt.sum() / 4000 == pytest.approx(2 * HALF, rel=0.01)


def test_samples_are_sorted_inside_the_box_and_beyond_near():
    origins, directions = random_rays(200)
    origins = origins * 0.2  # 0.5 from the origin: all start inside
    samples = march(origins, directions, FULL, HALF, 0.3, 64, torch.Generator().manual_seed(0))
    assert samples.points(origins, directions).abs().max() <= HALF + 1e-5
    assert samples.t.min() >= 0.3
    order = samples.ray.double() * 100 + samples.t
    assert (order.diff() > 0).all() and samples.n_rays == 200


def test_dropping_empty_cells_changes_nothing():
    origins, directions = random_rays(300)
    results = []
    for occupancy in (FULL, ball(0.4, 32)):
        generator = torch.Generator().manual_seed(7)
        samples = march(origins, directions, occupancy, HALF, 0.05, 128, generator)
        points = samples.points(origins, directions)
        density = 20 * (points.norm(dim=1) < 0.4)
        results.append((samples, *composite(density, points, samples)[:3]))
    (full, *of_full), (part, *of_part) = results
    assert len(part.t) < 0.2 * len(full.t)
    for one, other in zip(of_full, of_part, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_cells_are_indexed_x_y_z():
    occupancy = torch.zeros(4, 4, 4, dtype=torch.bool)
    occupancy[3, 1, 2] = True
    origins, directions = random_rays(2000)
    points = march(origins, directions, occupancy, HALF, 0.05, 64).points(origins, directions)
    low, high = torch.tensor([0.5, -0.5, 0.0]), torch.tensor([1.0, 0.0, 0.5])
    assert len(points) and (points >= low - 1e-5).all() and (points <= high + 1e-5).all()


def test_chunks_are_invisible(monkeypatch):
    origins, directions = random_rays(100)
    whole = march(origins, directions, FULL, HALF, 0.05, 32, torch.Generator().manual_seed(1))
    monkeypatch.setattr(marching, "CHUNK", 32 * 7)
    parts = march(origins, directions, FULL, HALF, 0.05, 32, torch.Generator().manual_seed(1))
    assert torch.equal(whole.ray, parts.ray) and torch.equal(whole.t, parts.t)


def test_the_budget_is_hard_and_thins_evenly():
    origins, directions = random_rays(500)
    free = march(origins, directions, FULL, HALF, 0.05, 128)
    kept = march(origins, directions, FULL, HALF, 0.05, 128, budget=10_000)
    assert len(free.t) > 10_000 and len(kept.t) == 10_000
    assert kept.dt.sum() == pytest.approx(float(free.dt.sum()), rel=1e-5)
    per_ray = [torch.bincount(s.ray, s.dt, minlength=500) for s in (free, kept)]
    assert (per_ray[0] - per_ray[1]).abs().max() < 1.01 * float(kept.dt[0])
    again = march(origins, directions, FULL, HALF, 0.05, 128, budget=10_000)
    assert torch.equal(kept.t, again.t)
    assert len(march(origins, directions, FULL, HALF, 0.05, 128, budget=10**6).t) == len(free.t)


def test_nothing_to_sample_gives_zeros():
    origins, directions = random_rays(10)
    for o, d, occupancy in ((origins, -directions, FULL), (origins, directions, ~FULL)):
        samples = march(o, d, occupancy, HALF, 0.05, 32, torch.Generator().manual_seed(0), budget=5)
        density = torch.zeros(0, requires_grad=True)
        opacity, total, depth, weights = composite(density, torch.zeros(0, 3), samples)
        assert len(samples.t) == 0 and weights.shape == (0,)
        assert (opacity.shape, total.shape, depth.shape) == ((10, 1), (10, 3), (10, 1))
        assert not opacity.any() and not total.any() and not depth.any()
        total.sum().backward()
        assert density.grad.shape == (0,)


def some_samples(counts, dtype=torch.double):
    """Samples with `counts` on each ray."""
    generator = torch.Generator().manual_seed(0)
    ray = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    t = torch.rand(len(ray), generator=generator, dtype=dtype) + 0.1
    t = (ray * 100 + t).sort().values - ray * 100
    dt = torch.rand(len(ray), generator=generator, dtype=dtype) * 0.5
    density = torch.rand(len(ray), generator=generator, dtype=dtype) * 5
    values = torch.rand(len(ray), 3, generator=generator, dtype=dtype)
    return Samples(ray, t, dt, len(counts)), density, values


def loop(density, values, samples):
    """The rendering integral sample by sample."""
    rows, weights = [], torch.zeros_like(density)
    for ray in range(samples.n_rays):
        clear, row = density.new_ones(()), density.new_zeros(5)
        for s in (samples.ray == ray).nonzero()[:, 0].tolist():
            alpha = 1 - torch.exp(-density[s] * samples.dt[s])
            weights[s] = clear * alpha
            row = row + clear * alpha * torch.cat((density.new_ones(1), samples.t[s : s + 1], values[s]))
            clear = clear * (1 - alpha)
        rows.append(row)
    rows = torch.stack(rows)
    return rows[:, :1], rows[:, 2:], rows[:, 1:2], weights


def test_composite_is_the_plain_loop_with_its_gradients():
    samples, density, values = some_samples([3, 0, 1, 7, 0, 0, 2, 0])  # single and empty rays too
    for got, expected in zip(
        composite(density, values, samples), loop(density, values, samples), strict=True
    ):
        assert got.shape == expected.shape and torch.allclose(got, expected, atol=1e-12)
    inputs = density.requires_grad_(), values.requires_grad_()
    assert torch.autograd.gradcheck(lambda d, v: composite(d, v, samples), inputs)
    assert torch.autograd.gradgradcheck(lambda d, v: composite(d, v, samples)[1], inputs)


def test_a_late_ray_is_as_exact_as_a_lone_one():
    """The running sum reaches 1e7 in front of the last ray, whose own is about 1."""
    dense, _, _ = some_samples([50] * 2000, torch.float32)
    density = torch.full((len(dense.t),), 2e2) / dense.dt.clamp(min=1e-3)
    density[-50:] = 0.1
    alone = Samples(torch.zeros(50, dtype=torch.long), dense.t[-50:], dense.dt[-50:], 1)
    values = torch.rand(len(density), 2, generator=torch.Generator().manual_seed(1))
    together = composite(density, values, dense)
    single = composite(density[-50:], values[-50:], alone)
    assert torch.allclose(together[1][-1:], single[1], rtol=2e-6)
    assert torch.allclose(together[3][-50:], single[3], rtol=2e-6)


def test_gradients_are_repeatable_with_two_threads():
    samples, density, values = some_samples([40] * 1000, torch.float32)
    density.requires_grad_()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runs = [
            torch.autograd.grad(composite(density, values, samples)[1].square().sum(), density)[0]
            for _ in range(5)
        ]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(run, runs[0]) for run in runs)
