"""AdamW for what a stage learns, and how its learning rates fall."""

from __future__ import annotations

from typing import Any

from torch.optim import AdamW, Optimizer

from backend.config import StageSchedule


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
