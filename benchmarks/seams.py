"""How plainly do a texture's seams show? The colour on their two sides, as a renderer looks it up.

    python -m benchmarks.seams [--kinds mushroom,mug] [--size 1024]

Each true object of about 8,000 triangles is unwrapped, baked and polished as a delivered one, once in its own colours
and once with a fine pattern over them. A line each: the edges that are seams, and the difference of the two sides'
look-ups at eight places of each edge, in 255ths of the channel that differs most: median, the largest of 90 %, and the
largest.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from backend.evidence.known_objects import true_mesh
from backend.game.game import unwrapped
from backend.objects.grammar import parse_object
from backend.objects.shapes import Shape, build
from backend.results.deliver import seam_weight
from backend.scene.mesh import Mesh
from backend.scene.simplify import deliver
from backend.texture.bake import bake, polish, sample_texture
from backend.texture.charts import adjacency

CELLS, FACES, PLACES = 40, 8000, 8


def differences(mesh: Mesh, texture: Tensor) -> tuple[int, Tensor]:
    """How many edges are seams, and the difference at PLACES of each, in 255ths; of a mesh under texture [S,S,3]."""
    assert mesh.v_tex is not None and mesh.t_tex_idx is not None, "unwrap first"
    a, b, ends, _ = (torch.from_numpy(found) for found in adjacency(mesh.t_pos_idx.numpy(), len(mesh.v_pos)))

    def rows(face: Tensor) -> Tensor:  # [E,2] of the UVs at an edge's ends, as this face has them
        at = (mesh.t_pos_idx[face][:, None] == ends[..., None]).int().argmax(2)
        return torch.gather(mesh.t_tex_idx[face], 1, at)

    sides = rows(a), rows(b)
    seam = (sides[0] != sides[1]).any(1)
    share = ((torch.arange(PLACES) + 0.5) / PLACES)[None, :, None]
    seen = []
    for side in sides:
        start, end = mesh.v_tex[side[seam]].unbind(1)
        where = start[:, None] * (1 - share) + end[:, None] * share
        seen.append(sample_texture(texture, where.reshape(-1, 2)))
    return int(seam.sum()), (seen[0] - seen[1]).abs().amax(1) * 255


def colourings(shape: Shape) -> dict[str, Callable[[Tensor], Tensor]]:
    """Of places [P,3]: the object's own, and with a pattern."""

    def plain(x: Tensor) -> Tensor:
        return shape.colours[shape.part(x)]

    def patterned(x: Tensor) -> Tensor:
        waves = 0.08 * torch.sin(60 * x).prod(-1, keepdim=True) + 0.05 * torch.sin(200 * x)
        return (0.1 + 0.8 * plain(x) + waves).clamp(0, 1)

    return {"plain": plain, "patterned": patterned}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", default="mushroom,mug")
    parser.add_argument("--size", type=int, default=1024)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for kind in args.kinds.split(","):
        shape = build(parse_object(f"a red {kind}"))
        bare = deliver(true_mesh(shape, CELLS), FACES)
        for name, colour in colourings(shape).items():
            weight = seam_weight(colour(bare.v_pos)[bare.t_pos_idx]).numpy()
            mesh = unwrapped(Mesh(bare.v_pos, bare.t_pos_idx), args.size, weight)
            texture = bake(mesh, colour, args.size)
            texture = polish(texture, mesh, colour, torch.Generator().manual_seed(0))
            count, found = differences(mesh, texture)
            figures = [f"{float(x):.2f}" for x in (found.median(), found.quantile(0.9), found.max())]
            print(f"{kind:<10} {name:<10} {count:>5} seams  {'  '.join(figures)}", flush=True)


if __name__ == "__main__":
    main()
