"""The Warp march against its torch twin: the same samples, to the last bit."""

import pytest
import torch

pytest.importorskip("warp", reason="warp-lang is not installed")

from backend.kernels import march, march_warp
from backend.scene.camera import orbit, rays
from tests.card.pretended import PretendedCard

HALF, NEAR = 0.8, 0.1


def views(size, seed, device="cpu"):
    """Rays [size*size,3] of a random camera, many of them past the box."""
    generator = torch.Generator().manual_seed(seed)
    azimuth, elevation, distance = torch.rand(3, 1, generator=generator)
    camera = orbit(360 * azimuth, 80 * elevation, 1 + distance, torch.full((1,), 70.0), size, size)
    return [r.reshape(-1, 3).to(device) for r in rays(camera)]


def some_cells(resolution, share, seed, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(resolution, resolution, resolution, generator=generator) < share).to(device)


def assert_same(one, other):
    assert one.n_rays == other.n_rays
    for name in ("ray", "t", "dt"):
        a, b = getattr(one, name), getattr(other, name)
        assert a.dtype == b.dtype and torch.equal(a, b), name


def both(*args, seed=None, budget=None):
    """(torch, warp); each with a generator of its own, which must have drawn equally much afterwards."""
    found, states = [], []
    for kernel in (march, march_warp):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        found.append(kernel.march(*args, generator, budget))
        states.append(None if generator is None else generator.get_state())
    assert states[0] is None or torch.equal(*states)
    return found


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize(
    ("size", "n_samples", "resolution", "share"),
    [
        (1, 1, 1, 1.0),
        (7, 16, 5, 0.5),
        (32, 64, 32, 0.05),
        (64, 128, 64, 0.05),
        (40, 512, 128, 0.3),
        (48, 96, 16, 1.0),
    ],
)
def test_the_samples_are_the_twins(size, n_samples, resolution, share, seed):
    for view in range(3):
        occupancy = some_cells(resolution, share, view)
        one, other = both(*views(size, view), occupancy, HALF, NEAR, n_samples, seed=seed)
        assert_same(one, other)
        assert share < 1 or n_samples == 1 or len(one.t)


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("budget", [1, 1000, 10**6])
def test_the_budget_thins_alike(budget, seed):
    one, other = both(*views(48, 0), some_cells(16, 0.6, 0), HALF, NEAR, 128, seed=seed, budget=budget)
    assert_same(one, other)
    assert len(other.t) == budget or budget == 10**6


def test_inside_the_box_along_its_axes_and_with_components_of_zero():
    axes = torch.cat((torch.eye(3), -torch.eye(3)))
    edges = torch.nn.functional.normalize(torch.tensor([[1.0, 1.0, 0.0], [0.0, -1.0, 1.0]]), dim=1)
    directions = torch.cat((axes, edges))
    for start in (torch.zeros(3), torch.tensor([HALF, 0.0, -HALF]), torch.tensor([0.0, -2.0, 0.0])):
        origins = start.repeat(len(directions), 1)
        assert_same(*both(origins, directions, some_cells(8, 0.7, 1), HALF, NEAR, 64, seed=2))


def test_nothing_to_sample():
    origins, directions = views(8, 0)
    empty, full = (torch.full((16, 16, 16), value) for value in (False, True))
    none = torch.zeros(0, 3)
    for o, d, cells in ((origins, directions, empty), (origins, -directions, full), (none, none, full)):
        one, other = both(o, d, cells, HALF, 2.5 if cells is full else NEAR, 32, seed=0, budget=5)
        assert_same(one, other)
        assert len(other.t) == 0 and other.n_rays == len(o)


def test_rays_that_are_no_numbers_get_no_samples():
    origins, directions = views(8, 0)
    origins[3, 1], directions[5, 2] = float("nan"), float("nan")
    one, other = both(origins, directions, some_cells(8, 1.0, 0), HALF, NEAR, 32)
    assert_same(one, other)
    assert not torch.isin(torch.tensor([3, 5]), other.ray).any()


def test_chunks_draw_alike(monkeypatch):
    args = (*views(20, 3), some_cells(16, 0.4, 3), HALF, NEAR, 48)
    whole = march_warp.march(*args, torch.Generator().manual_seed(1), 900)
    monkeypatch.setattr(march, "CHUNK", 48 * 7)
    one, other = both(*args, seed=1, budget=900)
    assert_same(one, other)
    assert_same(whole, other)


def test_occupancy_and_rays_need_not_be_contiguous():
    origins, directions = views(16, 0)
    cells = some_cells(12, 0.3, 0)
    strided = cells.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    wide = torch.cat((origins, origins), 1)[:, :3]
    assert_same(
        march_warp.march(wide, directions.t().contiguous().t(), strided, HALF, NEAR, 64),
        march.march(origins, directions, cells, HALF, NEAR, 64),
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("seeded", [False, True])
def test_the_samples_are_the_twins_on_a_card(seeded):
    found = []
    for kernel in (march, march_warp):
        generator = torch.Generator("cuda").manual_seed(5) if seeded else None
        cells = some_cells(128, 0.05, 0, "cuda")
        found.append(kernel.march(*views(256, 0, "cuda"), cells, HALF, NEAR, 512, generator, 300_000))
    assert_same(*found)


@pytest.mark.skipif(
    torch.backends.cuda.is_built(), reason="the pretended card stands on a torch without CUDA"
)
def test_a_card_is_waited_for_once_however_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the paper's size the rays come in 16 pieces."""
    monkeypatch.setattr(march, "CHUNK", 64 * 16)
    with PretendedCard() as card:
        cells, given = some_cells(16, 0.4, 1, "cuda"), views(16, 2, "cuda")
        before = card.waits.total()
        found = march_warp.march(*given, cells, HALF, NEAR, 16)
        assert card.waits.total() - before == 1, card.report()
        assert_same(found, march.march(*given, cells, HALF, NEAR, 16))
    assert len(found.ray) > 100
