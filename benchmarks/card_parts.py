"""The parts of benchmarks/card.py: each says what it has found, and raises where something is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backend.config import Preset, resolve
from backend.device import pick_device, prepare_device
from backend.diffusion import graphs
from backend.diffusion.schedule import noise_levels
from backend.errors import DeviceError
from backend.jobs.priors import open_prior
from backend.kernels import Kernels, hashgrid, march, raster, select
from backend.kernels.hashgrid import GridLayout
from backend.kernels.silhouette import antialias, edge_table
from backend.models.load import network_dtype
from backend.scene.camera import Camera, orbit, rays
from backend.scene.render_mesh import clip_positions, render_colour, render_normals
from backend.scene.render_nerf import render_nerf
from backend.scene.scene import Scene, detached, field_to_surface, new_scene, surface
from benchmarks.stages import TINY
from tests.tools.tiny_models import build

CPU = torch.device("cpu")
ACCELERATORS = {"tcnn": "hash grid", "nvdiffrast": "rasteriser"}
Say = Callable[[str], None]


class Wrong(Exception):
    """The card gave something else than the processor."""


@dataclass
class Day:
    """What all parts share."""

    tiny: bool
    folder: Path  # for what is written and thrown away
    ends: float  # by time.monotonic()
    device: torch.device = CPU

    def left(self) -> float:
        return self.ends - time.monotonic()

    def wait(self) -> None:
        torch.cuda.synchronize()

    def milliseconds(self, work: Callable[[], object], rounds: int = 10) -> float:
        """The least of some rounds."""
        work()
        times = []
        for _ in range(1 if self.tiny else rounds):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            times.append(1000 * (time.perf_counter() - start))
        return min(times)


def near(what: str, found: Tensor, expected: Tensor, tolerance: float, say: Say) -> None:
    """Root mean squares of the difference over `expected`'s. Raises Wrong."""
    if found.shape != expected.shape:
        raise Wrong(f"{what}: {list(found.shape)}, expected {list(expected.shape)}")
    off = graphs.difference(found.detach().float().cpu(), expected.detach().float().cpu())
    say(f"{what}: off by {off:.1e} (allowed {tolerance:.0e})")
    if not off <= tolerance:
        raise Wrong(f"{what} is off by {off:.2e}, allowed are {tolerance:.0e}")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """On the processor: the same numbers for both."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def candidates(day: Day, what: str) -> Iterator[tuple[str, Kernels]]:
    """The implementations of a kernel that this machine has for the card."""
    for name in ("torch", "warp", "tcnn", "nvdiffrast"):
        if ACCELERATORS.get(name, what) == what:
            try:
                yield name, select(day.device, name)
            except DeviceError:
                continue


def ball(device: torch.device, rings: int) -> tuple[Tensor, Tensor]:
    """A closed ball of 2 x rings^2 triangles or so: (v [V,3], tri [F,3])."""
    lat = torch.linspace(0.02, 3.12, rings)
    lon = torch.arange(2 * rings) * (torch.pi / rings)
    a, b = torch.meshgrid(lat, lon, indexing="ij")
    v = 0.45 * torch.stack((a.sin() * b.cos(), a.sin() * b.sin(), a.cos()), -1).reshape(-1, 3)
    i, j = torch.meshgrid(torch.arange(rings - 1), torch.arange(2 * rings), indexing="ij")
    right = (j + 1) % (2 * rings)
    p, q, r, s = (
        i * 2 * rings + j,
        i * 2 * rings + right,
        (i + 1) * 2 * rings + right,
        (i + 1) * 2 * rings + j,
    )
    tri = torch.cat((torch.stack((p, s, q), -1).reshape(-1, 3), torch.stack((q, s, r), -1).reshape(-1, 3)))
    return v.to(device), tri.to(device)


def view(device: torch.device, side: int) -> Camera:
    at = [torch.tensor([value], device=device) for value in (25.0, 20.0, 1.4, 45.0)]
    return orbit(at[0], at[1], at[2], at[3], side, side)


# parts


def machine(day: Day, say: Say) -> None:
    day.device = pick_device("cuda")
    prepare_device(day.device, 0)
    facts = torch.cuda.get_device_properties(day.device)
    say(
        f"{facts.name}, {facts.total_memory / 1e9:.1f} GB, sm_{facts.major}{facts.minor}, torch {torch.__version__}"
    )
    say(f"networks in {network_dtype(day.device)}; CUDA graphs wanted: {graphs.wanted(day.device)}")
    chosen = select(day.device)
    for what, name in chosen.names.items():
        say(f"{what}: {name}. {chosen.why[what]}".strip())


def hash_grid(day: Day, say: Say) -> None:
    """Against the twin on the processor: values, and gradients to the table and to the points."""
    layout = GridLayout(4, 2, 10, finest=32) if day.tiny else GridLayout(16, 4, 19, finest=2048)
    x, table = drawn(2000, 3), drawn(layout.entries, layout.features, seed=1) - 0.5
    g = drawn(2000, layout.width, seed=2) - 0.5

    def run(encode: Callable, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        at, t = (v.to(device).requires_grad_() for v in (x, table))
        out = encode(at, t, layout)
        return (out, *torch.autograd.grad(out, (t, at), g.to(device)))

    many = drawn(1000 if day.tiny else 2**19, 3, seed=3).to(day.device)
    learnt = table.to(day.device).requires_grad_()

    def both_ways(encode: Callable) -> None:
        torch.autograd.grad(encode(many, learnt, layout).sum(), learnt)

    expected = run(hashgrid.hash_encode, CPU)
    for name, kernels in candidates(day, "hash grid"):
        found = run(kernels.hash_encode, day.device)
        for what, a, b in zip(("values", "to table", "to points"), found, expected, strict=True):
            near(f"{name}, {what}", a, b, 1e-3, say)
        took = day.milliseconds(partial(both_ways, kernels.hash_encode))
        say(f"{name}, {len(many)} points both ways: {took:.2f} ms")


def marching(day: Day, say: Say) -> None:
    side, n = (16, 32) if day.tiny else (128, 256)
    cells = torch.linspace(-1, 1, 32)
    grid = torch.stack(torch.meshgrid(cells, cells, cells, indexing="ij"), -1).norm(dim=-1) < 0.45
    origins, directions = (r.reshape(-1, 3) for r in rays(view(CPU, side)))
    expected = march.march(origins, directions, grid, 1.0, 0.1, n)
    given = [t.to(day.device) for t in (origins, directions, grid)]
    for name, kernels in candidates(day, "marching"):
        found = kernels.march(*given, 1.0, 0.1, n)
        share = abs(len(found.t) - len(expected.t)) / max(1, len(expected.t))
        say(f"{name}: {len(found.t)} samples, the processor {len(expected.t)}")
        if share > 1e-3:
            raise Wrong(f"{name} took {len(found.t)} samples, expected {len(expected.t)}")
        if share == 0:
            near(f"{name}, where", found.t, expected.t, 1e-5, say)
        took = day.milliseconds(partial(kernels.march, *given, 1.0, 0.1, n))
        say(f"{name}, {side}^2 rays of {n}: {took:.2f} ms")


def rasteriser(day: Day, say: Say) -> None:
    """Which triangle owns a pixel: others may, at edges alone."""
    side, rings = (32, 10) if day.tiny else (512, 100)
    v, tri = ball(CPU, rings)
    clip = clip_positions(v, view(CPU, side))
    expected = raster.rasterize_ids(clip, tri, side, side)
    for name, kernels in candidates(day, "rasteriser"):
        found = kernels.rasterize_ids(clip.to(day.device), tri.to(day.device), side, side)
        others = float((found.cpu().to(expected.dtype) != expected).float().mean())
        allowed = 0.03 if name == "nvdiffrast" else 1e-3
        say(f"{name}: another triangle at {others:.3%} of the pixels (allowed {allowed:.1%})")
        if others > allowed:
            raise Wrong(f"{name} gives another triangle at {others:.2%} of the pixels")
        took = day.milliseconds(
            partial(kernels.rasterize_ids, clip.to(day.device), tri.to(day.device), side, side)
        )
        say(f"{name}, {len(tri)} triangles at {side} px: {took:.2f} ms")


def silhouette(day: Day, say: Say) -> None:
    """The outline's picture and its gradient."""
    side, rings = (32, 10) if day.tiny else (256, 40)

    def run(device: torch.device, rasterize_ids: Callable) -> tuple[Tensor, Tensor]:
        v, tri = ball(device, rings)
        v.requires_grad_()
        clip = clip_positions(v, view(device, side))
        frags = raster.fragments(clip, tri, rasterize_ids(clip.detach(), tri, side, side))
        mask = raster.scatter(torch.ones_like(frags.depth)[:, None], frags, 0.0)
        soft = antialias(mask, raster.depth_image(frags), clip, tri, edge_table(tri, len(v)))
        return soft, torch.autograd.grad(soft.sum(), v)[0]

    expected = run(CPU, raster.rasterize_ids)
    for name, kernels in candidates(day, "rasteriser"):
        exact = name != "nvdiffrast"
        found = run(day.device, kernels.rasterize_ids)
        near(f"{name}, mask", found[0], expected[0], 1e-3 if exact else 0.05, say)
        near(f"{name}, gradient", found[1], expected[1], 1e-2 if exact else 0.3, say)


