"""torch's Python functions and a tensor's attributes, as they are where a tensor lies on a card.

What an operator cannot tell (`.device`, `.to`, factories with a device, generators, numpy) is answered here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode

from tests.card.generators import CARD, REAL, is_on_card

if TYPE_CHECKING:
    from tests.card.pretended import PretendedCard

HOST = torch.device("cpu")


class Functions(TorchFunctionMode):
    def __init__(self, card: PretendedCard) -> None:
        super().__init__()
        self.card = card

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if not self.card.open:
            return func(*args, **kwargs)
        answer = ANSWERS.get(func)
        if answer is not None:
            return answer(self.card, func, args, kwargs)
        if func in BACKWARD:
            return _backward(self, func, args, kwargs)
        return _call(self.card, func, args, kwargs)


# a tensor's attributes


def _device(card: PretendedCard, func: Any, args: Any, kwargs: Any) -> Any:
    return CARD if card.memory.holds(args[0]) else func(*args)


def _is_cuda(card: PretendedCard, func: Any, args: Any, kwargs: Any) -> bool:
    return card.memory.holds(args[0])


def _is_cpu(card: PretendedCard, func: Any, args: Any, kwargs: Any) -> bool:
    return bool(func(*args)) and not card.memory.holds(args[0])


def _get_device(card: PretendedCard, func: Any, args: Any, kwargs: Any) -> int:
    return 0 if card.memory.holds(args[0]) else -1


def _type(card: PretendedCard, func: Any, args: Any, kwargs: Any) -> Any:
    if len(args) > 1 or kwargs:
        return func(*args, **kwargs)
    name = func(*args)
    return name.replace("torch.", "torch.cuda.", 1) if card.memory.holds(args[0]) else name


# to numpy and to Python


def _numpy(card: PretendedCard, func: Any, args: Any, kwargs: Any) -> Any:
    tensor = args[0]
    if card.memory.holds(tensor):
        if not (kwargs.get("force") or (func is torch.Tensor.numpy and args[1:] == (True,))):
            card.refuse(
                TypeError,
                "can't convert cuda:0 device type tensor to numpy."
                " Use Tensor.cpu() to copy the tensor to host memory first.",
            )
        card.wait("numpy(force=True)")
        return func(tensor.detach().clone(), *args[1:], **kwargs)
    return func(*args, **kwargs)


def _tolist(card: PretendedCard, func: Any, args: Any, kwargs: Any) -> Any:
    if card.memory.holds(args[0]):
        card.wait("tolist")
        with torch._C.DisableTorchFunction(), torch.utils._python_dispatch._disable_current_modes():
            return func(*args, **kwargs)
    return func(*args, **kwargs)


def _pin_memory(card: PretendedCard, func: Any, args: Any, kwargs: Any) -> Any:
    if card.memory.holds(args[0]):
        card.refuse(RuntimeError, "cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    return args[0]


# from one device to the other


def _cpu(card: PretendedCard, func: Any, args: Any, kwargs: Any) -> Tensor:
    return move(card, args[0], HOST, form=kwargs.get("memory_format"))


def _cuda(card: PretendedCard, func: Any, args: Any, kwargs: Any) -> Tensor:
    later = bool(kwargs.get("non_blocking", args[2] if len(args) > 2 else False))
    return move(card, args[0], CARD, later=later, form=kwargs.get("memory_format"))


def _to(card: PretendedCard, func: Any, args: Any, kwargs: Any) -> Tensor:
    tensor, args = args[0], list(args[1:])
    copy = bool(kwargs.pop("copy", False))
    other = kwargs.get("other", args[0] if args else None)
    if isinstance(other, Tensor):
        if other.is_meta:
            return func(tensor, *args, copy=copy, **kwargs)
        return move(card, tensor, CARD if card.memory.holds(other) else HOST, other.dtype, copy)
    if len(args) > 1 and isinstance(args[-1], bool) and isinstance(args[-2], bool):
        copy = args.pop() or copy  # the second flag of to(..., non_blocking, copy)
    device, dtype, later, form = torch._C._nn._parse_to(*args, **kwargs)
    if device is not None and device.type == "meta":
        return torch.Tensor.to(tensor, *args, **kwargs)
    return move(card, tensor, device, dtype, copy, later, form)


class _Move(torch.autograd.Function):
    """To the other device and, for its gradient, back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, card: PretendedCard, device: torch.device, more: Any) -> Tensor:
        ctx.card, ctx.device, ctx.dtype = card, HOST if device.type == "cuda" else CARD, tensor.dtype
        return _copied(card, tensor, device, more)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return move(ctx.card, g, ctx.device, ctx.dtype), None, None, None


def _copied(card: PretendedCard, tensor: Tensor, device: torch.device, more: Any) -> Tensor:
    made = torch.Tensor.to(tensor, copy=True, **more)
    if device.type == "cuda":
        card.memory.put(made)
    else:
        card.memory.take(made)
    return made


def move(
    card: PretendedCard,
    tensor: Tensor,
    device: torch.device | None,
    dtype: torch.dtype | None = None,
    copy: bool = False,
    later: bool = False,
    form: Any = None,
) -> Tensor:
    """Tensor.to; `later` is its non_blocking."""
    more: dict[str, Any] = {"dtype": dtype or tensor.dtype}
    if form is not None:
        more["memory_format"] = form
    on_card = card.memory.holds(tensor)
    if device is None or (device.type == "cuda") == on_card:
        return torch.Tensor.to(tensor, copy=copy, **more)
    card.require(device)
    if on_card:
        card.wait("to the host")
    elif not later:
        card.wait("to the card")
    if tensor.requires_grad and torch.is_grad_enabled() and tensor.is_floating_point():
        return _Move.apply(tensor, card, device, more)
    return _copied(card, tensor, device, more)


