"""Delivered meshes are closed and whole, whatever came in."""

import math

import pytest
import torch

from backend.errors import SceneError
from backend.scene import simplify as module
from backend.scene.isosurface import marching_tetrahedra, tetrahedral_grid
from backend.scene.mesh import Mesh, components, face_cross, is_closed
from backend.scene.simplify import deliver
from tests.tools.made_meshes import signed_volume


@pytest.fixture(scope="module")
def grid():
    return tetrahedral_grid(16, (-0.56,) * 3, (0.56,) * 3)


def extract(grid, sdf):
    return marching_tetrahedra(grid.vertices, torch.where(grid.border, -1.0, sdf), grid)


def sphere(points, radius=0.4, centre=(0.0, 0.0, 0.0)):
    return radius - (points - torch.tensor(centre)).norm(dim=1)


def scene_of(seed, points):
    """Blobs, a thin rod and a thin ring, every third one rough: as unkind as a result of training."""
    g = torch.Generator().manual_seed(seed)
    centres, radii = (torch.rand(6, 3, generator=g) - 0.5) * 0.7, torch.rand(6, generator=g) * 0.12 + 0.03
    blobs = (radii - (points[:, None] - centres).norm(dim=-1)).amax(1)
    along = torch.nn.functional.normalize(torch.randn(3, generator=g), dim=0)
    t = (points @ along).clamp(-0.4, 0.4)
    rod = 0.02 - (points - t[:, None] * along).norm(dim=1)
    ring = 0.035 - torch.stack((points[:, :2].norm(dim=1) - 0.35, points[:, 2]), 1).norm(dim=1)
    rough = torch.randn(len(points), generator=g) * (0.004 if seed % 3 == 0 else 0)
    return torch.maximum(torch.maximum(blobs, rod), ring) + rough


def euler(mesh):
    return len(mesh.v_pos) - len(mesh.t_pos_idx) // 2


def flatness(mesh):
    """The least height of a face, as a share of its longest edge."""
    corners = mesh.v_pos.double()[mesh.t_pos_idx]
    longest = (corners - corners.roll(1, 1)).norm(dim=2).amax(1)
    return float((face_cross(Mesh(mesh.v_pos.double(), mesh.t_pos_idx)).norm(dim=1) / longest**2).min())


@pytest.mark.parametrize("seed", range(10))
def test_closed_whole_and_light_whatever_comes_in(grid, seed):
    mesh = extract(grid, scene_of(seed, grid.vertices))
    whole = deliver(mesh, None)
    light = deliver(mesh, len(mesh.t_pos_idx) // 2)
    for out in (whole, light):
        assert is_closed(out)
        assert flatness(out) > 1e-4
        assert out.v_pos.dtype == torch.float32 and out.t_pos_idx.dtype == torch.int64
        assert len(out.t_pos_idx.unique()) == len(out.v_pos)
    assert components(light)[0] == components(whole)[0]
    assert euler(light) == euler(whole)  # no handle closed, none opened
    assert len(light.t_pos_idx) <= len(mesh.t_pos_idx) // 2
    assert signed_volume(whole) == pytest.approx(signed_volume(mesh), rel=0.03)
    assert signed_volume(light) == pytest.approx(signed_volume(whole), rel=0.1)


@pytest.mark.parametrize("breaks", [False, True])
def test_a_heavy_mesh_keeps_its_shape_and_its_surface(grid, monkeypatch, breaks):
    """Where fast-simplification goes first, and where it tore the surface, so that all is left to our own."""
    simplify, faces = module.fast_simplification.simplify, []

    def fast(v, t, **how):
        out = simplify(v, t, **how)
        faces.append(len(out[1]))
        return (out[0], out[1][1:]) if breaks else out

    monkeypatch.setattr(module.fast_simplification, "simplify", fast)
    monkeypatch.setattr(module, "CAREFUL", 3000)
    light = deliver(extract(grid, sphere(grid.vertices)), 1500)
    assert faces and 2500 < faces[0] <= 3000
    assert is_closed(light) and 1200 < len(light.t_pos_idx) <= 1500
    assert (light.v_pos.norm(dim=1) - 0.4).abs().max() < 5e-3
    assert signed_volume(light) == pytest.approx(4 / 3 * math.pi * 0.4**3, rel=0.02)


def test_a_light_mesh_lies_close_to_the_heavy_one():
    """A ring of 400 faces: 2.9 mm away where fast-simplification makes it, 2.4 by the cheapest edges first."""
    grid = tetrahedral_grid(40, (-0.56,) * 3, (0.56,) * 3)

    def distance(p):
        return torch.stack((p[:, :2].norm(dim=1) - 0.38, p[:, 2]), 1).norm(dim=1) - 0.08

    light = deliver(extract(grid, -distance(grid.vertices)), 400)
    middles = torch.tensor([(1 / 3, 1 / 3, 1 / 3), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)])
    points = torch.einsum("kc,fcx->fkx", middles, light.v_pos[light.t_pos_idx]).reshape(-1, 3)
    assert len(light.t_pos_idx) <= 400
    assert distance(points).square().mean().sqrt() < 0.0026


def test_specks_and_cavities_go_and_companions_stay(grid):
    shape = torch.maximum(
        torch.maximum(sphere(grid.vertices, 0.3), sphere(grid.vertices, 0.12, (0.35, 0.35, 0.3))),
        sphere(grid.vertices, 0.045, (-0.4, -0.4, -0.4)),
    )
    hollow = torch.minimum(shape, -sphere(grid.vertices, 0.15))
    mesh = extract(grid, hollow)
    assert components(mesh)[0] == 4
    out = deliver(mesh, None)
    assert components(out)[0] == 2
    assert signed_volume(out) == pytest.approx(4 / 3 * math.pi * (0.3**3 + 0.12**3), rel=0.03)


def test_slivers_are_collapsed(grid):
    mesh = extract(grid, sphere(grid.vertices, 0.4201))
    out = deliver(mesh, None)
    assert flatness(mesh) < 0.005 < flatness(out)
    assert len(out.t_pos_idx) < len(mesh.t_pos_idx)


def test_the_same_mesh_gives_the_same_mesh(grid):
    mesh = extract(grid, scene_of(1, grid.vertices))
    first, second = deliver(mesh, 1500), deliver(mesh, 1500)
    assert torch.equal(first.v_pos, second.v_pos) and torch.equal(first.t_pos_idx, second.t_pos_idx)


def test_an_impossible_budget_is_approached():
    tetrahedron = Mesh(
        torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]),
    )
    out = deliver(tetrahedron, 2)
    assert is_closed(out) and len(out.t_pos_idx) == 4


def test_a_mesh_without_volume_is_an_error(grid):
    mesh = extract(grid, sphere(grid.vertices))
    with pytest.raises(SceneError, match="volume"):
        deliver(Mesh(mesh.v_pos, mesh.t_pos_idx.flip(1)), None)
