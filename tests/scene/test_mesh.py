"""Meshes whose volume, pieces and closedness are known."""

import itertools

import pytest
import torch

from backend.scene.isosurface import marching_tetrahedra, tetrahedral_grid
from backend.scene.mesh import (
    Mesh,
    components,
    face_cross,
    face_normals,
    holes,
    is_closed,
    vertex_normals,
)
from tests.tools.made_meshes import signed_volume


def cuboid(sides=(1.0, 1.0, 1.0), centre=(0.0, 0.0, 0.0)) -> Mesh:
    corners = torch.tensor(list(itertools.product((-0.5, 0.5), repeat=3)))
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    tri = [t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]
    return Mesh(corners * torch.tensor(sides) + torch.tensor(centre), torch.tensor(tri))


def joined(first: Mesh, second: Mesh) -> Mesh:
    return Mesh(
        torch.cat((first.v_pos, second.v_pos)),
        torch.cat((first.t_pos_idx, second.t_pos_idx + len(first.v_pos))),
    )


def test_volume_is_signed_and_does_not_depend_on_the_origin():
    assert signed_volume(cuboid((1.0, 2.0, 3.0), (5.0, -3.0, 2.0))) == pytest.approx(6)
    inside_out = cuboid((1.0, 2.0, 3.0))
    assert signed_volume(Mesh(inside_out.v_pos, inside_out.t_pos_idx.flip(1))) == pytest.approx(-6)


def test_normals_point_outwards_and_have_length_one():
    mesh = cuboid()
    outwards = mesh.v_pos[mesh.t_pos_idx].mean(1)
    assert ((face_normals(mesh) * outwards).sum(1) > 0).all()
    assert torch.allclose(face_cross(mesh).norm(dim=1), torch.ones(12))  # twice an area of a half
    normals = vertex_normals(mesh)
    assert torch.allclose(normals.norm(dim=1), torch.ones(8))
    assert ((normals * mesh.v_pos).sum(1) > 0.5).all()


def test_a_degenerate_face_has_no_normal_and_no_nan():
    mesh = Mesh(torch.zeros(3, 3, requires_grad=True), torch.tensor([[0, 1, 2]]))
    normals = face_normals(mesh)
    assert torch.equal(normals, torch.zeros(1, 3))
    normals.sum().backward()
    assert torch.isfinite(mesh.v_pos.grad).all()


def test_closed_means_two_faces_an_edge_in_opposite_directions():
    mesh = cuboid()
    assert is_closed(mesh)
    assert is_closed(joined(mesh, cuboid(centre=(3.0, 0.0, 0.0))))
    t = mesh.t_pos_idx
    assert not is_closed(Mesh(mesh.v_pos, t[1:]))  # a hole
    assert not is_closed(Mesh(mesh.v_pos, torch.cat((t[:1].flip(1), t[1:]))))  # one face turned over
    assert not is_closed(Mesh(mesh.v_pos, torch.cat((t, t[:1]))))  # one face twice
    assert not is_closed(Mesh(mesh.v_pos, torch.cat((t, torch.tensor([[0, 0, 7]])))))  # not a triangle
    assert not is_closed(Mesh(mesh.v_pos, t[:0]))


def test_components_are_counted_by_faces():
    both = joined(cuboid(), cuboid(centre=(3.0, 0.0, 0.0)))
    count, piece = components(both)
    assert count == 2
    assert len(set(piece[:12])) == len(set(piece[12:])) == 1
    loose_vertex = Mesh(torch.cat((both.v_pos, torch.zeros(1, 3))), both.t_pos_idx)
    assert components(loose_vertex)[0] == 2
    assert components(Mesh(both.v_pos, both.t_pos_idx[:0]))[0] == 0


def test_a_ring_has_one_hole_and_a_ball_none():
    grid = tetrahedral_grid(16, (-0.6,) * 3, (0.6,) * 3)
    p = grid.vertices
    ring = 0.12 - torch.stack((p[:, :2].norm(dim=1) - 0.3, p[:, 2]), 1).norm(dim=1)
    assert holes(marching_tetrahedra(p, ring, grid)) == 1
    assert holes(marching_tetrahedra(p, 0.4 - p.norm(dim=1), grid)) == 0
    assert holes(joined(cuboid(), cuboid(centre=(2.0, 0.0, 0.0)))) == 0