# everything else


def _call(card: PretendedCard, func: Any, args: Any, kwargs: Any) -> Any:
    first = args[0] if args and isinstance(args[0], Tensor) else None
    name = getattr(func, "__name__", "")
    if func is torch._C._nn._parse_to:  # Module.to's own reading of its arguments
        return func(*args, **kwargs)
    device = kwargs.get("device")
    target: bool | None = None
    if isinstance(device, str | torch.device | int) and not isinstance(device, bool):
        kind = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        if kind.type in ("cuda", "cpu"):
            target = kind.type == "cuda"
            kwargs["device"] = HOST
            if target:
                card.initialise()
                card.require(kind)
    if first is not None and target is not None and func in (torch.as_tensor, torch.asarray):
        return move(card, first, CARD if target else HOST, kwargs.get("dtype"))
    if target is None and first is not None and (name.startswith("new_") or name.endswith("_like")):
        target = card.memory.holds(first)
    if kwargs.pop("pin_memory", False) and target:
        card.refuse(RuntimeError, "Only dense CPU tensors can be pinned")
    generator = kwargs.get("generator")
    if isinstance(generator, REAL):
        wanted = target if target is not None else (first is not None and card.memory.holds(first))
        if is_on_card(generator) != wanted:
            sides = ("cuda", "cpu") if wanted else ("cpu", "cuda")
            card.refuse(
                RuntimeError, f"Expected a '{sides[0]}' device type for generator but found '{sides[1]}'"
            )
        if is_on_card(generator):
            card.streams.refuse_generator()
            generator.advance()
    card.making.append((target, args, kwargs))
    try:
        out = func(*args, **kwargs)
    finally:
        card.making.pop()
    if target is None or not isinstance(out, Tensor) or out.is_meta:
        return out
    if target:
        if func in (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor):
            card.wait(f"{name} from the host")
        card.memory.put(out)
    elif first is None or not card.memory.holds(first) or name.startswith("new_") or name.endswith("_like"):
        card.memory.take(out)
    return out


# backward passes


def _grads(given: Any, tensors: tuple[Tensor, ...]) -> tuple[Any, ...]:
    listed = (
        (None,) * len(tensors) if given is None else (given,) if isinstance(given, Tensor) else tuple(given)
    )
    return tuple(
        torch.ones_like(t) if g is None and t.requires_grad else g
        for g, t in zip(listed, tensors, strict=True)
    )


def _many(value: Any) -> tuple[Any, ...]:
    return () if value is None else (value,) if isinstance(value, Tensor) else tuple(value)


def _backward(mode: Functions, func: Any, args: Any, kwargs: Any) -> Any:
    """The engine itself, with this mode on: inside of what is overridden it is off, and backward passes of autograd
    functions written in Python have to see the card, too."""
    names = BACKWARD[func]
    given = dict(zip(names, args, strict=False)) | {
        RENAMED.get(name, name): value for name, value in kwargs.items()
    }
    tensors = _many(given["tensors"])
    create = bool(given.get("create_graph"))
    keep = given.get("retain_graph")
    asked = func is torch.autograd.grad
    mode.card.making.append((None, tensors, {}))
    try:
        grads = _grads(given.get("grads"), tensors)
        for t, g in zip(tensors, grads, strict=True):
            if isinstance(g, Tensor) and mode.card.memory.holds(t) != mode.card.memory.holds(g):
                mode.card.refuse(
                    RuntimeError, "Expected all tensors to be on the same device: a gradient and its tensor"
                )
        with mode:
            return _engine_run_backward(
                tensors,
                grads,
                create if keep is None else keep,
                create,
                _many(given.get("inputs")),
                allow_unreachable=bool(given.get("allow_unused")) if asked else True,
                accumulate_grad=not asked,
            )
    finally:
        mode.card.making.pop()


RENAMED = {
    "gradient": "grads",
    "grad_tensors": "grads",
    "grad_outputs": "grads",
    "outputs": "tensors",
    "self": "tensors",
}
BACKWARD: dict[Any, tuple[str, ...]] = {
    torch.Tensor.backward: ("tensors", "grads", "retain_graph", "create_graph", "inputs"),
    torch.autograd.backward: ("tensors", "grads", "retain_graph", "create_graph", "grad_variables", "inputs"),
    torch.autograd.grad: (
        "tensors",
        "inputs",
        "grads",
        "retain_graph",
        "create_graph",
        "only_inputs",
        "allow_unused",
    ),
}
ANSWERS: dict[Any, Any] = {
    torch.Tensor.device.__get__: _device,  # type: ignore[attr-defined]
    torch.Tensor.is_cuda.__get__: _is_cuda,  # type: ignore[attr-defined]
    torch.Tensor.is_cpu.__get__: _is_cpu,  # type: ignore[attr-defined]
    torch.Tensor.get_device: _get_device,
    torch.get_device: _get_device,
    torch.Tensor.type: _type,
    torch.Tensor.numpy: _numpy,
    torch.Tensor.__array__: _numpy,
    torch.Tensor.tolist: _tolist,
    torch.Tensor.pin_memory: _pin_memory,
    torch.Tensor.cpu: _cpu,
    torch.Tensor.cuda: _cuda,
    torch.Tensor.to: _to,
}
