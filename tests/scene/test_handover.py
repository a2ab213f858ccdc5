"""Densities of known shapes become the signed distances of those shapes."""

import time

import numpy as np
import pytest
import torch

from backend.errors import SceneError
from backend.scene.camera import orbit, rays
from backend.scene.handover import (
    Seen,
    bounding_box,
    field_to_sdf,
    pick_threshold,
    sdf_from_density,
    surface_distance,
)
from backend.scene.isosurface import marching_tetrahedra, tetrahedral_grid
from backend.scene.mesh import Mesh, components, is_closed
from tests.tools.here import here
from tests.tools.made_meshes import signed_volume

DENSE, SHARP = 150.0, 400.0  # per metre; the logistic's slope


@pytest.fixture(scope="module")
def grid():
    return tetrahedral_grid(24, (-0.5,) * 3, (0.5,) * 3).to(here())


def sphere(points, radius=0.35):
    return radius - points.norm(dim=-1)


def box(points, half):
    q = points.abs() - torch.tensor(half, device=points.device)
    return -(q.clamp(min=0).norm(dim=-1) + q.amax(-1).clamp(max=0))


def rod(points, radius=0.02):
    along = torch.nn.functional.normalize(torch.tensor([1.0, 0.7, 0.4], device=points.device), dim=0)
    t = (points @ along).clamp(-0.35, 0.35)
    return radius - (points - t[:, None] * along).norm(dim=-1)


def density_of(shape):
    """What a trained field looks like: dense inside, falling by factors outside."""
    return lambda points: DENSE * torch.sigmoid(SHARP * shape(points))


def cameras(count=6, size=32):
    azimuth = torch.arange(count) * 360.0 / count
    return orbit(
        azimuth,
        torch.full((count,), 20.0),
        torch.full((count,), 1.4),
        torch.full((count,), 45.0),
        size,
        size,
    ).to(here())


def see(density, camera, steps=100):
    """What K views show of a density, by plain quadrature along every ray."""
    origins, directions = rays(camera)
    t = torch.linspace(0.8, 2.0, steps, device=origins.device)
    points = origins[..., None, :] + directions[..., None, :] * t[:, None]
    thick = density(points.reshape(-1, 3)).view(points.shape[:-1]) * (t[1] - t[0])
    weights = (1 - torch.exp(-thick)) * torch.exp(thick - thick.cumsum(-1))
    opacity = weights.sum(-1)
    return Seen(camera, opacity, (weights * t).sum(-1) / opacity.clamp(min=1e-6))


def test_distances_are_those_of_the_shape_near_its_surface(grid):
    density = density_of(sphere)
    sdf = sdf_from_density(density(grid.vertices), DENSE / 2, grid, density)
    truth = sphere(grid.vertices)
    near = truth.abs() < 2 * grid.spacing
    near &= ~grid.border
    assert (sdf - truth)[near].abs().max() < 0.1 * grid.spacing
    assert torch.equal(sdf[near] > 0, truth[near] > 0)
    assert sdf.abs().max() <= 4 * grid.spacing + 1e-6
    assert (sdf[grid.border] < 0).all()
    # without the function the crossings are interpolated: coarser, for the field is steeper than the cells
    rough = sdf_from_density(density(grid.vertices), DENSE / 2, grid)
    assert (rough - truth)[near].abs().max() < 0.5 * grid.spacing
    assert (rough - truth)[near].mean().abs() < 0.05 * grid.spacing


def test_a_hollow_shell_is_filled(grid):
    def shell(points):
        return 0.03 - (points.norm(dim=-1) - 0.33).abs()

    sdf = sdf_from_density(density_of(shell)(grid.vertices), DENSE / 2, grid)
    assert (sdf[grid.vertices.norm(dim=1) < 0.3] > 0).all()
    mesh = marching_tetrahedra(grid.vertices, sdf, grid)
    assert is_closed(mesh) and components(mesh)[0] == 1
    assert signed_volume(mesh) == pytest.approx(4 / 3 * np.pi * 0.36**3, rel=0.05)


