"""Are the quads quads, closed and near to the surface; and does a printer get a closed body?

    python -m benchmarks.quads_and_print [--kinds mushroom,teapot,mug] [--out DIR]

For each kind the true object, meshed finely and textured, is made ready by the profiles `quads` and `print`, and the
files are read back. A row a kind: faces, the share that has four sides, sides without a neighbour, how far the
farthest of 100,000 points of either surface lies from the other (Hausdorff, in % of the box's diagonal); of the
print, 10 cm high, the sides without a neighbour; the leak, which is the length of all faces' vector areas together
over the sum of their areas, 0 of a closed surface; and its volume in cm3. Ends with 1 where a kind misses what is
promised: 95 % quads, closed, 1 %, a volume.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from backend.game.details import Surface
from backend.game.game import read_detailed
from backend.game.quads import Quads, export_quads, open_sides
from backend.results.export import Placing
from backend.results.printing import Print, export_print, unpaired_edges
from backend.scene.mesh import Mesh, surface_points
from benchmarks.delivery import CELLS, FACES, SIZE, true_job
from dreamflow_blender.contract.job import Job

POINTS = 100_000
HEIGHT = 0.1  # metres, of the print
LEAK = 1e-5  # float32's
HEADINGS = "kind", "faces", "quads %", "open", "distance %", "print: open", "leak", "cm3"


def read_polygons(path: Path) -> tuple[NDArray[np.float32], list[list[int]]]:
    """v [V,3] of an OBJ, Z up again, and the corners of each of its faces."""
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    x, y, z = np.array([row[1:4] for row in rows if row and row[0] == "v"], np.float32).T
    faces = [[int(word.split("/")[0]) - 1 for word in row[1:]] for row in rows if row and row[0] == "f"]
    return np.stack((x, -z, y), 1), faces


def read_stl(path: Path) -> NDArray[np.float32]:
    """[F,3,3] the corners of a binary STL's triangles."""
    one = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("more", "<u2")])
    return np.array(np.frombuffer(path.read_bytes(), one, offset=84)["corners"])


def farthest(of: Mesh, surface: Mesh) -> float:
    """How far the farthest of POINTS points of the one mesh lies from the other."""
    points, _ = surface_points(of, POINTS, seed=0)
    near = Surface(surface).nearest(points).position(surface)
    return float((points - near).norm(dim=-1).max())


def quads_row(job: Job, folder: Path) -> tuple[list[str], bool]:
    """Faces, the share of quads, open sides and the distance; and whether they hold."""
    made = export_quads(job, Quads(), Placing(), folder)
    v, faces = read_polygons(next(path for path in made.paths if path.suffix == ".obj"))
    triangles = [(face[0], *pair) for face in faces for pair in pairwise(face[1:])]
    ours = Mesh(torch.from_numpy(v), torch.tensor(triangles))
    detailed, _ = read_detailed(job, Placing())
    diagonal = float((detailed.v_pos.amax(0) - detailed.v_pos.amin(0)).norm())
    share, open_ = sum(len(face) == 4 for face in faces) / len(faces), open_sides(np.array(triangles))
    distance = max(farthest(ours, detailed), farthest(detailed, ours)) / diagonal
    row = [f"{len(faces)}", f"{share:.1%}", f"{open_}", f"{distance:.2%}"]
    return row, share >= 0.95 and not open_ and distance <= 0.01


def print_row(job: Job, folder: Path) -> tuple[list[str], bool]:
    """Open sides, leak and volume of the STL; and whether they hold."""
    made = export_print(job, Print(), Placing(height=HEIGHT), folder)
    corners = read_stl(next(path for path in made.paths if path.suffix == ".stl"))
    _, faces = np.unique(corners.reshape(-1, 3), axis=0, return_inverse=True)
    open_ = unpaired_edges(faces.reshape(-1, 3).astype(np.int32))
    a, b, c = np.moveaxis(corners.astype(float), 1, 0)
    areas = np.cross(b - a, c - a)
    leak = float(np.linalg.norm(areas.sum(0)) / np.linalg.norm(areas, axis=1).sum())
    volume = float((a * np.cross(b, c)).sum()) / 6 / 1000
    return [f"{open_}", f"{leak:.0e}", f"{volume:.1f}"], not open_ and leak < LEAK and volume > 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", default="mushroom,teapot,mug")
    parser.add_argument("--out", type=Path, help="keep the files here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    held = []
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for kind in args.kinds.split(","):
            folder = (args.out or Path(temporary)) / kind
            job = true_job(f"a red {kind}", folder, CELLS, FACES, SIZE)
            quads, is_quads = quads_row(job, folder / "quads")
            prints, is_print = print_row(job, folder / "print")
            held += [is_quads, is_print]
            print(f"| {' | '.join((kind, *quads, *prints))} |", flush=True)
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
