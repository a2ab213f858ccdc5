"""Algorithm 1's own helpers; what it computes is tested in diffusion/test_identities.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backend.apfo import gradient_norm


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_without_a_gradient_the_norm_lies_where_the_parameters_do(device: str) -> None:
    norm = gradient_norm([nn.Parameter(torch.ones(3, device=device))])
    assert norm.device.type == device and norm.shape == ()


def test_the_norm_is_over_all_gradients() -> None:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(4))]
    parameters[0].grad, parameters[1].grad = torch.tensor([2.0, 3.0]), torch.tensor([6.0])
    assert gradient_norm(parameters).item() == 7.0
