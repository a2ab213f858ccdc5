"""A pretended NVIDIA card: the real code with real numbers, on a torch without CUDA and a machine without a card.

    with PretendedCard() as card:
        ...  # torch.cuda.is_available() is True, device="cuda" works
    card.waits  # Counter of Place: what Python stood still for, and on which line

Every tensor is a tensor of the processor. A table (memory.py) says which storages lie on the card; a dispatch mode
(operators.py) looks at every operator, forward and backward, and a function mode (functions.py) answers what a tensor
is asked. Only C calls are stood in for (driver.py, streams.py): torch.cuda's own Python, autograd, optimisers,
diffusers, peft and safetensors run as they are. What a card refuses raises here, with the type that it raises there.

Not told from a card: rounding (TF32, the order of sums), kernels' own faults, fragmented memory and the workspaces of
libraries, time. Inside a function of torch that is written in Python the function mode is off: what is made there
lies where its arguments lie.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from unittest import mock

import torch
import torch._dynamo  # the first operator under a dispatch mode imports it, and it looks at what torch is built with
import torch.utils.checkpoint

from tests.card import driver, warp_card
from tests.card.functions import Functions
from tests.card.generators import REAL, Generator
from tests.card.memory import Memory
from tests.card.operators import Operators
from tests.card.rules import tensors_in
from tests.card.streams import NOT_WHILE_CAPTURING, Streams

ROOT = Path(__file__).parents[2]
OURS = tuple(str(ROOT / name) + "/" for name in ("backend", "benchmarks", "tests"))
MACHINERY = {str(path) for path in Path(__file__).parent.glob("*.py") if not path.name.startswith("test_")}


class Place(NamedTuple):
    """What happened, and the innermost line of the project that it happened on."""

    what: str
    file: str  # from the repository's root
    function: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.function}: {self.what}"


def place(what: str) -> Place:
    frame: Any = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(OURS) and name not in MACHINERY:
            return Place(what, str(Path(name).relative_to(ROOT)), frame.f_code.co_qualname, frame.f_lineno)
        frame = frame.f_back
    return Place(what, "?", "?", 0)


class PretendedCard:
    """capability: 8.9 is Ada, and the default; 7.5 is Turing, which has no bfloat16; 6.1 has no kernels in torch.

    memory  bytes of the card
    """

    def __init__(
        self, memory: float = 24e9, capability: tuple[int, int] = (8, 9), name: str = "Pretended RTX"
    ) -> None:
        self.capability, self.name = capability, name
        self.memory = Memory(int(memory))
        self.streams = Streams(self)
        self.waits: Counter[Place] = Counter()
        self.refused: Counter[Place] = Counter()
        self.operators: Counter[str] = Counter()
        self.replays = 0
        self.open = False
        self.sync_debug_mode = 0  # torch.cuda.set_sync_debug_mode: 2 raises where Python would wait
        self.left = ""  # the error of a launch that failed, for whoever asks next
        self.broken = ""  # what a card says from a sticky error on; "" while it is well
        self._thread = threading.local()
        self._stack = ExitStack()

    # what a card says

    def wait(self, what: str) -> None:
        """Python waits for the card."""
        self.require()
        self.refuse_while_capturing()
        if self.sync_debug_mode == 2 and not what.endswith("synchronize"):  # those are not looked at
            self.refuse(RuntimeError, "called a synchronizing CUDA operation")
        self.waits[place(what)] += 1

    def refuse(self, kind: type[Exception], what: str) -> NoReturn:
        self.refused[place(what)] += 1
        if self.streams.capturing is not None:
            self.streams.capturing.invalid = True
        raise kind(what)

    def refuse_while_capturing(self) -> None:
        if self.streams.capturing is not None:
            self.refuse(torch.AcceleratorError, NOT_WHILE_CAPTURING)

    def break_down(self, what: str = "an illegal memory access was encountered") -> None:
        """A sticky error: whatever is asked of the card in this process from now on raises."""
        self.broken = f"CUDA error: {what}"

    def require(self, device: torch.device | None = None) -> None:
        """What is asked of the card can be had. Raises torch.AcceleratorError."""
        if device is not None and device.type == "cuda" and device.index not in (None, 0):
            raise torch.AcceleratorError("CUDA error: invalid device ordinal")
        if self.left:
            said, self.left = self.left, ""
            raise torch.AcceleratorError(f"CUDA error: {said}")
        if self.broken:
            raise torch.AcceleratorError(self.broken)
        if self.capability < (7, 5):
            raise torch.AcceleratorError(
                "CUDA error: no kernel image is available for execution on the device"
            )

    # what the modes ask

    @property
    def making(self) -> list[tuple[bool | None, Any, Any]]:
        """This thread's calls of functions that are under way: where their results are asked to lie, and operands."""
        if not hasattr(self._thread, "making"):
            self._thread.making = []
        return self._thread.making

    def made_on_card(self) -> bool:
        """Whether what is made without operands, inside of the innermost call of a function, lies on the card."""
        if not self.making:
            return False
        target, args, kwargs = self.making[-1]
        if target is None:
            target = any(self.memory.holds(t) for t in tensors_in((*args, *kwargs.values())))
        return target

    def _metadata(self, tensor: torch.Tensor) -> dict[str, Any]:
        """What torch.utils.checkpoint compares of a tensor and of the one that is computed again."""
        return {"shape": tensor.shape, "dtype": tensor.dtype, "on card": self.memory.holds(tensor)}

    def initialise(self) -> None:
        torch.cuda._lazy_init()

    def modes(self) -> ExitStack:
        """For one thread."""
        stack = ExitStack()
        stack.enter_context(Operators(self))
        stack.enter_context(Functions(self))
        return stack

    def __enter__(self) -> PretendedCard:
        if torch.backends.cuda.is_built():
            raise RuntimeError("The pretended card stands on a torch without CUDA.")
        with ExitStack() as stack:
            driver.stand_in(self, stack)
            warp_card.stand_in(self, stack)
            run = threading.Thread.run
            card = self

            def run_with_modes(thread: threading.Thread) -> None:
                with card.modes():
                    run(thread)

            stack.enter_context(mock.patch.object(threading.Thread, "run", run_with_modes))
            # what is kept for a backward pass is looked at from C++, where the function mode is off
            looks = torch.utils.checkpoint._allowed_determinism_checks_to_fns
            stack.enter_context(mock.patch.dict(looks, {"default": self._metadata}))
            for name, module in list(sys.modules.items()):  # `from torch import Generator` has the real one
                if (
                    name.startswith(("backend", "benchmarks", "tests"))
                    and getattr(module, "Generator", None) is REAL
                ):
                    stack.enter_context(mock.patch.object(module, "Generator", Generator))
            self.open = True
            stack.callback(setattr, self, "open", False)
            stack.enter_context(self.modes())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def by_function(self) -> Counter[str]:
        """Waits as "file function: what", which does not change with every line that is added above."""
        found: Counter[str] = Counter()
        for where, times in self.waits.items():
            found[f"{where.file} {where.function}: {where.what}"] += times
        return found

    def report(self) -> str:
        lines = [
            f"{self.operators.total()} operators, {self.replays} replays, {self.memory.peak / 1e6:.1f} MB at most"
        ]
        for title, counter in (("waits", self.waits), ("refused", self.refused)):
            lines.append(f"{title}: {counter.total()}")
            lines += [f"{times:7}  {where}" for where, times in counter.most_common()]
        return "\n".join(lines)