def test_specks_are_dropped_and_companions_kept(grid):
    def scene(points):
        speck = 0.04 - (points - torch.tensor([0.35, 0.35, 0.35], device=points.device)).norm(dim=-1)
        companion = 0.12 - (points - torch.tensor([-0.3, -0.3, -0.3], device=points.device)).norm(dim=-1)
        return torch.maximum(torch.maximum(sphere(points, 0.25), speck), companion)

    sdf = sdf_from_density(density_of(scene)(grid.vertices), DENSE / 2, grid)
    assert components(marching_tetrahedra(grid.vertices, sdf, grid))[0] == 2


def test_a_full_box_is_closed_at_the_border(grid):
    sdf = sdf_from_density(torch.full((len(grid.vertices),), 80.0, device=here()), 10.0, grid)
    mesh = marching_tetrahedra(grid.vertices, sdf, grid)
    assert is_closed(mesh) and signed_volume(mesh) > 0.5


@pytest.mark.parametrize("shape", [rod, lambda p: box(p, (0.35, 0.35, 0.02))], ids=["rod", "slab"])
def test_parts_of_four_centimetres_survive_cells_of_four(grid, shape):
    density = density_of(shape)
    sdf = sdf_from_density(density(grid.vertices), DENSE / 2, grid, density)
    mesh = marching_tetrahedra(grid.vertices, sdf, grid)
    assert is_closed(mesh) and components(mesh)[0] == 1
    assert shape(mesh.v_pos).abs().mean() < 0.005
    assert float(mesh.v_pos.norm(dim=1).max()) > 0.33


def test_the_threshold_is_found_through_silhouettes(grid):
    density, camera = density_of(sphere), cameras()
    threshold, iou = pick_threshold(density(grid.vertices), grid, see(density, camera))
    assert iou > 0.95
    sdf = sdf_from_density(density(grid.vertices), threshold, grid, density)
    radius = marching_tetrahedra(grid.vertices, sdf, grid).v_pos.norm(dim=1).mean()
    assert float(radius) == pytest.approx(0.35, abs=0.01)  # half a pixel is 0.015


def test_fog_around_the_object_does_not_become_the_object(grid):
    def foggy(points):
        return density_of(sphere)(points) + 0.05

    camera = cameras(count=3)
    threshold, iou = pick_threshold(foggy(grid.vertices), grid, see(foggy, camera))
    assert iou > 0.75
    radius = marching_tetrahedra(
        grid.vertices, sdf_from_density(foggy(grid.vertices), threshold, grid), grid
    ).v_pos.norm(dim=1)
    assert float(radius.max()) < 0.4


def test_fog_inside_a_vessel_does_not_become_its_lid(grid):
    """Silhouettes do not see it: the threshold that they like best is below the fog's 8 per metre."""

    def cylinder(points, radius, top):
        return torch.minimum(radius - points[:, :2].norm(dim=-1), top - points[:, 2].abs())

    def density(points):
        up = torch.tensor([0.0, 0.0, 0.1], device=points.device)
        vessel = torch.minimum(cylinder(points, 0.3, 0.3), -cylinder(points - up, 0.2, 0.3))
        return DENSE * torch.sigmoid(100 * vessel) + 8 * torch.sigmoid(100 * cylinder(points, 0.2, 0.25))

    around, at = torch.arange(6) * 60.0, density(grid.vertices)
    camera = orbit(around, around * 0 + 60.0, around * 0 + 1.4, around * 0 + 45.0, 48, 48).to(here())
    threshold, iou = pick_threshold(at, grid, see(density, camera))
    assert threshold > 8 and iou > 0.9
    mesh = marching_tetrahedra(grid.vertices, sdf_from_density(at, threshold, grid, density), grid)
    floor = mesh.v_pos[mesh.v_pos[:, :2].norm(dim=-1) < 0.1, 2].max()
    assert float(floor) == pytest.approx(-0.2, abs=0.05)


