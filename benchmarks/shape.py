"""Are parts painted where they belong, once the prior is shown the shape?

    python -m benchmarks.shape [--only mug,duck] [--control FOLDER|none] [--set texture.start=0.6] [--out DIR]

A grey mug, teapot and duck, each painted from a prompt that colours a part, without a ControlNet and with one (the
built-in prior's own). Seen by 24 cameras beside the true object: the mean colour error inside the true parts, the least
IoU over the parts of what has a part's colour with the part, and the IoU of the parts' borders, 5 pixels wide of 128.
Writes a sheet a prompt: true, without, with. Exits 1 where an error is not halved or a border is under 0.8.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from backend.evidence.known_objects import held_out_cameras
from backend.jobs.priors import built_in_control
from backend.jobs.refine import refine
from backend.meshes.parts import from_parts
from backend.meshes.write import read_npz
from backend.objects.grammar import parse_object
from backend.objects.shapes import build
from backend.objects.sphere_trace import gbuffer, sky_shade
from backend.results.look import render_textured
from benchmarks.refine import true_object
from dreamflow_blender.contract import meshfile
from dreamflow_blender.contract.protocol import Finished, Job
from dreamflow_blender.contract.settings import read_setting

PROMPTS = {
    "mug": "a blue mug with a red handle",
    "teapot": "a white teapot with a red lid",
    "duck": "a yellow duck with a red beak",
}
VIEWS, PIXELS, BORDER = 24, 128, 5
GREY = (0.6, 0.6, 0.6, 1.0)


class Truth:
    """The object in all views: part [N,H,W] int64, -1 where nothing is, and colours [P,N,H,W,3] were it each part."""

    def __init__(self, prompt: str) -> None:
        shape = build(parse_object(prompt))
        self.cameras = held_out_cameras(VIEWS, 0, PIXELS, PIXELS)
        buffer = gbuffer(shape, self.cameras, 1)
        self.part = torch.full((VIEWS * PIXELS**2,), -1)
        shade = torch.zeros(VIEWS * PIXELS**2, 1)
        # parts of one colour cannot be told apart, and are one
        _, same = torch.unique(shape.colours, dim=0, return_inverse=True)
        self.part[buffer.pixel] = same[buffer.part.long()]
        shade[buffer.pixel] = sky_shade(buffer.normal)
        self.part = self.part.view(VIEWS, PIXELS, PIXELS)
        colours = torch.unique(shape.colours, dim=0)
        self.colours = colours[:, None, None, None] * shade.view(1, VIEWS, PIXELS, PIXELS, 1)

    def true(self) -> Tensor:
        """[N,H,W,3], before grey."""
        row = self.part.clamp(min=0)[None, ..., None].expand(1, -1, -1, -1, 3)
        return torch.where(self.part[..., None] >= 0, self.colours.gather(0, row)[0], torch.tensor(0.5))

    def judge(self, image: Tensor) -> tuple[float, float, float]:
        """Of pictures [N,H,W,3]: mean colour error over the parts, least IoU of a part, IoU of the borders."""
        apart = (self.colours - image).abs().mean(-1)
        found = torch.where(self.part >= 0, apart.argmin(0), -1)
        errors, overlaps = [], []
        for part in self.part.unique().tolist():
            if part >= 0:
                here = self.part == part
                inside = functional.avg_pool2d(here[:, None].float(), 3, 1, 1)[:, 0] > 0.99
                errors.append(float(apart[part][inside].mean()))
                overlaps.append(float((here & (found == part)).sum() / (here | (found == part)).sum()))
        mine, true = borders(found), borders(self.part)
        return float(np.mean(errors)), min(overlaps), float((mine & true).sum() / (mine | true).sum())


def borders(part: Tensor) -> Tensor:
    """[N,H,W] bool: within BORDER / 2 pixels of where two parts meet."""
    edge = torch.zeros_like(part, dtype=torch.bool)
    for dim in (1, 2):
        n = part.shape[dim] - 1
        a, b = part.narrow(dim, 0, n), part.narrow(dim, 1, n)
        edge.narrow(dim, 0, n).logical_or_((a != b) & (a >= 0) & (b >= 0))
    return functional.max_pool2d(edge[:, None].float(), BORDER, 1, BORDER // 2)[:, 0] > 0


def painted(prompt: str, folder: Path, truth: Truth, cells: int, **more: object) -> Tensor:
    """The grey mesh through the whole job; the result in the truth's views [N,H,W,3]."""
    mesh, _ = true_object(prompt, cells)
    assert mesh.v_tex is not None and mesh.t_tex_idx is not None
    folder.mkdir(parents=True)
    uv = mesh.v_tex[mesh.t_tex_idx].numpy()
    arrays = from_parts(mesh.v_pos.numpy(), mesh.t_pos_idx.numpy(), uv=uv, base=[GREY], names=["grey"])
    source = folder.parent / f"{folder.name}.npz"
    source.write_bytes(meshfile.to_bytes(arrays))
    job = Job("shape", "refine", prompt, str(folder), mesh=str(source), **more)  # type: ignore[arg-type]
    last = list(refine(job))[-1]
    assert isinstance(last, Finished), last
    albedo = np.asarray(Image.open(folder / "albedo.png").convert("RGB")).astype(np.float32) / 255
    image, _ = render_textured(
        read_npz(folder / "mesh.npz"), torch.from_numpy(albedo), truth.cameras, torch.full((3,), 0.5)
    )
    return image


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PROMPTS), help="kinds, separated by commas")
    parser.add_argument("--control", default="mini", help="FOLDER, or none: without alone")
    parser.add_argument("--stages", default="texture,refine")
    parser.add_argument("--cells", type=int, default=40, help="of the meshes' grid")
    parser.add_argument(
        "--set", action="append", default=[], type=read_setting, metavar="STAGE.SETTING=VALUE"
    )
    parser.add_argument("--out", type=Path, default=None, help="keep the job folders here, a new folder")
    args = parser.parse_args()
    out = args.out or Path(tempfile.mkdtemp(prefix="shape-"))
    common = {"stages": tuple(args.stages.split(",")), "refiner": "mini-refiner", "overrides": dict(args.set)}
    kinds = args.only.split(",")
    truths = {kind: Truth(PROMPTS[kind]) for kind in kinds}
    rows = {kind: [truth.true()] for kind, truth in truths.items()}
    figures: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in kinds}
    print(f"{'prompt':32} {'':8} {'error':>6} {'part':>6} {'border':>6}  seconds", flush=True)
    shown = () if args.control == "none" else (("with", (args.control,)),)
    without = ("mini:0",) if built_in_control().is_dir() else ()
    for name, control in (("without", without), *shown):
        for kind in kinds:
            prompt, truth, began = PROMPTS[kind], truths[kind], time.monotonic()
            image = painted(prompt, out / f"{kind}-{name}", truth, args.cells, control=control, **common)
            rows[kind].append(image)
            figures[kind].append(truth.judge(image))
            error, part, border = figures[kind][-1]
            took = time.monotonic() - began
            print(f"{prompt:32} {name:8} {error:6.3f} {part:6.2f} {border:6.2f}  {took:5.0f}", flush=True)
            sheet = torch.cat([torch.cat(list(row[:8]), 1) for row in rows[kind]])
            Image.fromarray((sheet * 255).round().byte().numpy()).save(out / f"{kind}.png")
    met = [found[-1][0] <= found[0][0] / 2 and found[-1][2] >= 0.8 for found in figures.values()]
    print(f"told the shape: {sum(met)} of {len(met)} met; {out}")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
