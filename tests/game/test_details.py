"""Baking from a detailed mesh: known waves, nearest points by hand, light in the open and in a box."""

import math

import numpy as np
import torch

from backend.game.details import Surface, bake_normals, closest, even_directions, occlusion
from backend.game.game import frames_of
from backend.meshes.write import to_arrays
from backend.scene.mesh import Mesh
from backend.texture.bake import Points

WAVES, DEPTH = 2 * math.pi, 0.02


def sheet(count: int, height) -> Mesh:
    """A unit square of count^2 cells facing up, u along x and v along y."""
    x, y = torch.meshgrid(torch.linspace(0, 1, count + 1), torch.linspace(0, 1, count + 1), indexing="xy")
    uv = torch.stack((x, y), -1).reshape(-1, 2)
    v = torch.cat((uv, height(uv[:, :1])), 1)
    start = (torch.arange(count)[:, None] * (count + 1) + torch.arange(count)).reshape(-1)
    a, b, c, d = start, start + 1, start + count + 2, start + count + 1
    t = torch.cat((torch.stack((a, b, c), 1), torch.stack((a, c, d), 1)))
    return Mesh(v, t, uv, t)


def test_the_nearest_point_of_a_triangle() -> None:
    triangle = torch.tensor([[(0.0, 0, 0), (1, 0, 0), (0, 1, 0)]])
    at = torch.tensor([(0.25, 0.25, 1.0), (0.5, -1, 0), (2, 2, 0), (-1, -1, 3), (0.3, 0.0, 0.0)])
    wanted = torch.tensor([(0.25, 0.25, 0.0), (0.5, 0, 0), (0.5, 0.5, 0), (0, 0, 0), (0.3, 0, 0)])
    found = closest(triangle.expand(5, 3, 3), at)
    torch.testing.assert_close((triangle * found[..., None]).sum(1), wanted)


def test_a_wall_does_not_take_the_other_sides_point() -> None:
    """A thin plate: a point just below its upper side belongs to that, though the lower one is nearer."""
    top, bottom = sheet(4, lambda x: 0 * x + 0.01), sheet(4, lambda x: 0 * x)
    count = len(top.v_pos)
    plate = Mesh(
        torch.cat((top.v_pos, bottom.v_pos)), torch.cat((top.t_pos_idx, bottom.t_pos_idx.flip(1) + count))
    )
    at, up = torch.tensor([(0.5, 0.5, 0.002)]), torch.tensor([(0.0, 0, 1)])
    points = Surface(plate).nearest(at, up)
    torch.testing.assert_close(points.position(plate), torch.tensor([(0.5, 0.5, 0.01)]))
    torch.testing.assert_close(
        Surface(plate).nearest(at, -up).position(plate), torch.tensor([(0.5, 0.5, 0.0)])
    )


def test_waves_become_their_slopes() -> None:
    """z = d sin(kx): its normals are (-d k cos(kx), 0, 1), which a flat sheet's map has to say."""
    detailed, flat = sheet(200, lambda x: DEPTH * torch.sin(WAVES * x)), sheet(1, lambda x: 0 * x)
    x = torch.linspace(0.05, 0.95, 50)
    face, bary = (
        torch.zeros(50, dtype=torch.int64),
        torch.stack((1 - x, x / 2, x / 2), 1),
    )  # of (0,0), (1,0), (1,1)
    points = Points(face, bary)
    found = bake_normals(points, frames_of(to_arrays(flat)), Surface(detailed), flat.v_pos[flat.t_pos_idx])
    slope = -DEPTH * WAVES * torch.cos(WAVES * x)
    wanted = torch.nn.functional.normalize(torch.stack((slope, 0 * x, 1 + 0 * x), 1), dim=1)
    assert (found * 2 - 1 - wanted).abs().max() < 0.02
    assert (found[:, 0] - 0.5).abs().max() > 0.04, "the waves are not there"


def test_smooth_normals_lead_to_no_other_place() -> None:
    """A coarse wave's smooth normals lean away from its faces: the map still has each place's own slope."""
    steep = 10 * DEPTH
    detailed, coarse = (sheet(count, lambda x: steep * torch.sin(WAVES * x)) for count in (200, 5))
    generator = torch.Generator().manual_seed(0)
    bary = torch.rand(400, 3, generator=generator) + 0.01
    points = Points(torch.arange(400) % len(coarse.t_pos_idx), bary / bary.sum(1, keepdim=True))
    frames = frames_of(to_arrays(coarse))
    found = bake_normals(points, frames, Surface(detailed), coarse.v_pos[coarse.t_pos_idx]) * 2 - 1
    seen = torch.nn.functional.normalize((torch.stack(frames.at(points), 1) * found[..., None]).sum(1), dim=1)
    where = points.position(coarse)
    there = where[:, :1] + torch.linspace(-0.2, 0.2, 801)  # each place's nearest on the curve, by trying
    apart = (there - where[:, :1]) ** 2 + (steep * torch.sin(WAVES * there) - where[:, 2:]) ** 2
    x = there.gather(1, apart.argmin(1, keepdim=True))[:, 0]
    inside = (x > 0.02) & (x < 0.98)
    slope = -steep * WAVES * torch.cos(WAVES * x)
    wanted = torch.nn.functional.normalize(torch.stack((slope, 0 * x, 1 + 0 * x), 1), dim=1)
    assert (seen - wanted)[inside].norm(dim=1).max() < 0.05


def test_light_falls_on_what_is_open_and_not_into_a_box() -> None:
    ground, up = sheet(8, lambda x: 0 * x), torch.tensor([(0.0, 0, 1)])
    at = torch.tensor([(0.5, 0.5, 0.0)])
    assert occlusion(ground, at, up)[0] > 0.97
    walls = []  # a square chimney, 0.2 wide and 0.4 high: a point on its ground sees a twentieth of the sky
    for turn in range(4):
        x = (-0.1, 0.1)
        corners = [(x[0], -0.1, 0), (x[1], -0.1, 0), (x[1], -0.1, 0.4), (x[0], -0.1, 0.4)]
        c, s = math.cos(turn * math.pi / 2), math.sin(turn * math.pi / 2)
        walls += [(0.5 + c * px - s * py, 0.5 + s * px + c * py, pz) for px, py, pz in corners]
    quads = np.arange(16).reshape(4, 4)
    tri = torch.from_numpy(np.concatenate((quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]))) + len(ground.v_pos)
    box = Mesh(
        torch.cat((ground.v_pos, torch.tensor(walls, dtype=torch.float32))),
        torch.cat((ground.t_pos_idx, tri)),
    )
    assert occlusion(box, at, up)[0] < 0.15


def test_directions_are_even() -> None:
    found = even_directions(96)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(96))
    assert found.mean(0).abs().max() < 0.01
    nearest = (found @ found.T - 2 * torch.eye(96)).max(1).values
    assert nearest.min() > 0.9 and nearest.max() < 0.97
