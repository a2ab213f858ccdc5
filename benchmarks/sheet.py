"""The delivered objects of finished jobs on one sheet, each under its texture as one looks at it.

python -m benchmarks.sheet FOLDER ... --out results.png [--across 4] [--size 256]
"""

from __future__ import annotations

import argparse
import io
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from backend.evidence.recovery import read_result
from backend.files import write_bytes
from backend.results.look import render_textured
from backend.scene.camera import orbit

AZIMUTH, ELEVATION, DISTANCE, FOV = 30.0, 22.0, 1.55, 40.0  # degrees, metres
ACROSS = 1.1  # metres, the diagonal of the object's box
GROUND = 0.94  # grey behind all
FINER = 2  # pixels along a side, drawn for one shown


def view(folder: Path, size: int) -> Tensor:
    """[size,size,3] in [0,1] of what a job delivered. Raises InputError, DiskError."""
    mesh, albedo = read_result(folder)
    low, high = mesh.v_pos.amin(0), mesh.v_pos.amax(0)
    mesh = replace(mesh, v_pos=(mesh.v_pos - (low + high) / 2) / (high - low).norm() * ACROSS)
    one = torch.ones(1)
    camera = orbit(AZIMUTH * one, ELEVATION * one, DISTANCE * one, FOV * one, FINER * size, FINER * size)
    image, _ = render_textured(mesh, albedo, camera, torch.full((3,), GROUND))
    return avg_pool2d(image.permute(0, 3, 1, 2), FINER)[0].permute(1, 2, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--across", type=int, default=4)
    parser.add_argument("--size", type=int, default=256)
    args = parser.parse_args()
    views = [view(folder, args.size) for folder in args.folders]
    views += [torch.full_like(views[0], GROUND)] * (-len(views) % args.across)
    rows = [torch.cat(views[i : i + args.across], 1) for i in range(0, len(views), args.across)]
    made = io.BytesIO()
    Image.fromarray((torch.cat(rows) * 255).round().byte().numpy()).save(made, "PNG", optimize=True)
    write_bytes(args.out, made.getvalue())


if __name__ == "__main__":
    main()
