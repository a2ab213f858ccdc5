"""Marching tetrahedra against shapes whose volume, topology and gradients are known."""

import math

import pytest
import torch

from backend.errors import SceneError
from backend.scene.isosurface import marching_tetrahedra, tetrahedral_grid
from backend.scene.mesh import Mesh, components, face_cross, face_normals, is_closed
from tests.tools.here import generator, here
from tests.tools.made_meshes import signed_volume


@pytest.fixture(scope="module")
def grid():
    return tetrahedral_grid(28, (-0.55,) * 3, (0.55,) * 3).to(here())


def euler(mesh: Mesh) -> int:
    return len(mesh.v_pos) - len(mesh.t_pos_idx) // 2  # V - E + F, where E = 3/2 F


def volume(mesh: Mesh) -> torch.Tensor:
    a, b, c = mesh.v_pos[mesh.t_pos_idx].unbind(1)
    return (a * torch.linalg.cross(b, c)).sum() / 6


def sphere(points, radius=0.4):
    return radius - points.norm(dim=1)


def torus(points, ring=0.33, tube=0.12):
    return tube - torch.stack((points[:, :2].norm(dim=1) - ring, points[:, 2]), 1).norm(dim=1)


def test_the_tetrahedra_fill_their_box_without_overlap():
    small = tetrahedral_grid(6, (-1.0, -0.5, 0.0), (1.0, 0.5, 0.9))
    assert small.spacing == pytest.approx(1 / 3)
    corners = small.vertices[small.tets].double()
    volumes = torch.linalg.det(corners[:, 1:] - corners[:, :1]) / 6
    assert torch.allclose(volumes, torch.full_like(volumes, small.spacing**3 / 12), rtol=1e-4)
    # only the half pyramids of the box's own faces are missing: a sixth of a cell for each of them
    cells = (6, 3, 3)
    faces = 2 * (6 * 3 + 6 * 3 + 3 * 3)
    expected = (math.prod(cells) - faces / 6) * small.spacing**3
    assert float(volumes.sum()) == pytest.approx(expected, rel=1e-4)
    # each inner face has two tetrahedra, and every vertex of a face with one is on the border
    sides = torch.cat([small.tets[:, [i for i in range(4) if i != skip]] for skip in range(4)])
    sides, count = sides.sort(1).values.unique(dim=0, return_counts=True)
    assert count.max() == 2
    hull = sides[count == 1].unique()
    assert small.border[hull].all()
    assert not small.border[small.tets.unique()].all()


def test_edges_are_unique_and_those_of_the_tetrahedra():
    small = tetrahedral_grid(4, (-1.0,) * 3, (1.0,) * 3)
    pairs = torch.combinations(torch.arange(4))
    every = small.tets[:, pairs].sort(2).values
    assert torch.equal(small.edges[small.tet_edges], every)
    assert len(every.reshape(-1, 2).unique(dim=0)) == len(small.edges)


def test_a_box_keeps_cubic_cells_and_its_centre():
    lower, upper = torch.tensor([0.0, 1.0, -2.0]), torch.tensor([1.0, 1.55, -1.7])
    flat = tetrahedral_grid(10, lower, upper)
    low, high = flat.vertices.amin(0), flat.vertices.amax(0)
    assert torch.allclose(high - low, torch.tensor([1.0, 0.6, 0.3]), atol=1e-5)
    assert torch.allclose((low + high) / 2, (lower + upper) / 2, atol=1e-5)


def test_a_sphere_is_closed_and_has_its_radius_and_volume(grid):
    mesh = marching_tetrahedra(grid.vertices, sphere(grid.vertices), grid)
    assert is_closed(mesh) and components(mesh)[0] == 1 and euler(mesh) == 2
    assert (mesh.v_pos.norm(dim=1) - 0.4).abs().max() < 1e-3
    assert signed_volume(mesh) == pytest.approx(4 / 3 * math.pi * 0.4**3, rel=5e-3)
    outwards = torch.nn.functional.normalize(mesh.v_pos[mesh.t_pos_idx].mean(1), dim=1)
    assert ((face_normals(mesh) * outwards).sum(1) > 0.9).all()


def test_a_torus_has_genus_one(grid):
    mesh = marching_tetrahedra(grid.vertices, torus(grid.vertices), grid)
    assert is_closed(mesh) and euler(mesh) == 0
    assert signed_volume(mesh) == pytest.approx(2 * math.pi**2 * 0.33 * 0.12**2, rel=3e-2)


def test_a_spheres_volume_grows_by_its_area(grid):
    offset = torch.zeros((), device=here(), requires_grad=True)
    mesh = marching_tetrahedra(grid.vertices, sphere(grid.vertices) + offset, grid)
    (slope,) = torch.autograd.grad(volume(mesh), offset)
    assert float(slope) == pytest.approx(4 * math.pi * 0.4**2, rel=5e-3)


def test_moving_the_grid_moves_the_mesh(grid):
    vertices = grid.vertices.clone().requires_grad_()
    mesh = marching_tetrahedra(vertices, sphere(grid.vertices), grid)
    (slope,) = torch.autograd.grad(mesh.v_pos.mean(0)[0], vertices)
    assert float(slope[:, 0].sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(slope[:, 1:].abs().sum()) == 0


def test_gradients_agree_with_differences():
    grid = tetrahedral_grid(3, (-1.0,) * 3, (1.0,) * 3)
    values = (0.7 - grid.vertices.norm(dim=1)).double().requires_grad_()
    corners = grid.vertices.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, s: marching_tetrahedra(v, s, grid).v_pos, (corners, values), eps=1e-6
    )


@pytest.mark.parametrize("seed", range(20))
def test_random_fields_are_always_closed(seed):
    grid = tetrahedral_grid(12, (-0.5,) * 3, (0.5,) * 3).to(here())
    noise = torch.randn(len(grid.vertices), generator=generator(seed), device=here())
    noise = noise.round() if seed % 2 else noise  # rounded: exact zeros, which count as outside
    mesh = marching_tetrahedra(grid.vertices, torch.where(grid.border, -1.0, noise), grid)
    assert is_closed(mesh) and signed_volume(mesh) > 0
    assert len(mesh.t_pos_idx.unique()) == len(mesh.v_pos)  # no vertex without a face
    assert face_cross(mesh).double().norm(dim=1).min() > 1e-9
    count, piece = components(mesh)
    assert count == len(set(piece.tolist()))


def test_a_vertex_on_the_surface_is_free_to_leave_it(grid):
    values = sphere(grid.vertices)
    values[values.abs().argmin()] = 0.0
    values.requires_grad_()
    mesh = marching_tetrahedra(grid.vertices, values, grid)
    (slope,) = torch.autograd.grad(volume(mesh), values)
    assert slope[values == 0].abs() > 0 and torch.isfinite(slope).all()


def test_no_surface_is_an_error_with_a_remedy(grid):
    for what, value in (("empty", -1.0), ("full", 1.0)):
        with pytest.raises(SceneError, match=what) as caught:
            marching_tetrahedra(grid.vertices, torch.full((len(grid.vertices),), value, device=here()), grid)
        assert caught.value.todo
