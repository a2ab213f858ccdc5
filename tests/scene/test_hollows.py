"""Vessels whose depth is known: where they are hollow, and that they become as deep as who knows them says."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.scene.hollows import ALIKE, WALL, WIDER, dig, hollows
from backend.scene.isosurface import TetGrid, marching_tetrahedra, tetrahedral_grid
from backend.scene.mesh import Mesh, holes, is_closed
from tests.tools.here import here
from tests.tools.made_meshes import signed_volume

HEIGHT, OUTER = 0.4, 0.3  # metres: half the height, and the radius


def cylinder(points: Tensor, radius: float, low: float, high: float) -> Tensor:
    beside = radius - points[:, :2].norm(dim=1)
    return torch.minimum(beside, torch.minimum(points[:, 2] - low, high - points[:, 2]))


def cup(points: Tensor, depth: float, inner: float = 0.22) -> Tensor:
    """[N] metres, positive inside: a cup that is `depth` metres deep."""
    return torch.minimum(
        cylinder(points, OUTER, -HEIGHT, HEIGHT), -cylinder(points, inner, HEIGHT - depth, HEIGHT + 1)
    )


def ring(points: Tensor) -> Tensor:
    around = torch.stack((points[:, :2].norm(dim=1) - 0.3, points[:, 2]), 1)
    return 0.12 - around.norm(dim=1)


@pytest.fixture(scope="module")
def grid() -> TetGrid:
    return tetrahedral_grid(24, (-0.55,) * 3, (0.55,) * 3).to(here())


def depth_of(sdf: Tensor, grid: TetGrid) -> float:
    """Metres of air under the rim in the cup's middle, by the lattice of the cells' corners."""
    side = round(grid.corners ** (1 / 3))
    column = sdf[: grid.corners].view(side, side, side)[side // 2, side // 2].cpu()
    z = grid.vertices[: grid.corners].view(side, side, side, 3)[side // 2, side // 2, :, 2].cpu()
    at = int((column > 0).nonzero().max())
    return HEIGHT - float(z[at] + (z[at + 1] - z[at]) * column[at] / (column[at] - column[at + 1]))


def volume(mesh: Mesh) -> float:
    return float(signed_volume(mesh))


@pytest.mark.parametrize("cells", [20, 32, 64])
def test_it_is_as_deep_as_the_cup_however_fine_the_grid_is(cells: int) -> None:
    fine = tetrahedral_grid(cells, (-0.55,) * 3, (0.55,) * 3).to(here())
    (hollow,) = hollows(cup(fine.vertices, 0.4), fine)
    assert float(hollow.depth.max()) * hollow.voxel == pytest.approx(0.4, abs=hollow.voxel)
    across = math.sqrt(float((hollow.depth > 0).sum()) * hollow.voxel**2 / math.pi)
    assert across == pytest.approx(0.22, abs=2 * hollow.voxel)
    assert max(hollow.thick.shape) <= 98
    assert hollow.deepest(0.1) == pytest.approx((2 * HEIGHT - 0.1) / 0.4, abs=2 * hollow.voxel / 0.4)


@pytest.mark.parametrize(
    "shape",
    [
        lambda p: 0.4 - p.norm(dim=1),
        ring,  # what is poured into it runs through
        lambda p: cup(p * torch.tensor([1.0, 1.0, -1.0], device=p.device), 0.4),  # upside down
        lambda p: cup(p, 0.04),  # a dent
    ],
)
def test_what_holds_no_water_is_not_hollow(grid: TetGrid, shape: Callable[[Tensor], Tensor]) -> None:
    def asked(mesh: Mesh) -> float:
        raise AssertionError("there is nothing to ask")

    sdf = shape(grid.vertices)
    assert hollows(sdf, grid) == []
    assert dig(sdf, grid, asked) is sdf


def test_two_cups_are_two_hollows_the_larger_first(grid: TetGrid) -> None:
    def two(p: Tensor) -> Tensor:
        block = cylinder(p, 0.5, -0.3, 0.3)
        wide = cylinder(p - p.new_tensor([-0.2, 0, 0]), 0.18, 0.0, 1.0)
        narrow = cylinder(p - p.new_tensor([0.25, 0, 0]), 0.12, 0.1, 1.0)
        return torch.minimum(block, -torch.maximum(wide, narrow))

    first, second = hollows(two(grid.vertices), grid)
    assert [float(h.depth.max() * h.voxel) for h in (first, second)] == pytest.approx([0.3, 0.2], abs=0.02)
    assert np.argwhere(first.depth > 0)[:, 0].mean() < np.argwhere(second.depth > 0)[:, 0].mean()


def test_a_filled_cup_becomes_as_deep_and_as_wide_as_the_one_that_is_known(grid: TetGrid) -> None:
    half = cup(grid.vertices, 0.3, inner=0.16)
    true = cup(grid.vertices, 0.6)
    wanted = volume(marching_tetrahedra(grid.vertices, true, grid))

    def error_of(mesh: Mesh) -> float:
        """Mean metres from the true one's surface."""
        return float(cup(mesh.v_pos, 0.6).abs().mean())

    assert error_of(marching_tetrahedra(grid.vertices, half, grid)) > 0.01
    dug = dig(half, grid, error_of)
    mesh = marching_tetrahedra(grid.vertices, dug, grid)
    assert is_closed(mesh)
    assert depth_of(dug, grid) == pytest.approx(0.6, abs=0.08) and depth_of(half, grid) == pytest.approx(
        0.3, abs=0.02
    )
    assert volume(mesh) == pytest.approx(wanted, rel=0.12)
    assert torch.equal(dug > half, torch.zeros_like(dug, dtype=torch.bool))  # nothing is added


