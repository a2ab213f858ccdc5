"""What an iteration of each stage costs with networks of Stable Diffusion's and the refiner's shape, random weights.

    python -m benchmarks.stages [--size tiny|full] [--device cuda] [--iterations 20] [--stages nerf texture]

Speed and memory do not depend on the weights' values. `full` has the real configurations and the preset
`paper` (10 GB of files in --models, else in a temporary folder); `tiny` is the same code with small numbers, for
counting on any machine. A stage starts from the field's soft ball. Printed by stage: iterations a second, the
share of each part (taken in a second pass, which waits for the device between parts), TFLOP/s and their share
of what this device reaches in a matrix product, torch's peak memory, and counts an iteration: forward passes of
the UNets, encodes of the VAE, and how often Python waits for the device, in all and outside of the render.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from backend.config import STAGES, Preset, resolve
from backend.device import pick_device, prepare_device
from backend.diffusion.savings import SAVINGS
from backend.errors import DeviceError
from backend.jobs.priors import open_prior
from backend.kernels import select
from backend.models.load import network_dtype
from backend.scene.scene import Scene, field_to_surface, new_scene
from backend.stages import stages
from backend.stages.guides import Guide
from backend.stages.setup import kind_of
from benchmarks.probes import Lists, Probe, ProbedPhi, Waits
from dreamflow_blender.contract.protocol import DEVICES
from tests.tools.tiny_models import build

TINY = {
    "nerf.size": 32, "nerf.samples": 32, "nerf.grid_levels": 4, "nerf.grid_log2_size": 10, "nerf.grid_finest": 32,
    "nerf.hidden": 8, "nerf.occupancy": 16, "nerf.orientation_points": 64,
    "geometry.size": 64, "geometry.cells": 10, "texture.size": 64, "refine.size": 64,
}  # fmt: skip
RENDERS = ("render_nerf", "render_normals", "render_colour")


class Bench:
    """The stages, each with its prior, and a scene to stand on."""

    def __init__(self, size: str, device: str, models: Path, rung: int = 0) -> None:
        self.device = pick_device(device)
        prepare_device(self.device, 0)
        self.preset: Preset = resolve("paper", {"job": TINY if size == "tiny" else {}}).preset
        for name in ("sd21-base", "sd21", "refiner"):
            if not (models / name / "model_index.json").is_file():
                build(models / name, name, size, dtype=torch.float16 if size == "full" else torch.float32)  # type: ignore[arg-type]
        self._models, self._savings = models, SAVINGS[rung][1]
        self.prior: Any = None
        self._kind = ""

    def scene(self, name: str) -> Scene:
        scene = new_scene(self.preset.nerf, self.device, 0)
        if name != "nerf":
            cameras = self.prior.spec.poses.sample(torch.Generator(self.device).manual_seed(0), 8, 64, 64)
            field_to_surface(scene, cameras, self.preset.geometry.cells)
        return scene

    def stage(self, name: str, probe: Probe | None = None) -> tuple[stages.Stage, Any]:
        """(the stage, its prior); with a probe round its parts."""
        kind = "refiner" if name == "refine" else "sd"
        if kind != self._kind:
            if self.prior is not None:
                self.prior.release()
            own = self._models / "sd21" if kind == "sd" else None
            self.prior = open_prior(
                self._models / ("refiner" if own is None else "sd21-base"), self.device, own
            )
            self.prior.save_memory(self._savings)
            self._kind = kind
        prior, walk = self.prior, getattr(self.preset, name)
        for part in ("encode", "denoise", "phi"):
            prior.__dict__.pop(part, None)
        conditioning = prior.prepare("a red mug", "", kind_of(name, self.preset), walk.size)
        g = Guide(prior, conditioning, walk.guidance_scale)
        prior.load()  # after the sentences: a text encoder is let go of before there are other networks
        scene = self.scene(name)
        if probe is not None:
            prior.encode = probe.part("encode", prior.encode)
            prior.denoise = probe.part("D_p", prior.denoise)
            fresh = prior.phi
            prior.phi = lambda *args: ProbedPhi(fresh(*args), probe)
        generator = torch.Generator(self.device).manual_seed(1)
        if name == "nerf":
            return stages.nerf_stage(scene, g, walk, generator, 0), prior
        if name == "geometry":
            return stages.geometry_stage(scene, g, walk, generator), prior
        return stages.texture_stage(scene, g, walk, generator, 0, name), prior

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


@contextmanager
def probed_renders(probe: Probe) -> Iterator[None]:
    """The renderers that stages.py calls, as a part."""
    real = {name: getattr(stages, name) for name in RENDERS}
    for name, function in real.items():
        setattr(stages, name, probe.part("render", function))
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(stages, name, function)


def steps(stage: stages.Stage, count: int) -> Iterator[Any]:
    """The first iterations, without what comes after a stage's last."""
    for step in stage.steps(0):
        yield step
        if step.iteration + 1 == count:
            return


