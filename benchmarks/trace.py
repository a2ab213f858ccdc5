"""What one iteration of each stage launches at full size, and what bounds it on a card: counted, without one.

    python benchmarks/trace.py [--size paper|tiny] [--stages nerf texture] [--lines]

The stages' own code runs on the tests' pretended card, the scene with real numbers and the networks (Stable Diffusion
2.1-base, 2.1 and the SDXL refiner, in bfloat16) on torch's meta device, where tensors have sizes and no contents. Every
operator is written down with its kernels (KERNELS below; a view has none), the bytes it reads and writes and its
arithmetic, and every time that Python waits for the card, by line with --lines. Then the list is played: Python
launches one kernel after another, the card does each as soon as it has been launched and the one before is done, and
takes for it what its bytes or its arithmetic take, whichever is longer. The time in which the card has nothing to do is
what a faster card would not shorten: the launch-bound share. Nothing of that is a measurement of a card.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from diffusers.utils import logging
from torch import Generator, Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

sys.path.insert(0, str(Path(__file__).parents[1]))

from backend import stages
from backend.config import STAGES, Preset, resolve
from backend.diffusion.denoiser import Network, Text, denoise_guided
from backend.diffusion.lora import LoRAPhi
from backend.diffusion.prior import Backgrounds, PoseRange
from backend.diffusion.schedule import NoiseLevel
from backend.diffusion.stable_diffusion import to_latent
from backend.kernels import select
from backend.scene.camera import Camera
from backend.scene_state import hand_over, new_scene
from benchmarks.memory import FusedAttention
from tests.card.pretended import PretendedCard
from tests.diffusion.tiny_models import NUMBERS, unet, vae

CARD = torch.device("cuda", 0)
# kernels of operators that have more than one on CUDA, at least (torch 2.13, cuDNN 9); all others have one
KERNELS = {
    "native_group_norm": 3, "native_group_norm_backward": 4, "native_layer_norm_backward": 3, "convolution_backward": 3,
    "nonzero": 3, "sort": 4, "_unique2": 6, "unique_dim": 8, "unique_consecutive": 5, "cumsum": 2, "index_put_": 5,
    "_index_put_impl_": 5, "index_put": 5, "repeat_interleave": 2, "norm": 2, "linalg_vector_norm": 1, "cat": 1,
    "flash attention": 1, "flash attention backward": 3, "topk": 3, "masked_select": 4, "scatter_reduce_": 2,
}  # fmt: skip
NONE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_local_scalar_dense", "set_", "resize_"}
TENSORS_A_KERNEL = 30  # of fused and foreach operators, about
LAUNCH, OPERATOR = 6e-6, 1e-6  # seconds of Python and the driver for a kernel, and for an operator that has none
LEAST = 2e-6  # seconds of the shortest kernel
GRAPH = 20e-6  # seconds to launch a graph; between its kernels there is about one microsecond
REACHED = 0.6  # share of a card's arithmetic and bandwidth that kernels reach


@dataclass(frozen=True)
class Card:
    name: str
    bandwidth: float  # bytes a second
    half: float  # FLOP/s of matrix products and convolutions in bfloat16, sums in float32
    single: float  # FLOP/s in float32


CARDS = (Card("RTX 4070 (12 GB)", 504e9, 58e12, 29e12), Card("RTX 4090 (24 GB)", 1008e9, 165e12, 83e12))


@dataclass
class Event:
    """An operator on the card, or a wait for it."""

    part: str
    name: str
    kernels: int = 0
    bytes: int = 0
    flops: float = 0.0
    half: bool = False
    wait: bool = False


@dataclass
class Trace(TorchDispatchMode):
    """Writes down what is dispatched to the card or to the meta device."""

    card: PretendedCard
    events: list[Event] = field(default_factory=list)
    part: str = "scene"
    quiet: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self.quiet:
            self._write(func, args, kwargs or {}, out)
        return out

    def _write(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        read, made = tensors((args, tuple(kwargs.values()))), tensors((out,))
        if not any(t.is_meta or self.card.memory.holds(t) for t in (*read, *made)):
            return
        name = func._schema.name.removeprefix("aten::")
        returns = [r.alias_info for r in func._schema.returns]
        view = bool(returns) and all(a is not None and not a.is_write for a in returns)
        if view or name in NONE:
            self.events.append(Event(self.part, name))
            return
        kernels = KERNELS.get(name, 1)
        if name.startswith(("_foreach", "_fused")):
            kernels = -(-len(read) // TENSORS_A_KERNEL)
        flops = flop_registry.get(func._overloadpacket)
        self.events.append(
            Event(
                self.part, name, kernels, sum(map(size_of, (*read, *made))),
                float(flops(*args, **kwargs, out_val=out)) if flops else 0.0,
                any(t.dtype == torch.bfloat16 for t in read),
            )
        )  # fmt: skip

    def add(self, event: Event) -> None:
        if not self.quiet:
            self.events.append(event)

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before

    @contextmanager
    def silent(self) -> Iterator[None]:
        before, self.quiet = self.quiet, True
        try:
            yield
        finally:
            self.quiet = before


def tensors(values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors(value)
    return found


def size_of(tensor: Tensor) -> int:
    """Bytes that are there to be read: a number that is repeated is read once."""
    count = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= length if stride else 1
    return count * tensor.element_size()


def to_meta(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


class TracedEncode(torch.autograd.Function):
    """The VAE's encoder on the meta device, both ways; what it gives the scene is small and means nothing."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, prior: TracedPrior) -> Tensor:
        with torch.enable_grad(), prior.trace.during("encode"):
            ctx.image = to_meta(image).requires_grad_()
            ctx.x = to_latent(prior.vae, ctx.image, prior.native, 8)
        ctx.prior = prior
        return prior.like(ctx.x, image)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        with torch.enable_grad(), ctx.prior.trace.during("encode, backward"):
            (found,) = torch.autograd.grad(ctx.x, ctx.image, to_meta(g))
        return ctx.prior.like(found, g), None


