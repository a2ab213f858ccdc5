"""How long the kernels take, and whether they are as much faster than plain torch as we say.

    python -m benchmarks.kernels [--device cuda] [--rounds 5] [--only unwrap ...]

On the CPU the figure is process CPU time, children included, of one thread: several spin while they wait
for each other, and on a busy machine that is most of what one measures. Only "threads" measures wall time, of two
threads against one: it needs two idle cores. On a card it is wall time between
two synchronisations. Candidates take turns in one process, each round on fresh random inputs, after a
round that is not counted; the median is shown. Ends with "kernels: N of M met" and exits 1 where a ratio
or a limit misses.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from statistics import median

os.environ.setdefault("GOMP_SPINCOUNT", "30000")  # as the backend sets it, before torch is imported

import numpy as np
import torch
from scipy.spatial import ConvexHull
from torch import Tensor, nn

from backend.device import pick_device, prepare_device
from backend.errors import DeviceError
from backend.kernels import hashgrid, select
from backend.kernels import march as marching
from backend.kernels.hashgrid import PRIMES, GridLayout
from backend.kernels.march import composite
from backend.scene.camera import orbit, rays

SMALL = GridLayout(levels=8, features=2, log2_size=14, base=16, finest=256)
BIG = GridLayout(levels=16, features=4, log2_size=19, base=16, finest=2048)

Case = Callable[..., None]


class Bench:
    def __init__(self, device: torch.device, rounds: int) -> None:
        self.device, self.rounds = device, rounds
        self.generator = torch.Generator().manual_seed(0)
        self.met: list[bool] = []

    def clock(self, wall: bool = False) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        if self.device.type == "cuda" or wall:
            return time.perf_counter()
        spent = os.times()  # children are 0 on Windows
        return time.process_time() + spent.children_user + spent.children_system

    def compare(
        self, what: str, inputs: Callable[[], tuple], cases: dict[str, Case], wall: bool = False
    ) -> dict[str, float]:
        """Median milliseconds of each case, all on the same inputs in turns."""
        spent: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(self.rounds + 1):
            given = inputs()
            for name, case in cases.items():
                start = self.clock(wall)
                case(*given)
                spent[name].append(1000 * (self.clock(wall) - start))
        medians = {name: median(times[1:]) for name, times in spent.items()}
        for name, value in medians.items():
            print(f"{what:44s} {name:22s} {value:10.1f} ms", flush=True)
        return medians

    def require(self, sentence: str, value: float, met: bool) -> None:
        self.met.append(met)
        print(f"{'':4s}{sentence}: {value:.2f}, {'met' if met else 'MISSED'}\n", flush=True)

    def random(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator).to(self.device)


def one_gather(x: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    """The hash grid as one would write it first: every corner of every level in one look-up, autograd."""
    as_int = {"dtype": torch.int64, "device": x.device}
    scale = torch.tensor(layout.scales, device=x.device)[:, None]
    side, size = torch.tensor((layout.resolutions, layout.sizes), **as_int)[:, :, None]
    offset = torch.tensor(layout.offsets[:-1], **as_int)[:, None]
    hashed = torch.tensor(layout.hashed, device=x.device)[:, None]
    corner = torch.tensor([[c & 1, c >> 1 & 1, c >> 2] for c in range(8)], **as_int)
    position = x[:, None] * scale + 0.5  # [N,L,3]
    low = position.floor()
    fraction = (position - low)[:, :, None]
    i, j, k = (low.long()[:, :, None] + corner).unbind(-1)  # [N,L,8]
    dense = (i + side * (j + side * k)) % size
    mixed = (i ^ j * PRIMES[1] ^ k * PRIMES[2]) % size
    weight = torch.where(corner.bool(), fraction, 1 - fraction).prod(-1, keepdim=True)
    values = table[torch.where(hashed, mixed, dense) + offset]  # [N,L,8,F]
    return (weight * values).sum(2).flatten(1)


def hash_grid(bench: Bench) -> None:
    fast = select(bench.device)
    if fast.names["hash grid"] == "torch":
        return
    table = (bench.random(BIG.entries, BIG.features) - 0.5).requires_grad_()

    def step(encode: Callable) -> Case:
        def run(x: Tensor, g: Tensor) -> None:
            torch.autograd.grad(encode(x, table, BIG), table, g)

        return run

    name = fast.names["hash grid"]
    cases = {name: step(fast.hash_encode), "torch twin": step(hashgrid.hash_encode)}
    cases["one gather, autograd"] = step(one_gather)
    inputs = lambda: (bench.random(2**16, 3), bench.random(2**16, BIG.width))  # noqa: E731
    ms = bench.compare("hash grid 16 x 4, 2^19, 2^16 points, fwd+bwd", inputs, cases)
    ratio = ms["one gather, autograd"] / ms[name]
    bench.require(f"{name} against one gather, at least 4", ratio, ratio >= 4)


def threads(bench: Bench) -> None:
    fast = select(bench.device)
    if bench.device.type != "cpu" or fast.names["hash grid"] == "torch" or (os.cpu_count() or 1) < 2:
        return
    table = (bench.random(SMALL.entries, SMALL.features) - 0.5).requires_grad_()

    def step(count: int) -> Case:
        def run(x: Tensor, g: Tensor) -> None:
            torch.set_num_threads(count)
            torch.autograd.grad(fast.hash_encode(x, table, SMALL), (x, table), g)
            torch.set_num_threads(1)

        return run

    inputs = lambda: (bench.random(2**16, 3).requires_grad_(), bench.random(2**16, SMALL.width))  # noqa: E731
    cases = {"1 thread": step(1), "2 threads": step(2)}
    ms = bench.compare("hash grid 8 x 2, 2^14, 2^16 points, wall", inputs, cases, wall=True)
    ratio = ms["1 thread"] / ms["2 threads"]
    bench.require("two threads against one, at least 1.4", ratio, ratio >= 1.4)


def bumpy_sphere(faces: str) -> tuple[Tensor, Tensor]:
    """(vertices [V,3], triangles [F,3]): an icosphere of 20,480, or marching tetrahedra for more."""
    from backend.scene.isosurface import marching_tetrahedra, tetrahedral_grid

    if faces == "20k":
        v, tri = icosphere(5)
        return v * (0.4 + 0.05 * bumps(v))[:, None], tri
    grid = tetrahedral_grid({"120k": 76, "350k": 129}[faces], (-0.6,) * 3, (0.6,) * 3)
    radius = grid.vertices.norm(dim=1)
    sdf = 0.4 + 0.05 * bumps(grid.vertices / radius.clamp(min=1e-6)[:, None]) - radius
    mesh = marching_tetrahedra(grid.vertices, sdf, grid)
    return mesh.v_pos, mesh.t_pos_idx


def icosphere(times: int) -> tuple[Tensor, Tensor]:
    """(vertices [V,3] of length 1, triangles [20 * 4**times, 3]): an icosahedron, each edge halved `times` times."""
    golden = (1 + 5**0.5) / 2
    corners = [(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    points = np.array([np.roll(corner, turn) for corner in corners for turn in range(3)])
    faces = ConvexHull(points).simplices.astype(np.int64)
    inward = np.linalg.det(points[faces]) < 0
    faces[inward] = faces[inward][:, ::-1]
    for _ in range(times):
        edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        ends, which = np.unique(edges, axis=0, return_inverse=True)
        ab, bc, ca = (len(points) + which.reshape(-1, 3)).T
        a, b, c = faces.T
        points = np.concatenate([points, points[ends].mean(1)])
        faces = np.concatenate(
            [np.stack(f, 1) for f in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
        )
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return torch.tensor(points, dtype=torch.float32), torch.tensor(faces)


def bumps(direction: Tensor) -> Tensor:
    return torch.sin(9 * direction).prod(-1)


def rasteriser(bench: Bench) -> None:
    from backend.kernels import raster

    fast = select(bench.device)
    name = fast.names["rasteriser"]
    if name == "torch":
        return
    v, tri = (t.to(bench.device) for t in bumpy_sphere("20k"))

    def view() -> tuple:
        azimuth, elevation = bench.random(1).cpu() * 360, bench.random(1).cpu() * 100 - 50
        camera = orbit(azimuth, elevation, torch.tensor([1.5]), torch.tensor([45.0]), 1024, 1024)
        mvp = camera.mvp[0].to(bench.device)
        return (torch.cat((v, torch.ones_like(v[:, :1])), 1) @ mvp.T,)

    cases = {
        name: lambda pos: fast.rasterize_ids(pos, tri, 1024, 1024),
        "torch twin": lambda pos: raster.rasterize_ids(pos, tri, 1024, 1024),
    }
    ms = bench.compare(f"rasteriser 1024^2, {len(tri)} triangles", view, cases)
    ratio = ms["torch twin"] / ms[name]
    bench.require(f"{name} against the torch twin, at least 10", ratio, ratio >= 10)


def ball_cells(device: torch.device) -> Tensor:
    """[64,64,64] bool: a ball of radius 0.3 in a box of half-side 1."""
    side = (torch.arange(64) + 0.5) / 32 - 1
    cells = torch.stack(torch.meshgrid(side, side, side, indexing="ij"), -1)
    return (cells.norm(dim=-1) < 0.3).to(device)


def random_rays(bench: Bench, size: int) -> tuple[Tensor, Tensor, int]:
    """Origins and directions [size*size,3] of a random camera, and a seed."""
    azimuth, elevation = bench.random(1).cpu() * 360, bench.random(1).cpu() * 100 - 50
    camera = orbit(azimuth, elevation, torch.tensor([2.5]), torch.tensor([45.0]), size, size)
    origins, directions = (r.reshape(-1, 3).to(bench.device) for r in rays(camera))
    return origins, directions, int(azimuth.item())


def march(bench: Bench) -> None:
    """Both draw the same jitter, which is most of what is left on a CPU; previews draw none."""
    fast = select(bench.device)
    name = fast.names["marching"]
    if name == "torch":
        return
    ball = ball_cells(bench.device)

    def run(kernel: Callable, jittered: bool, n_samples: int) -> Case:
        def case(origins: Tensor, directions: Tensor, seed: int) -> None:
            generator = torch.Generator().manual_seed(seed) if jittered else None
            kernel(origins, directions, ball, 1.0, 0.05, n_samples, generator)

        return case

    for size, n_samples, jittered in ((64, 128, True), (128, 256, True), (128, 256, False)):
        cases = {
            kernel_name: run(kernel, jittered, n_samples)
            for kernel_name, kernel in ((name, fast.march), ("torch twin", marching.march))
        }
        what = f"march {size}^2 x {n_samples}, ball of 0.3, {'jittered' if jittered else 'middles'}"
        ms = bench.compare(what, lambda size=size: random_rays(bench, size), cases)
        print(f"{'':4s}{name} against the torch twin: {ms['torch twin'] / ms[name]:.2f}\n", flush=True)


def training_step(bench: Bench) -> None:
    """64 x 64 rays of 128 samples through a small field; a ball of radius 0.3 in a box of half-side 1."""
    chosen = select(bench.device)
    encode, march = chosen.hash_encode, chosen.march
    table = (bench.random(SMALL.entries, SMALL.features) * 1e-4).requires_grad_()
    head = nn.Sequential(nn.Linear(SMALL.width, 32), nn.ReLU(), nn.Linear(32, 4)).to(bench.device)
    weights = [table, *head.parameters()]
    ball = ball_cells(bench.device)

    def step(occupancy: Tensor) -> Case:
        def run(origins: Tensor, directions: Tensor, seed: int) -> None:
            generator = torch.Generator().manual_seed(seed)
            samples = march(origins, directions, occupancy, 1.0, 0.05, 128, generator)
            points = samples.points(origins, directions)
            out = head(encode(points / 2 + 0.5, table, SMALL))
            density, colour = nn.functional.softplus(out[:, 0]), out[:, 1:].sigmoid()
            _, image, _, _ = composite(density, colour, samples)
            torch.autograd.grad(image.square().mean(), weights)

        return run

    def view() -> tuple:
        return random_rays(bench, 64)

    cases = {"with occupancy": step(ball), "dense": step(torch.ones_like(ball))}
    ms = bench.compare("training step 64^2 x 128, ball of 0.3", view, cases)
    ratio = ms["dense"] / ms["with occupancy"]
    bench.require("occupancy against dense, at least 5", ratio, ratio >= 5)


def unwrap(bench: Bench) -> None:
    from backend.texture.unwrap import unwrap as unwrap_mesh

    for faces in ("20k", "120k", "350k"):
        v, tri = bumpy_sphere(faces)
        how: list[str] = []

        def fresh(v: Tensor = v) -> tuple:
            return ((v * (1 + 0.01 * torch.rand(3, generator=bench.generator))).numpy(),)

        def run(v: np.ndarray, tri: Tensor = tri, how: list[str] = how) -> None:
            how.append(unwrap_mesh(v, tri.numpy(), 2048).method)

        ms = bench.compare(f"unwrap {len(tri)} triangles", fresh, {"charts": run})
        if set(how) != {"charts"}:
            bench.require(f"{faces} triangles unwrapped into charts", how.count("charts"), False)
        elif faces == "120k":
            seconds = ms["charts"] / 1000
            bench.require("120k triangles, at most 3 s of CPU", seconds, seconds < 3)


def main() -> int:
    parts = {f.__name__: f for f in (hash_grid, threads, rasteriser, march, training_step, unwrap)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=tuple(parts), nargs="+", default=tuple(parts))
    options = parser.parse_args()
    try:
        device = pick_device(options.device)
    except DeviceError as error:
        parser.error(str(error))
    prepare_device(device, 1)
    chosen = select(device)
    for what, name in chosen.names.items():
        print(f"{what}: {name}. {chosen.why[what]}")
    print(f"torch {torch.__version__}, {device}\n")
    bench = Bench(device, options.rounds)
    for name in options.only:
        parts[name](bench)
    print(f"kernels: {sum(bench.met)} of {len(bench.met)} met")
    return 0 if bench.met and all(bench.met) else 1


if __name__ == "__main__":
    raise SystemExit(main())
