"""What a run remembers, over a resume and whichever device its figures lie on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from backend.jobs.telemetry import Curves, RunLog
from backend.stages.checkpoint import RunState


class OnCard(Tensor):
    """A tensor that torch refuses to join with one of the processor's."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.cpu:
            return args[0].as_subclass(Tensor)
        if func in (torch.stack, torch.cat) and not all(isinstance(t, OnCard) for t in args[0]):
            raise RuntimeError("Expected all tensors to be on the same device, cuda:0 and cpu")
        return super().__torch_function__(func, types, args, kwargs or {})


def step(value: float) -> Any:
    scalar = torch.tensor(value).as_subclass(OnCard)
    return SimpleNamespace(loss=scalar, gap=scalar * 2, gradient=scalar * 3)


def restored(told: RunLog) -> RunLog:
    again = RunLog()
    again.restore(RunState("nerf", 3, 0, False, 0.0, None, told.tensors(), {"seconds": {"nerf": 2.5}}))
    return again


def test_a_resumed_run_goes_on_with_its_curves_on_a_card() -> None:
    """Twice, and once with nothing new: what was saved lies on the processor, what is new does not."""
    told = RunLog(curves={"nerf": Curves()})
    for value in (1.0, 2.0, 3.0):
        told.curves["nerf"].add(step(value))
    for more in ((4.0, 5.0), (), (6.0,)):
        told = restored(told)
        assert told.seconds == {"nerf": 2.5}
        for value in more:
            told.curves["nerf"].add(step(value))
    arrays = told.curves["nerf"].arrays()
    assert {type(values) for values in arrays.values()} == {Tensor}
    assert arrays["loss"].tolist() == [1, 2, 3, 4, 5, 6]
    assert arrays["gap"].tolist() == [2, 4, 6, 8, 10, 12]
    assert arrays["gradient"].tolist() == [3, 6, 9, 12, 15, 18]


def test_a_stage_without_an_iteration_has_empty_curves() -> None:
    assert {name: len(values) for name, values in Curves().arrays().items()} == {
        "loss": 0,
        "gap": 0,
        "gradient": 0,
    }
