"""How deep a vessel is: the true one is as deep as itself, and one with a lid has no depth."""

from __future__ import annotations

import torch

from backend.objects.shapes import build
from backend.scene.isosurface import marching_tetrahedra, tetrahedral_grid
from benchmarks.vessels import depth, true_heights
from dreamflow_blender.contract.language.reading import Description


def test_the_depth_of_a_true_mug_and_of_a_filled_one() -> None:
    shape, corner = build(Description("mug", "red")), torch.full((3,), 0.52)
    grid = tetrahedral_grid(32, -corner, corner)
    true = shape.sdf(grid.vertices)
    radius, z = grid.vertices[:, :2].norm(dim=1), grid.vertices[:, 2]
    xy = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, -0.1]])
    height, part = true_heights(shape, xy)
    assert (part == shape.names.index("inside")).all(), "rays end on the floor of the cavity"
    assert shape.sdf(torch.cat((xy, height[:, None]), 1)).abs().max() < 1e-3
    rim = float(z[true < 0].max())
    filled = torch.minimum(true, torch.maximum(torch.maximum(radius - 0.2, z - rim), -0.3 - z))
    for sdf, low, high in ((true, 0.9, 1.05), (filled, -0.2, 0.2)):
        assert low <= depth(marching_tetrahedra(grid.vertices, -sdf, grid), shape) <= high