class TracedPrior:
    """A Prior whose networks are of the real size and on the meta device."""

    factor, channels, guidance = 8, 4, None
    poses, backgrounds = PoseRange(), Backgrounds()
    normal_background = (0.5, 0.5, 1.0)
    settings: dict[str, Any] = {}  # noqa: RUF012
    target, lora = "latent", True

    def __init__(self, trace: Trace, refiner: bool, size: str) -> None:
        self.trace, self.name = trace, "refiner" if refiner else "sd"
        name: Any = "refiner" if refiner else "sd21-base"
        numbers = NUMBERS[name, size]
        self.native = numbers.latent_size * 8
        with torch.device("meta"):
            self.vae = vae(name, numbers).requires_grad_(False)
            self.network = self.own = Network(frozen(unet(name, numbers)), "epsilon", torch.bfloat16)
            if not refiner:
                self.own = Network(frozen(unet("sd21", NUMBERS["sd21", size])), "v_prediction", torch.bfloat16)
            more = (torch.empty(1, numbers.projection), torch.empty(1, 5)) if refiner else ()
            self.text = Text(torch.empty(1, 77, numbers.text_width), *more)

    def like(self, x: Tensor, beside: Tensor) -> Tensor:
        """Numbers of that shape, beside another tensor."""
        with self.trace.silent():
            return torch.full(x.shape, 1e-3, device=beside.device)

    def prepare(self, *_: Any) -> None: ...

    def encode(self, image: Tensor) -> Tensor:
        return TracedEncode.apply(image, self)

    @torch.no_grad()
    def denoise(self, z: Tensor, level: NoiseLevel, camera: Camera, conditioning: Any, scale: float) -> Tensor:
        with self.trace.during("D_p"):
            found = denoise_guided(self.network, to_meta(z), level, self.text, self.text, scale)
        return self.like(found, z)

    def phi(self, conditioning: Any, rank: int, learning_rate: float, warmup: int, seed: int) -> TracedPhi:
        with self.trace.silent():
            return TracedPhi(self, LoRAPhi(self.own, self.text, rank, learning_rate, warmup, seed))


