"""AdamW for what a stage learns, how its learning rates fall, and whether what it computes is finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from backend.config import StageSchedule
from backend.errors import NumericsError

EVERY = 16  # iterations between two looks on a card, where a look waits for all work in progress
AFTER_A_NAN = "Try another seed; with half precision, run the model in bfloat16 or float32."


def adamw(groups: list[tuple[Any, float]], weight_decay: float = 0.01) -> AdamW:
    """AdamW as the paper's baselines have it; groups of parameters and their learning rates."""
    return AdamW(
        [{"params": list(params), "lr": rate, "rate": rate} for params, rate in groups],
        betas=(0.9, 0.99),
        eps=1e-15,
        weight_decay=weight_decay,
        fused=True,
    )


def decay(optimizer: Optimizer, schedule: StageSchedule, iteration: int) -> None:
    """Set the learning rates for an iteration: constant, then linearly down to a tenth."""
    done = iteration / schedule.iterations
    late = max(0.0, done - schedule.decay_from) / max(1e-9, 1 - schedule.decay_from)
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * (1 - 0.9 * late)


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