def test_a_wall_is_left_beside_it_and_under_it(grid: TetGrid) -> None:
    """Who likes nothing but air gets the largest hollow that there may be."""
    dug = dig(cup(grid.vertices, 0.3), grid, volume)
    wall = WALL * grid.spacing
    points = torch.tensor([[OUTER - wall / 2, 0.0, 0.0], [0.0, 0.0, -HEIGHT + wall / 2]], device=here())
    for point in points:
        nearest = (grid.vertices - point).norm(dim=1).argmin()
        assert dug[nearest] > 0
    assert depth_of(dug, grid) == pytest.approx(2 * HEIGHT - wall, abs=1.5 * grid.spacing)


def test_nothing_changes_unless_it_is_clearly_better(grid: TetGrid) -> None:
    sdf = cup(grid.vertices, 0.3)
    as_it_is = volume(marching_tetrahedra(grid.vertices, sdf, grid))

    def barely(mesh: Mesh) -> float:
        return 1.0 if volume(mesh) >= as_it_is else 1 / ALIKE + 1e-3

    assert dig(sdf, grid, barely) is sdf
    assert dig(sdf, grid, lambda mesh: 2.0 - volume(mesh)) is sdf  # who likes it filled
    assert dig(sdf, grid, lambda mesh: math.nan) is sdf
    clearly = dig(sdf, grid, lambda mesh: 1.0 if volume(mesh) >= as_it_is else 1 / ALIKE - 1e-3)
    assert depth_of(clearly, grid) > 0.6  # all alike: the largest


def test_a_torn_floor_over_an_empty_room_goes_whole(grid: TetGrid) -> None:
    """As fields are under a mug's floor: of hollows that look alike none with shreds of it is taken."""
    floor = cylinder(grid.vertices, 0.22, -0.05, 0.05)
    tears = [cylinder(grid.vertices - grid.vertices.new_tensor([x, 0, 0]), 0.09, -1, 1) for x in (-0.1, 0.1)]
    sdf = torch.maximum(cup(grid.vertices, 0.6), torch.minimum(floor, -torch.maximum(*tears)))
    mesh = marching_tetrahedra(grid.vertices, sdf, grid)
    assert holes(mesh) > 0
    asked: list[int] = []

    def alike(mesh: Mesh) -> float:
        """A deeper one with shreds of the floor, and a less deep one that is wide enough to have none."""
        asked.append(holes(mesh))
        deeper, less_deep = 1 + len(WIDER) + 1, 1 + 3  # the first that is asked about is the surface as it is
        return 1.0 if len(asked) - 1 in (deeper, less_deep) else 2.0

    dug = dig(sdf, grid, alike)
    assert asked[8] > 0 and asked[4] == 0
    assert holes(marching_tetrahedra(grid.vertices, dug, grid)) == 0


def test_a_round_rim_keeps_no_lip(grid: TetGrid) -> None:
    inner = 0.14
    radius = grid.vertices[:, :2].norm(dim=1)
    rim = HEIGHT - 12 * (radius - (inner + OUTER) / 2).square() - grid.vertices[:, 2]
    sdf = torch.minimum(cup(grid.vertices, 0.4, inner), rim)
    dug = dig(sdf, grid, volume)  # as wide as can be
    assert dug is not sdf
    side = round(grid.corners ** (1 / 3))
    solid = (dug[: grid.corners] > 0).view(side, side, side).cpu()
    heights = torch.arange(side)
    lowest = torch.where(solid, heights, side).amin(2)
    highest = torch.where(solid, heights, -1).amax(2)
    some = solid.any(2)
    assert torch.equal(solid.sum(2)[some], (highest - lowest + 1)[some])  # nothing hangs over air