def scenes(day: Day, say: Say) -> None:
    """The scene's side of an iteration of each stage: the render and the gradient of everything that is learnt."""
    preset = resolve("draft", {"job": TINY if day.tiny else {}}).preset
    found = {device.type: dict(_renders(preset, device)) for device in (CPU, day.device)}
    for name, (image, gradients) in found["cpu"].items():
        other, others = found[day.device.type][name]
        near(f"{name}, render", other, image, 1e-2, say)
        for (what, a), b in zip(gradients.items(), others.values(), strict=True):
            near(f"{name}, gradient of the {what}", b, a, 5e-2, say)


def _renders(preset: Preset, device: torch.device) -> Iterator[tuple[str, tuple[Tensor, dict[str, Tensor]]]]:
    scene = new_scene(preset.nerf, device, 0)
    grey = torch.full((3,), 0.3, device=device)
    for name in ("nerf", "geometry", "texture", "refine"):
        camera = view(device, getattr(preset, name).size)
        if name == "geometry":
            at = [torch.arange(4.0, device=device) * 90, torch.zeros(4, device=device)]
            field_to_surface(
                scene, orbit(at[0], at[1], at[1] + 1.4, at[1] + 45, 48, 48), preset.geometry.cells
            )
        out, learnt = _render(scene, name, camera, grey)
        weights = drawn(*out.shape, seed=4).to(device)
        gradients = torch.autograd.grad((out * weights).sum(), list(learnt.values()))
        yield name, (out, dict(zip(learnt, gradients, strict=True)))


