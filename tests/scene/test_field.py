import torch

from backend.kernels.hashgrid import GridLayout
from backend.scene.field import Backdrop, Field, Occupancy
from tests.tools.here import generator, here


def small_field(half: float = 1.0) -> Field:
    torch.manual_seed(0)
    layout = GridLayout(4, 2, 10, finest=32)
    return Field(layout, 16, half, density_bias=10.0).to(here())


def test_a_fresh_field_is_a_soft_ball() -> None:
    field = small_field()
    x = torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [0, 0, 0.99]], device=here())
    density = field.density(x)
    assert 9 < density[0] < 11  # softplus(10)
    assert abs(density[1] - 0.69) < 0.2  # softplus(0)
    assert density[2] < 1e-3
    assert ((field.albedo(x) - 0.5).abs() < 0.2).all()


def test_normals_of_a_ball_point_outwards() -> None:
    field = small_field()
    x = torch.nn.functional.normalize(torch.randn(50, 3, generator=generator(1), device=here()), dim=-1) * 0.4
    _, normals = field.density_and_normal(x, 1e-2)
    assert ((normals * x).sum(-1) / 0.4 > 0.95).all()


def test_a_loss_on_normals_reaches_the_table() -> None:
    field = small_field()
    field.density_and_normal(torch.tensor([[0.1, 0.2, 0.3]], device=here()), 1e-2)[1].sum().backward()
    assert field.table.grad is not None and field.table.grad.abs().sum() > 0


def test_points_outside_the_box_take_its_nearest_features() -> None:
    field = small_field(half=0.6)
    inside, outside = torch.tensor([[[0.6, 0, 0]], [[2.0, 0, 0]]], device=here())
    assert torch.equal(field.features(inside), field.features(outside))


def test_the_backdrop_is_a_colour_of_the_direction_alone() -> None:
    torch.manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(10, 3), dim=-1).to(here())
    colour = Backdrop(16).to(here())(directions)
    assert colour.shape == (10, 3) and (colour > 0).all() and (colour < 1).all()
    assert colour.std(0).max() > 0


def test_occupancy_starts_as_the_ball_and_covers_what_is_dense() -> None:
    field = small_field()
    occupancy = Occupancy(field, 16, step=0.03)
    cells = occupancy.cells
    assert cells[8, 8, 8] and not cells[0, 0, 0]
    assert 0.02 < cells.float().mean() < 0.6


def test_occupancy_forgets_slowly_and_learns_at_once() -> None:
    field = small_field()
    occupancy = Occupancy(field, 16, step=0.03)
    field.density_bias = -20.0  # everything is gone
    before = int(occupancy.cells.sum())
    occupancy.update(field, generator())
    assert int(occupancy.cells.sum()) > 0.5 * before
    for _ in range(30):
        occupancy.update(field, generator())
    assert int(occupancy.cells[8, 8, 8]) == 0
    field.density_bias = 10.0
    occupancy.update(field, generator())
    assert occupancy.cells[8, 8, 8]