def counts(bench: Bench, name: str, iterations: int = 2) -> dict[str, float]:
    """An iteration's: UNet forwards, VAE encodes, waits in the render and elsewhere."""
    waits, found = Waits(), Counter[str]()

    @contextmanager
    def around(part: str) -> Iterator[None]:
        found[part] += 1
        before, waits.where = waits.where, "in the render" if part == "render" else "elsewhere"
        try:
            yield
        finally:
            waits.where = before

    probe = Probe(around)
    stage, prior = bench.stage(name, probe)
    networks = {id(n): n for n in (prior._network, getattr(stage.phi, "network", prior._network))}
    hooks = [n.unet.register_forward_hook(lambda *_: found.update(["unet"])) for n in networks.values()]
    hooks.append(prior._vae.encoder.register_forward_hook(lambda *_: found.update(["vae"])))
    with probed_renders(probe), waits, Lists(waits):
        for step in steps(stage, iterations + 1):
            if step.iteration == 0:  # which also makes the table of noise levels, on the CPU
                found.clear()
                waits.counts.clear()
    for hook in hooks:
        hook.remove()
    return {
        "unet_forwards": found["unet"] / iterations,
        "vae_encodes": found["vae"] / iterations,
        "waits_in_render": waits.counts["in the render"] / iterations,
        "waits_elsewhere": waits.counts["elsewhere"] / iterations,
    }


def seconds_an_iteration(bench: Bench, name: str, iterations: int) -> float:
    """After three that are not counted."""
    stage, _ = bench.stage(name)
    running = steps(stage, iterations + 3)
    for _ in range(3):
        next(running)
    bench.wait()
    start = time.perf_counter()
    for _ in running:
        pass
    bench.wait()
    return (time.perf_counter() - start) / iterations


def shares(bench: Bench, name: str, iterations: int) -> dict[str, float]:
    """Seconds of each part, an iteration; "backward" is what lies between the networks and the optimiser."""
    spent: Counter[str] = Counter()

    @contextmanager
    def around(part: str) -> Iterator[None]:
        bench.wait()
        start = time.perf_counter()
        try:
            yield
        finally:
            bench.wait()
            last[0] = time.perf_counter()
            spent[part] += last[0] - start

    def before(*_: Any) -> None:
        bench.wait()
        now = time.perf_counter()
        spent["backward"] += now - last[0]
        last[0] = now

    def after(*_: Any) -> None:
        bench.wait()
        spent["optimiser"] += time.perf_counter() - last[0]

    last, probe = [0.0], Probe(around)
    stage, _ = bench.stage(name, probe)
    hooks = (stage.optimizer.register_step_pre_hook(before), stage.optimizer.register_step_post_hook(after))
    with probed_renders(probe):
        for step in steps(stage, iterations + 1):
            if step.iteration == 0:
                spent.clear()
    for hook in hooks:
        hook.remove()
    return {part: value / iterations for part, value in spent.items()}


def flops(bench: Bench, name: str) -> float:
    """Of one iteration, as torch counts them."""
    stage, _ = bench.stage(name)
    with FlopCounterMode(display=False) as counter:
        for _ in steps(stage, 1):
            pass
    return float(counter.get_total_flops())


def measured_peak(bench: Bench) -> float:
    """FLOP/s of a large matrix product in the networks' dtype."""
    dtype = network_dtype(bench.device)
    side = 8192 if bench.device.type == "cuda" else 1024
    a = torch.randn(side, side, device=bench.device).to(dtype)
    best = 0.0
    for _ in range(5):
        bench.wait()
        start = time.perf_counter()
        a @ a
        bench.wait()
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def report(bench: Bench, name: str, iterations: int, peak: float) -> None:
    print(f"{name}: {counts(bench, name)}", flush=True)
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    each = seconds_an_iteration(bench, name, iterations)
    work = flops(bench, name)
    total = getattr(bench.preset, name).iterations
    print(f"    {1 / each:.2f} iterations/s, {total} take {total * each / 60:.1f} min")
    print(
        f"    {work / each / 1e12:.2f} TFLOP/s, {work / each / peak:.0%} of a matrix product's {peak / 1e12:.2f}"
    )
    if bench.device.type == "cuda":
        print(f"    peak memory {torch.cuda.max_memory_allocated() / 1e9:.2f} GB")
    parts = shares(bench, name, max(2, iterations // 4))
    whole = sum(parts.values())
    print(
        "    " + ", ".join(f"{part} {value / whole:.0%}" for part, value in parts.items()) + "\n", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--stages", choices=STAGES, nargs="+", default=STAGES)
    parser.add_argument(
        "--rung", type=int, default=0, help=f"of the ladder of savings, 0 to {len(SAVINGS) - 1}"
    )
    parser.add_argument("--models", type=Path, help="where the random networks are kept")
    options = parser.parse_args()
    try:
        pick_device(options.device)
    except DeviceError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(options.size, options.device, options.models or Path(temporary), options.rung)
        what = (
            torch.cuda.get_device_name()
            if bench.device.type == "cuda"
            else f"{torch.get_num_threads()} threads"
        )
        print(
            f"{bench.device.type}, {what}, torch {torch.__version__}, {network_dtype(bench.device)}, {options.size}"
        )
        print(f"kernels {select(bench.device).names}\n", flush=True)
        peak = measured_peak(bench)
        for name in options.stages:
            report(bench, name, options.iterations, peak)


if __name__ == "__main__":
    main()
