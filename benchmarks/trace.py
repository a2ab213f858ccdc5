"""What one iteration of each stage launches at full size, and what bounds it on a card: counted, without one.

    python -m benchmarks.trace [--size paper|tiny] [--stages nerf texture] [--lines]

The stages' own code runs on the tests' pretended card, the scene with real numbers and the networks (Stable Diffusion
2.1-base, 2.1 and the SDXL refiner, in bfloat16) on torch's meta device, where tensors have sizes and no contents. Every
operator is written down with its kernels (recorder.py's table; a view has none), the bytes it reads and writes and its
arithmetic, and every time that Python waits for the card, by line with --lines. Then the list is played: Python
launches one kernel after another, the card does each as soon as it has been launched and the one before is done, and
takes for it what its bytes or its arithmetic take, whichever is longer. The time in which the card has nothing to do is
what a faster card would not shorten: the launch-bound share. Nothing of that is a measurement of a card.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from diffusers.utils import logging
from torch import nn

from backend.config import STAGES, Preset, resolve
from backend.scene.scene import field_to_surface, new_scene
from backend.stages import stages
from backend.stages.guides import Guide
from backend.stages.setup import kind_of
from benchmarks.recorder import Event, Trace, Waits, size_of
from benchmarks.traced_prior import TracedPrior, attention
from tests.card.pretended import MACHINERY, PretendedCard

CARD = torch.device("cuda", 0)
# seconds of Python and the driver for a kernel: a fast processor, and a slow or busy one
LAUNCHES = (6e-6, 20e-6)
VIEW = 1 / 6  # of that, for an operator that has no kernel
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


def traced(name: str, size: str) -> tuple[list[Event], Counter[Any]]:
    """One iteration of a stage, its second: (what it did, waits by line)."""
    preset: Preset = (
        resolve("paper").preset if size == "paper" else resolve("paper", {"job": tiny_overrides()}).preset
    )
    with PretendedCard(memory=80e9) as card:
        trace = Trace(card)
        card.waits = Waits(trace)
        with (
            mock.patch.object(nn.functional, "scaled_dot_product_attention", attention(trace)),
            warp_launches(trace),
            trace,
        ):
            with trace.silent():
                prior: Any = TracedPrior(trace, name == "refine", "full" if size == "paper" else "tiny")
                scene = new_scene(preset.nerf, CARD, 0)
                if name != "nerf":
                    views = prior.spec.poses.sample(torch.Generator(CARD).manual_seed(0), 8, 64, 64)
                    field_to_surface(scene, views, preset.geometry.cells)
                walk = getattr(preset, name)
                g = Guide(prior, prior.prepare("", "", kind_of(name, preset), walk.size), walk.guidance_scale)
                generator = torch.Generator(CARD).manual_seed(1)
                if name == "nerf":
                    stage = stages.nerf_stage(scene, g, walk, generator, 0)
                elif name == "geometry":
                    stage = stages.geometry_stage(scene, g, walk, generator)
                else:
                    stage = stages.texture_stage(scene, g, walk, generator, 0, name)
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


def played(events: list[Event], card: Card, graphs: bool, launch: float) -> tuple[float, float]:
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
            host += launch * (event.kernels or VIEW)
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
        for launch in LAUNCHES:
            said = []
            for graphs in (False, True):
                took, idle = played(events, card, graphs, launch)
                said.append(
                    f"{'graphs' if graphs else 'plain'} {1000 * took:.0f} ms, launch-bound {idle / took:.0%}"
                )
            print(f"    {card.name}, {1e6 * launch:.0f} us a launch: {'; '.join(said)}")
    if lines:
        for place, times in waits.most_common():
            print(f"    {times:4d}  {place}")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("paper", "tiny"), default="paper")
    parser.add_argument("--stages", choices=STAGES, nargs="+", default=STAGES)
    parser.add_argument("--lines", action="store_true", help="where Python waits")
    options = parser.parse_args()
    logging.set_verbosity_error()
    for file in ("trace", "recorder", "traced_prior"):  # no line of the product's waits here
        MACHINERY.add(str(Path(__file__).resolve().with_name(f"{file}.py")))
    for name in options.stages:
        report(name, *traced(name, options.size), options.lines)


if __name__ == "__main__":
    main()
