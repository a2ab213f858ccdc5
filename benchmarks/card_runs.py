"""The long parts of benchmarks/card.py: a whole job, and the stages at full size; and the list of all parts."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from backend.config import STAGES, Preset, resolve
from backend.diffusion.savings import SAVINGS
from backend.jobs.generate import generate
from backend.jobs.resume import resume
from backend.scene.scene import field_to_surface, new_scene
from backend.stages import stages
from backend.stages.guides import Guide
from backend.stages.setup import kind_of
from benchmarks import card_parts as parts
from benchmarks.card_parts import Day, Say, Wrong
from benchmarks.random_prior import RandomPrior
from benchmarks.stages import TINY, steps
from dreamflow_blender.contract.protocol import Cancelled, Failed, Finished, Job, Warning
from tests.tools.tiny import OVERRIDES


def draft(day: Day, say: Say) -> None:
    """A whole job, and one that is cancelled and goes on."""
    least = {f"{stage}.{what}": 1 for stage in STAGES for what in ("levels", "views")} | {"nerf.levels": 4}
    few = OVERRIDES | least | {"delivery.texture_size": 64} if day.tiny else {}
    kind = {
        "device": "cuda",
        "prior": "exact",
        "preset": "draft",
        "overrides": few,
        "checkpoint_seconds": 5.0,
    }
    for name in ("whole", "resumed"):
        folder = day.folder / name
        folder.mkdir()
        prompt = "a ball" if day.tiny else "a red mug"
        job = Job(
            name, "generate", prompt, str(folder), stages=STAGES if name == "whole" else ("nerf",), **kind
        )
        began, stop = time.monotonic(), iter(range(5))  # two looks a moment

        def asked(stop: Iterator[int] = stop, name: str = name) -> str | None:
            if name == "resumed" and next(stop, None) is None:
                return "cancel"
            return "finish" if day.left() < 60 and not day.tiny else None

        events = list(generate(job, asked))
        if name == "resumed":
            if not isinstance(events[-1], Cancelled):
                raise Wrong(f"it was to be cancelled, got {events[-1]}")
            events = list(resume(folder, lambda: "finish"))
        for event in events:
            if isinstance(event, Warning):
                say(f"{name}, warning: {event.message}")
        end = events[-1]
        if not isinstance(end, Finished):
            raise Wrong(f"{name}: {end if not isinstance(end, Failed) else end.message}")
        missing = [path for path in end.paths.values() if not Path(path).is_file()]
        if missing:
            raise Wrong(f"{name}: {missing[0]} is not there")
        figures = ", ".join(f"{key} {value:.4g}" for key, value in end.figures.items())
        say(f"{name}: {time.monotonic() - began:.0f} s; {figures}")


def stages_at_full_size(day: Day, say: Say) -> None:
    """Iterations a second, peak memory, with CUDA graphs and without; the smallest rung that the card has room for."""
    preset = resolve("paper", {"job": TINY if day.tiny else {}}).preset
    rung = 2 if torch.cuda.get_device_properties(day.device).total_memory < 20e9 else 1
    for refiner, names in ((False, STAGES[:3]), (True, STAGES[3:])):
        for captured in (False, True):
            prior: Any = RandomPrior(
                refiner,
                "tiny" if day.tiny else "full",
                day.device,
                replace(SAVINGS[rung][1], graphs=captured),
            )
            for name in names:
                said = _stage(day, prior, preset, name)
                say(f"{name}, {'graphs' if captured else 'plain'}, rung {rung}: {said}")
            notes = [
                note for network in prior.networks if network.graphs for note in network.graphs.take_notes()
            ]
            held = sum(len(network.graphs or ()) for network in prior.networks)
            del prior
            gc.collect()
            torch.cuda.empty_cache()
            if captured and (notes or not held):
                raise Wrong(notes[0] if notes else "nothing was captured")


def _stage(day: Day, prior: Any, preset: Preset, name: str) -> str:
    torch.cuda.reset_peak_memory_stats()
    scene = new_scene(preset.nerf, day.device, 0)
    if name != "nerf":
        views = prior.spec.poses.sample(torch.Generator(day.device).manual_seed(0), 8, 64, 64)
        field_to_surface(scene, views, preset.geometry.cells)
    walk: Any = getattr(preset, name)
    g = Guide(prior, prior.prepare("", "", kind_of(name, preset), walk.size), walk.guidance_scale)
    generator = torch.Generator(day.device).manual_seed(1)
    if name == "nerf":
        stage = stages.nerf_stage(scene, g, walk, generator, 0)
    elif name == "geometry":
        stage = stages.geometry_stage(scene, g, walk, generator)
    else:
        stage = stages.texture_stage(scene, g, walk, generator, 0, name)
    at, first, least = [time.perf_counter()], 1 if day.tiny else 3, 1 if day.tiny else 10
    for step in steps(stage, first + least):
        if step.iteration + 1 >= first:
            day.wait()
            at.append(time.perf_counter())
        loss = step.loss
    if not bool(torch.isfinite(loss)):
        raise Wrong(f"{name}: the loss is {float(loss)}")
    each = sorted(b - a for a, b in pairwise(at[1:]))[len(at[1:]) // 2 - 1] if len(at) > 2 else 0.0
    held, reserved = torch.cuda.max_memory_allocated() / 1e9, torch.cuda.max_memory_reserved() / 1e9
    hours = walk.iterations * each / 60
    return f"{1000 * each:.0f} ms an iteration, {hours:.1f} min all, {held:.2f} GB at most ({reserved:.2f} reserved)"


PARTS: dict[str, tuple[float, Callable[[Day, Say], None]]] = {  # minutes that a part needs, at most
    "The machine": (0.2, parts.machine),
    "Hash grid against the processor": (0.5, parts.hash_grid),
    "Marching against the processor": (0.3, parts.marching),
    "Rasteriser against the processor": (0.5, parts.rasteriser),
    "Silhouettes against the processor": (0.3, parts.silhouette),
    "Each stage's render and gradients against the processor": (0.5, parts.scenes),
    "Networks against the processor": (0.5, parts.networks),
    "Stages at full size, CUDA graphs on and off": (3.5, stages_at_full_size),
    "Accelerators": (0.3, parts.twins),
    "A draft, and one that is cancelled and resumed": (3.0, draft),
}