def dumb_bell(faintness, radius):
    """Two balls and a faint rod between them, as a stage 1 leaves a lamp's pole."""

    def balls(points):
        apart = torch.tensor([0.0, 0.0, 0.25], device=points.device)
        return torch.maximum(sphere(points - apart, 0.18), sphere(points + apart, 0.12))

    def rod(points):
        return torch.minimum(radius - points[:, :2].norm(dim=-1), 0.25 - points[:, 2].abs())

    return lambda points: density_of(balls)(points) + faintness * density_of(rod)(points)


@pytest.mark.parametrize(
    ("faintness", "radius", "pieces"),
    [(0.06, 0.05, 1), (0.003, 0.05, 2), (0.0, 0.05, 2)],
    ids=["a pole", "mist between two", "two"],
)
def test_what_is_thin_and_faint_holds_an_object_together(grid, faintness, radius, pieces):
    density, camera = dumb_bell(faintness, radius), cameras(size=64)
    at = density(grid.vertices)
    threshold, _ = pick_threshold(at, grid, see(density, camera))
    mesh = marching_tetrahedra(grid.vertices, sdf_from_density(at, threshold, grid, density), grid)
    assert components(mesh)[0] == pieces


def test_the_whole_hand_over_spends_its_cells_on_the_object():
    def small(points):
        return box(points - torch.tensor([0.1, 0.0, -0.1], device=points.device), (0.2, 0.1, 0.15))

    density, camera = density_of(small), cameras(count=4)
    start = time.perf_counter()
    out = field_to_sdf(density, 1.0, 20, see(density, camera))
    print(f"hand_over, 20 cells: {time.perf_counter() - start:.2f} s, IoU {out.iou:.3f}")
    mesh = marching_tetrahedra(out.grid.vertices, out.sdf, out.grid)
    assert out.grid.spacing < 0.04 and out.iou > 0.9
    assert is_closed(mesh)
    assert small(mesh.v_pos).abs().mean() < 0.01


def test_nothing_there_is_an_error_with_a_remedy(grid):
    camera, nothing = cameras(count=1), torch.zeros(len(grid.vertices), device=here())
    empty = Seen(camera, *torch.zeros(2, 1, 32, 32, device=here()))
    for action in (
        lambda: sdf_from_density(nothing, 10.0, grid),
        lambda: sdf_from_density(nothing + 5.0, 10.0, grid),
        lambda: pick_threshold(nothing, grid, empty),
        lambda: pick_threshold(nothing * torch.nan, grid, empty),
        lambda: bounding_box(torch.zeros(4, 4, 4, dtype=torch.bool, device=here()), 1.0, 0.1),
        lambda: field_to_sdf(lambda p: torch.zeros(len(p), device=p.device), 1.0, 8, empty),
    ):
        with pytest.raises(SceneError) as caught:
            action()
        assert caught.value.todo


def test_the_bounding_box_leaves_out_specks():
    occupied = torch.zeros(20, 20, 20, dtype=torch.bool)
    occupied[5:15, 8:12, 6:10] = True
    occupied[19, 19, 19] = True
    lower, upper = bounding_box(occupied, 1.0, 0.05)
    assert torch.allclose(lower, torch.tensor([-0.55, -0.25, -0.45]))
    assert torch.allclose(upper, torch.tensor([0.55, 0.25, 0.05]))


def test_distances_to_a_triangle_are_exact():
    mesh = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]]))
    points = torch.tensor([[0.2, 0.2, 0.5], [-0.3, 0.2, 0.4], [1.3, 0.0, 0.4], [0.5, 0.5, 0.0], [0, 0, 9.0]])
    distance = surface_distance(points, mesh, 2.0)
    assert torch.allclose(distance, torch.tensor([0.5, 0.5, 0.5, 0.0, 2.0]), atol=1e-6)