def _render(scene: Scene, name: str, camera: Camera, grey: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    field = scene.field
    if name == "nerf":
        out = render_nerf(field, scene.occupancy, camera, grey, scene.sampling)
        return out.image, {"table": field.table, "density": field.density_head[0].weight}
    if name == "geometry":
        assert scene.sdf is not None
        mesh = surface(scene)
        edges = edge_table(mesh.t_pos_idx, len(mesh.v_pos))
        return render_normals(mesh, edges, camera, grey).image, {"sdf": scene.sdf}
    mesh = detached(surface(scene))
    edges = edge_table(mesh.t_pos_idx, len(mesh.v_pos))
    out = render_colour(mesh, edges, camera, grey, field.albedo)
    return out.image, {"table": field.table}


def networks(day: Day, say: Say) -> None:
    """The same small networks on both: latents, D_p, and D_phi's loss and answer."""
    level, image = noise_levels(0.5, 0.1, 10)[5], drawn(1, 64, 64, 3)
    for name in ("sd21-base", "refiner"):
        folder = build(day.folder / name, name)  # type: ignore[arg-type]
        found: dict[str, list[Tensor]] = {}
        for device in (CPU, day.device):
            prior: Any = open_prior(folder, device)
            conditioning = prior.prepare("a red mug", "", "colour", 64)
            camera, x = view(device, 64), prior.encode(image.to(device))
            z = x + drawn(*x.shape, seed=5).to(device)
            phi = prior.phi(conditioning, 4, 1e-3, 1, 0)
            found[device.type] = [
                x,
                prior.denoise(z, level, camera, conditioning, 1.0),
                phi(z, level, camera),
            ]
        allowed = 1e-2 if network_dtype(day.device) == torch.float32 else 5e-2
        for what, a, b in zip(("latents", "D_p", "D_phi"), *found.values(), strict=True):
            near(f"{name}, {what}", b, a, allowed, say)


def twins(day: Day, say: Say) -> None:
    """What the accelerators bring; absent ones are named."""
    for name, what in ACCELERATORS.items():
        present = [found for found, _ in candidates(day, what)]
        say(f"{name}: {'compared above' if name in present else 'not installed on this machine'}")
    a = torch.randn(64 if day.tiny else 8192, 64 if day.tiny else 8192, device=day.device).to(
        network_dtype(day.device)
    )
    took = day.milliseconds(lambda: a @ a)
    say(f"a matrix product of {len(a)}: {2 * len(a) ** 3 / took / 1e9:.1f} TFLOP/s in {a.dtype}")
    exact, tf32 = (nn.functional.linear(a.float()[:64], a.float()) for _ in range(2))
    say(f"matrix products in float32 are {'the same' if torch.equal(exact, tf32) else 'NOT the same'} twice")