class TracedPhi:
    def __init__(self, prior: TracedPrior, phi: LoRAPhi) -> None:
        self.prior, self.real, self.steps = prior, phi, 0
        self.optimizer = phi._optimizer
        for group in self.optimizer.param_groups:
            group.update(fused=False, foreach=False)  # meta tensors have no fused kernel: it is written down by hand
        self.optimizer.step = self.step  # type: ignore[method-assign]

    def step(self) -> None:
        count = len(self.real.parameters)
        size = 7 * sum(p.numel() for p in self.real.parameters.values()) * 4
        kernels = -(-count // TENSORS_A_KERNEL)
        self.prior.trace.add(Event(self.prior.trace.part, "_fused_adamw_", kernels, size))

    def fit(self, x: Tensor, level: NoiseLevel, camera: Camera, generator: Generator) -> Tensor:
        with self.prior.trace.during("D_phi's step"):
            loss = self.real.fit(to_meta(x), level, on_host(self.prior, camera), torch.Generator())
        return self.prior.like(loss, x)

    def __call__(self, z: Tensor, level: NoiseLevel, camera: Camera) -> Tensor:
        with self.prior.trace.during("D_phi"):
            return self.prior.like(self.real(to_meta(z), level, on_host(self.prior, camera)), z)


def on_host(prior: TracedPrior, camera: Camera) -> Any:
    """All that D_phi asks of a camera, on the meta device."""

    class Poses:
        c2w = to_meta(camera.c2w)

    return Poses()


def frozen(module: nn.Module) -> Any:
    return module.to(torch.bfloat16).eval().requires_grad_(False)


def attention(trace: Trace) -> Callable[..., Tensor]:
    """Fused, with its arithmetic: two products of [T,d] and [d,S], and five on the way back."""

    def attend(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
        size = sum(map(size_of, (q, k, v, q)))
        flops = 4.0 * q[..., 0].numel() * q.shape[-1] * k.shape[-2]
        half = q.dtype == torch.bfloat16
        trace.add(Event(trace.part, "flash attention", 1, size, flops, half))
        out = FusedAttention.apply(q, k, v)
        if out.requires_grad:
            part = trace.part
            out.register_hook(
                lambda g: trace.add(Event(part, "flash attention backward", 3, 2 * size, 2.5 * flops, half))
            )
        return out

    return attend


def traced(name: str, size: str) -> tuple[list[Event], Counter[Any]]:
    """One iteration of a stage, its third: (what it did, waits by line)."""
    preset: Preset = resolve("paper") if size == "paper" else resolve("paper", tiny_overrides())
    with PretendedCard(memory=80e9) as card:
        trace = Trace(card)
        wait = card.wait

        def waited(what: str) -> None:
            trace.add(Event(trace.part, what, wait=True))
            wait(what)

        with (
            mock.patch.object(card, "wait", waited),
            mock.patch.object(nn.functional, "scaled_dot_product_attention", attention(trace)),
            warp_launches(trace),
            trace,
        ):
            with trace.silent():
                prior: Any = TracedPrior(trace, name == "refine", "full" if size == "paper" else "tiny")
                kernels = select(CARD)
                scene = new_scene(preset.nerf, kernels, CARD, 0)
                if name != "nerf":
                    views = prior.poses.sample(torch.Generator(CARD).manual_seed(0), 8, 64, 64)
                    hand_over(scene, views, preset.geometry.cells, kernels)
                walk = getattr(preset, name)
                g = stages.guide(prior, "", "", walk, "normal" if name == "geometry" else "colour")
                generator = torch.Generator(CARD).manual_seed(1)
                if name == "nerf":
                    stage = stages.nerf_stage(scene, g, walk, generator, 0)
                elif name == "geometry":
                    stage = stages.geometry_stage(scene, g, walk, kernels, generator)
                else:
                    stage = stages.texture_stage(scene, g, walk, kernels, generator, 0, name)
                running = stage.steps(0)
                next(running)
            card.waits.clear()
            next(running)
        return trace.events, card.waits


@contextmanager
def warp_launches(trace: Trace) -> Iterator[None]:
    """Warp's kernels, which torch does not see; a look-up reads eight corners of a cell."""
    from backend.kernels.warp_start import wp

    launch = wp.launch

    def written(kernel: Any, dim: Any, inputs: Any = (), outputs: Any = (), **kwargs: Any) -> Any:
        arrays = [a for a in (*inputs, *outputs) if hasattr(a, "_tensor")]
        size = sum(size_of(a._tensor) for a in arrays)
        if kernel.key.endswith(("encode", "to_table", "to_x")):
            count = 1
            for length in dim if isinstance(dim, tuple | list) else (dim,):
                count *= length
            size += 8 * 16 * count
        trace.add(Event(trace.part, f"warp {kernel.key}", 1, size))
        return launch(kernel, dim, inputs, outputs, **kwargs)

    with mock.patch.object(wp, "launch", written):
        yield


def tiny_overrides() -> dict[str, Any]:
    from benchmarks.stages import TINY

    return TINY


def played(events: list[Event], card: Card, graphs: bool) -> tuple[float, float]:
    """(seconds of the iteration, seconds in which the card had nothing to do)."""
    host = device = idle = 0.0
    inside = ""  # the captured pass that is being replayed
    for event in events:
        captured = graphs and event.part in ("D_p", "D_phi")
        if event.wait:
            host = max(host, device)
            continue
        if captured:
            if inside != event.part:
                host += GRAPH
            inside = event.part
        else:
            inside = ""
            host += event.kernels * LAUNCH or OPERATOR
        if not event.kernels:
            continue
        peak = card.half if event.half else card.single
        work = max(event.bytes / card.bandwidth, event.flops / peak) / REACHED
        start = max(device, host)
        idle += start - device
        device = start + max(work, event.kernels * LEAST)
    return max(host, device), idle + max(0.0, host - device)


def report(name: str, events: list[Event], waits: Counter[Any], lines: bool) -> None:
    launches = sum(e.kernels for e in events)
    size, flops = sum(e.bytes for e in events), sum(e.flops for e in events)
    operators = sum(not e.wait for e in events)
    print(
        f"{name}: {operators} operators, {launches} kernels, {size / 1e9:.1f} GB, {flops / 1e12:.2f} TFLOP,"
        f" {waits.total()} waits"
    )
    parts = dict.fromkeys(e.part for e in events)
    for part in parts:
        own = [e for e in events if e.part == part]
        print(
            f"    {part:18s} {sum(not e.wait for e in own):6d} operators {sum(e.kernels for e in own):6d} kernels"
            f" {sum(e.bytes for e in own) / 1e9:7.2f} GB {sum(e.flops for e in own) / 1e12:7.3f} TFLOP"
        )
    for card in CARDS:
        said = []
        for graphs in (False, True):
            took, idle = played(events, card, graphs)
            said.append(f"{'graphs' if graphs else 'plain'} {1000 * took:.0f} ms, launch-bound {idle / took:.0%}")
        print(f"    {card.name}: {'; '.join(said)}")
    if lines:
        for place, times in waits.most_common():
            print(f"    {times:4d}  {place}")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("paper", "tiny"), default="paper")
    parser.add_argument("--stages", choices=STAGES, nargs="+", default=STAGES)
    parser.add_argument("--lines", action="store_true", help="where Python waits")
    options = parser.parse_args()
    logging.set_verbosity_error()
    for name in options.stages:
        report(name, *traced(name, options.size), options.lines)


if __name__ == "__main__":
    main()
