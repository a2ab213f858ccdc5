"""Is an artist's object made better, and a good one left good?

    python -m benchmarks.refine [--only duck,mug] [--prior mini-refiner] [--preset draft] [--out DIR]

For 6 kinds x 2 colours: the true mesh with its true texture; then the texture degraded (blurred to 32 texels,
noise, hue turned by 20 degrees) and refined at the default strength, which must bring the mean PSNR over 24
views up by 3 dB; and the undamaged one refined at strength 0.1, which must stay within 28 dB of itself.
Renders of the result are of the delivered mesh.npz under the delivered albedo.png. Exits 1 where one misses.
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

from backend.evidence.known_objects import held_out_cameras, true_mesh
from backend.jobs.refine import refine
from backend.meshes.parts import from_parts
from backend.meshes.write import read_npz
from backend.objects.grammar import parse_object
from backend.objects.shapes import Shape, build
from backend.objects.sphere_trace import _normals, sky_shade
from backend.results.look import render_textured
from backend.scene.mesh import Mesh
from backend.texture.bake import bake
from backend.texture.unwrap import unwrap
from dreamflow_blender.contract import meshfile
from dreamflow_blender.contract.protocol import Finished, Job

KINDS = ("mug", "duck", "mushroom", "rocket", "teapot", "tree")
COLOURS = ("red", "blue")
CELLS, SIZE = 24, 256  # of the mesh's grid; texels a side
VIEWS, PIXELS = 24, 128
BLUR, NOISE, HUE = 32, 0.08, 20.0  # texels a side; standard deviation; degrees
GAIN, STAYS = 3.0, 28.0  # dB


def true_object(prompt: str, cells: int = CELLS) -> tuple[Mesh, Tensor]:
    """The mesh with UVs and its true texture [S,S,3]."""
    shape = build(parse_object(prompt))
    bare = true_mesh(shape, cells)
    made = unwrap(bare.v_pos.numpy(), bare.t_pos_idx.numpy(), SIZE, padding=4, timeout=300)
    mesh = Mesh(bare.v_pos, bare.t_pos_idx, torch.from_numpy(made.v_tex), torch.from_numpy(made.t_tex_idx))
    return mesh, bake(mesh, lambda x: true_colour(shape, x), SIZE).clamp(0, 1)


def true_colour(shape: Shape, x: Tensor) -> Tensor:
    return shape.colours[shape.part(x)] * sky_shade(_normals(shape, x))


def degraded(texture: Tensor) -> Tensor:
    """Blurred, noisy and of another hue."""
    image = Image.fromarray((texture * 255).round().byte().numpy())
    small = image.resize((BLUR, BLUR), Image.Resampling.BOX).resize(image.size, Image.Resampling.BICUBIC)
    hue, saturation, value = small.convert("HSV").split()
    turned = hue.point(lambda h: (h + round(HUE / 360 * 256)) % 256)
    rgb = np.asarray(Image.merge("HSV", (turned, saturation, value)).convert("RGB")) / 255
    noise = np.random.default_rng(0).normal(0, NOISE, rgb.shape)
    return torch.from_numpy((rgb + noise).clip(0, 1).astype(np.float32))


def psnr(mesh: Mesh, texture: Tensor, true: Tensor) -> float:
    """Mean over the views of the PSNR inside the silhouette, dB."""
    cameras = held_out_cameras(VIEWS, 0, PIXELS, PIXELS)
    grey = torch.full((3,), 0.5)
    image, opacity = render_textured(mesh, texture, cameras, grey)
    wanted, _ = render_textured(mesh, true, cameras, grey)
    inside = opacity[..., 0] > 0.999
    return float(
        np.mean(
            [
                -10 * np.log10(max(float((a - b)[mask].square().mean()), 1e-10))
                for a, b, mask in zip(image, wanted, inside, strict=True)
            ]
        )
    )


def refined(
    mesh: Mesh, texture: Tensor, prompt: str, folder: Path, most: dict[str, float], **changes: object
) -> tuple[Mesh, Tensor]:
    """Through the whole job, from object.npz to the delivered files; `most` collects its largest figures."""
    assert mesh.v_tex is not None and mesh.t_tex_idx is not None
    folder.mkdir(parents=True)
    pixels = np.dstack([(texture * 255).round().byte().numpy(), np.full((SIZE, SIZE), 255, np.uint8)])
    arrays = from_parts(
        mesh.v_pos.numpy(), mesh.t_pos_idx.numpy(), uv=mesh.v_tex[mesh.t_tex_idx].numpy(), image=[0],
        base=[(1.0, 1.0, 1.0, 1.0)], names=["true"], images=(pixels,),
    )  # fmt: skip
    source = folder.parent / f"{folder.name}.npz"
    source.write_bytes(meshfile.to_bytes(arrays))
    job = Job("refine", "refine", prompt, str(folder), stages=("refine",), mesh=str(source), **changes)  # type: ignore[arg-type]
    last = list(refine(job))[-1]
    assert isinstance(last, Finished), last
    for name, value in last.figures.items():
        most[name] = max(most.get(name, value), value)
    albedo = np.asarray(Image.open(folder / "albedo.png").convert("RGB")).astype(np.float32) / 255
    return read_npz(folder / "mesh.npz"), torch.from_numpy(albedo)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="kinds, separated by commas")
    parser.add_argument("--colours", default=",".join(COLOURS))
    parser.add_argument("--prior", default="mini-refiner")
    parser.add_argument("--preset", default="draft")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="keep the job folders here, a new folder")
    args = parser.parse_args()
    kinds = [k for k in KINDS if not args.only or k in args.only.split(",")]
    out = args.out or Path(tempfile.mkdtemp(prefix="refine-"))
    asked = {"prior": args.prior, "preset": args.preset, "threads": args.threads}
    met = total = 0
    most: dict[str, float] = {}
    print(f"prior {args.prior}, preset {args.preset}, {CELLS} cells, {SIZE} texels a side")
    print(f"{'prompt':22} {'damaged':>8} {'refined':>8} {'gain':>6} {'kept':>6}  seconds", flush=True)
    for prompt in (f"a {colour} {kind}" for kind in kinds for colour in args.colours.split(",")):
        began = time.monotonic()
        folder = out / prompt.replace(" ", "-")
        mesh, true = true_object(prompt)
        bad = degraded(true)
        before = psnr(mesh, bad, true)
        after = psnr(*refined(mesh, bad, prompt, folder / "damaged", most, **asked), true)
        undamaged = refined(mesh, true, prompt, folder / "undamaged", most, strength=0.1, **asked)
        kept = psnr(*undamaged, true)
        misses = [f"gain under {GAIN}"] * (after - before < GAIN) + [f"kept under {STAYS}"] * (kept < STAYS)
        met += not misses
        total += 1
        figures = f"{before:8.1f} {after:8.1f} {after - before:6.1f} {kept:6.1f}"
        print(
            f"{prompt:22} {figures}  {time.monotonic() - began:5.0f}  {'; '.join(misses) or 'met'}",
            flush=True,
        )
    print(
        f"memory of {'the card' if torch.cuda.is_available() else 'this process'}: {most.get('memory_gb', 0):.2f} GB"
    )
    print(f"refine: {met} of {total} met")
    return 0 if met == total else 1


if __name__ == "__main__":
    sys.exit(main())
