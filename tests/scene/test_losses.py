import torch

from backend.scene import losses
from backend.scene.mesh import Mesh

SQUARE = Mesh(
    torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2], [0, 2, 3]])
)


def test_entropy_is_largest_at_a_half_and_nothing_at_either_end() -> None:
    assert torch.isclose(losses.opacity_entropy(torch.full((4,), 0.5)), 4 * torch.tensor(2.0).log())
    assert losses.opacity_entropy(torch.tensor([0.0, 1.0])) < 4e-3


def test_fog_is_counted_among_what_is_seen() -> None:
    opacity = torch.tensor([0.0, 0.0, 1.0, 0.5])
    assert losses.foggy_share(opacity) == 0.5
    assert losses.foggy_share(torch.zeros(3)) == 0


def test_a_flat_pair_is_consistent_and_a_folded_one_is_not() -> None:
    pairs = torch.tensor([[0, 1]])
    assert losses.normal_consistency(SQUARE, *pairs.T) < 1e-6
    folded = SQUARE.v_pos.clone()
    folded[3] = torch.tensor([0.5, 0.5, 0.7071])  # the second face stands upright on the diagonal
    upright = losses.normal_consistency(Mesh(folded, SQUARE.t_pos_idx), *pairs.T)
    assert torch.isclose(upright, torch.tensor(1.0), atol=1e-3)


def test_the_laplacian_of_a_known_fan() -> None:
    # the middle of a flat hexagon is the mean of its neighbours; raised by h it is h away from it
    angle = torch.arange(6) * torch.pi / 3
    ring = torch.stack((angle.cos(), angle.sin(), torch.zeros(6)), 1)
    faces = torch.tensor([[0, 1 + i, 1 + (i + 1) % 6] for i in range(6)])

    def at(h: float) -> torch.Tensor:
        return losses.laplacian(Mesh(torch.cat((torch.tensor([[0.0, 0, h]]), ring)), faces))

    raised = at(0.3) - at(0.0)
    # the middle is h from its neighbours; half of a ring vertex's mean is the middle, so it moves by h / 2
    assert torch.isclose(raised, torch.tensor(0.3**2 + 6 * (0.3 / 2) ** 2), rtol=1e-4)
