"""The guard against NaN and infinity, and the norm that it looks at."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from backend.errors import NumericsError
from backend.scene.optimizer import gradient_norm, require_finite


def optimizer_of(*parameters: Tensor) -> SGD:
    return SGD([nn.Parameter(p) for p in parameters], lr=1.0)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_without_a_gradient_the_norm_is_on_the_parameters_device(device: str) -> None:
    norm = gradient_norm(optimizer_of(torch.ones(3, device=device)))
    assert norm.device.type == device and norm.shape == ()


def test_the_norm_is_over_all_gradients() -> None:
    optimizer = optimizer_of(torch.zeros(2), torch.zeros(1), torch.zeros(4))
    first, second, _ = optimizer.param_groups[0]["params"]
    first.grad, second.grad = torch.tensor([2.0, 3.0]), torch.tensor([6.0])
    assert gradient_norm(optimizer).item() == 7.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_the_first_bad_tensor_is_named(value: float) -> None:
    good, bad = torch.ones(3), torch.tensor([1.0, value])
    require_finite(5, render=good, D_p=good)
    with pytest.raises(NumericsError, match="iteration 5: D_p holds a NaN or an infinity"):
        require_finite(5, render=good, D_p=bad, gradient=bad)


def test_a_card_is_waited_for_every_16_iterations() -> None:
    """A meta tensor cannot be read: that it was tried is seen from torch's own refusal."""
    there = torch.zeros(3, device="meta")
    for iteration in (1, 15, 17):
        require_finite(iteration, render=there)
    for iteration in (0, 16, 32):
        with pytest.raises((NotImplementedError, RuntimeError)):
            require_finite(iteration, render=there)
