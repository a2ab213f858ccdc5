"""NaN and infinity: found, and reported with the iteration and the tensor in which they appeared."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from backend.errors import NumericsError

EVERY = 16  # iterations between two looks on a card, where a look waits for all work in progress
AFTER_A_NAN = "Try another seed; with half precision, run the model in bfloat16 or float32."


def require_finite(iteration: int, **tensors: Tensor) -> None:
    """NumericsError naming the first tensor that holds a NaN or an infinity; on a card every 16 iterations only."""
    if any(tensor.device.type != "cpu" for tensor in tensors.values()) and iteration % EVERY:
        return
    found = torch.stack([torch.isfinite(tensor).all() for tensor in tensors.values()])
    for name, finite in zip(tensors, found.tolist(), strict=True):  # one wait for all
        if not finite:
            raise NumericsError(f"iteration {iteration}: {name} holds a NaN or an infinity.", AFTER_A_NAN)


def gradient_norm(optimizer: Optimizer) -> Tensor:
    """The Euclidean norm over all gradients, a scalar on the parameters' device; there is a parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norms = [p.grad.norm() for p in parameters if p.grad is not None]
    return torch.stack(norms).norm() if norms else torch.zeros((), device=parameters[0].device)
