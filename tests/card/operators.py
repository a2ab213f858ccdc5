"""Every operator of torch, forward and backward, as the pretended card meets it.

It runs on the processor, on real numbers; what it makes of the card's tensors lies on the card.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.card import rules
from tests.card.memory import has_storage

if TYPE_CHECKING:
    from tests.card.pretended import PretendedCard


class Operators(TorchDispatchMode):
    def __init__(self, card: PretendedCard) -> None:
        super().__init__()
        self.card = card

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.card.open or not isinstance(func, torch._ops.OpOverload):
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            return run(self.card, func, args, kwargs)


def run(card: PretendedCard, func: Any, args: Any, kwargs: Any) -> Any:
    of = rules.facts(func)
    holds = card.memory.holds
    operands = list(rules.tensors_in(args))
    if kwargs:
        operands += rules.tensors_in(kwargs.values())
    here = [holds(t) for t in operands]
    on_card = any(here)
    if not on_card:
        out = func(*args, **kwargs)
        if not operands and card.made_on_card():
            place(card, out)
            card.streams.after(func, args, kwargs, out, [])
        return out
    card.require()
    if not all(here):
        what = rules.mixed(of, args, kwargs, holds)
        if what in ("upload", "download"):
            if what == "download" or not (of.name == "copy_" and (args[2:] or [False])[0]):
                card.wait(f"{of.name} ({what})")
        elif what is not None:
            card.refuse(RuntimeError, what)
    if rules.waits(of, args, kwargs):
        card.wait(of.name)
    if what := rules.not_implemented(of, operands):
        card.refuse(NotImplementedError, what)
    if torch.are_deterministic_algorithms_enabled() and (what := rules.not_deterministic(of, args)):
        card.refuse(RuntimeError, what)
    card.operators[of.name] += 1
    written = [args[i] for i in of.written if i < len(args)]
    written += [kwargs[name] for name in ("out",) if name in kwargs]
    card.streams.before(operands, written)
    out = func(*args, **kwargs)
    if of.name == "copy_" and not here[0]:
        return out
    place(card, out)
    card.streams.after(func, args, kwargs, out, written)
    return out


def place(card: PretendedCard, out: Any) -> None:
    """What an operator has made lies on the card."""
    for tensor in (
        (out,) if isinstance(out, Tensor) else rules.tensors_in(out if isinstance(out, list | tuple) else ())
    ):
        if has_storage(tensor):
            card.memory.put(tensor)
