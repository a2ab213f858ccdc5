"""Six orthographic views: cameras and maps against the published formulas, on a cube and a ball."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Generator, Tensor

from backend.diffusion.prior import PoseRange, PriorSpec
from backend.diffusion.schedule import shifted_timestep, sigma_at
from backend.scene.camera import orbit, rays
from backend.scene.isosurface import marching_tetrahedra, tetrahedral_grid
from backend.scene.mesh import Mesh, face_normals, surface_points
from backend.scene.render_mesh import clip_positions, render_shape
from backend.sides.views import HALF, MOST, STRAIGHT, SixSides, encode_sides, upright
from backend.stages.guides import standing
from backend.texture.mask import seen

SIZE = 33  # so that a pixel lies in the middle
CAMERAS = SixSides().sample(Generator(), 1, SIZE, SIZE)


def looking(azimuth: float, elevation: float) -> Tensor:
    """[4,4] camera to world by the published script: azimuths count from +X there and have 90 taken off."""
    az, el = math.radians(azimuth - 90), math.radians(elevation)
    place = 1.8 * torch.tensor(
        [math.cos(el) * math.cos(az), math.cos(el) * math.sin(az), math.sin(el)], dtype=torch.float64
    )
    ahead = -place / place.norm()
    right = torch.linalg.cross(ahead, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    right = right / right.norm()
    up = torch.linalg.cross(right, ahead)
    made = torch.eye(4, dtype=torch.float64)
    made[:3] = torch.stack((right, up / up.norm(), -ahead, place), 1)
    return made


def test_cameras_are_those_of_the_published_script() -> None:
    angles = ((0, 0), (90, 0), (180, 0), (270, 0), (180, 89.99), (180, -89.99))
    expected = torch.stack([looking(*pair) for pair in angles])
    torch.testing.assert_close(CAMERAS.c2w.double(), expected, rtol=0, atol=2e-6)
    corner = torch.tensor([[HALF, -1.0, HALF]])  # in front, to the upper right
    x, y, _, w = (clip_positions(corner, CAMERAS[:1])[0]).tolist()
    assert (round(x, 5), round(y, 5), w) == (1.0, -1.0, 1.0)


def test_rays_are_parallel_and_a_pinhole_s_are_as_they_were() -> None:
    origins, directions = rays(CAMERAS)
    assert float((directions + CAMERAS.c2w[:, None, None, :3, 2]).abs().max()) < 1e-6
    torch.testing.assert_close(origins[0, 16, 16], CAMERAS.position[0])
    apart = (origins[0, 16, 32] - origins[0, 16, 0]).norm()
    assert (
        float(apart) == torch.tensor(2 * HALF * 32 / 33).item()
        or abs(float(apart) - 2 * HALF * 32 / 33) < 1e-6
    )
    one = torch.ones(1)
    pinhole = orbit(20 * one, 10 * one, 1.2 * one, 50 * one, 8, 8)
    start, ahead = rays(pinhole)
    assert torch.equal(start, pinhole.position[:, None, None].expand_as(ahead))
    assert float((ahead.norm(dim=-1) - 1).abs().max()) < 1e-6


def cube(half: float) -> Mesh:
    """Its faces divided, so that no vertex normal is a corner's where they are looked at."""
    grid = tetrahedral_grid(16, (-0.5,) * 3, (0.5,) * 3)
    return marching_tetrahedra(grid.vertices, half - grid.vertices.abs().amax(1), grid)


def ball(radius: float) -> Mesh:
    grid = tetrahedral_grid(24, (-0.5,) * 3, (0.5,) * 3)
    return marching_tetrahedra(grid.vertices, radius - grid.vertices.norm(dim=1), grid)


def test_maps_say_where_each_pixel_lies_and_which_way_it_faces() -> None:
    """position + 1/2 and normal / 2 + 1/2, in world space; a half where nothing is."""
    maps = encode_sides(CAMERAS, render_shape(cube(0.3), CAMERAS))
    assert maps.shape == (6, 6, SIZE, SIZE) and torch.equal(maps[:, :, 0, 0], torch.full((6, 6), 0.5))
    outward = torch.tensor([[0, -1, 0], [1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, 0, 1], [0, 0, -1.0]])
    for side, normal in enumerate(outward):
        for row, column in ((16, 16), (12, 19)):
            right, up = ((column + 0.5) / SIZE * 2 - 1) * HALF, (1 - (row + 0.5) / SIZE * 2) * HALF
            turn = CAMERAS.c2w[side, :3, :3]
            place = 0.3 * normal + right * turn[:, 0] + up * turn[:, 1]
            torch.testing.assert_close(maps[side, :3, row, column], place + 0.5, rtol=0, atol=2e-3)
            torch.testing.assert_close(maps[side, 3:, row, column], normal / 2 + 0.5, rtol=0, atol=2e-3)
    maps = encode_sides(CAMERAS, render_shape(ball(0.4), CAMERAS))
    solid = (maps != 0.5).any(1)
    point, normal = (
        maps[:, :3].permute(0, 2, 3, 1)[solid] - 0.5,
        2 * maps[:, 3:].permute(0, 2, 3, 1)[solid] - 1,
    )
    assert float((point.norm(dim=1) - 0.4).abs().max()) < 0.01
    assert float((point / 0.4 - normal).norm(dim=1).quantile(0.95)) < 0.1


def test_what_six_sides_see() -> None:
    """Of a cube in a cube, the outer."""
    outer, inner = cube(0.3), cube(0.1)
    places = torch.cat((outer.v_pos, inner.v_pos))
    both = Mesh(places, torch.cat((outer.t_pos_idx, inner.t_pos_idx + len(outer.v_pos))))
    cameras = SixSides().sample(Generator(), 64, 256, 256)
    outward = torch.cat((torch.eye(3), -torch.eye(3)))
    points = outward + 0.1 * (outward == 0)
    assert seen(0.3 * points, both, cameras).all() and not seen(0.1 * points, both, cameras).any()


def test_a_turned_six_is_shown_the_object_turned_and_its_cameras_as_they_were() -> None:
    """So that MV-Adapter is told what it was trained on: of a brick in a corner, both ways of turning."""
    brick = cube(0.2)
    brick = Mesh(
        brick.v_pos * torch.tensor([0.5, 1.0, 0.7]) + torch.tensor([0.1, -0.1, 0.15]), brick.t_pos_idx
    )
    camera = SixSides(((35.0, 45.0),)).sample(Generator(), 1, SIZE, SIZE)
    back = upright(camera)
    torch.testing.assert_close(back @ back.mT, torch.eye(3))
    turned = Mesh(brick.v_pos @ back.mT, brick.t_pos_idx)
    found, expected = (encode_sides(c, render_shape(m, c)) for m, c in ((brick, camera), (turned, CAMERAS)))
    assert float((found - expected).abs().amax(1).gt(1e-3).float().mean()) < 0.01  # but for its edges
    assert not torch.equal(encode_sides(CAMERAS, render_shape(brick, CAMERAS)), expected)
    assert torch.equal(upright(CAMERAS), torch.eye(3))  # the straight ones' maps keep their bits


def arch(width: float) -> Mesh:
    """A bowl upside down, of a wall that straight sides see from outside and from below alone."""
    grid = tetrahedral_grid(24, (-0.5,) * 3, (0.5,) * 3)
    x = grid.vertices
    outer = 0.4 - x.abs().amax(1)
    inner = torch.minimum(width - x[:, :2].abs().amax(1), 0.3 - x[:, 2])
    return marching_tetrahedra(x, torch.minimum(outer, -inner), grid)


def share_seen(mesh: Mesh, poses: SixSides) -> float:
    """Of the surface, by cameras that it does not lie edge-on to."""
    points, face = surface_points(mesh, 4000, 1)
    cameras, found = poses.sample(Generator(), 64, 256, 256), torch.zeros(4000, dtype=torch.bool)
    for i in range(len(cameras)):
        facing = (face_normals(mesh)[face] @ cameras.c2w[i, :3, 2]).abs() > 0.1
        found |= facing & seen(points.float(), mesh, cameras[i : i + 1])
    return float(found.float().mean())


def test_other_sixes_come_where_six_sides_see_too_little_and_only_there() -> None:
    spec = PriorSpec(poses=SixSides())
    assert standing(spec, cube(0.4)).poses == SixSides()
    bowl = arch(0.3)
    poses = standing(spec, bowl).poses
    assert isinstance(poses, SixSides) and poses.turns[0] == STRAIGHT and 2 <= len(poses.turns) <= MOST
    assert share_seen(bowl, SixSides()) < 0.75 and share_seen(bowl, poses) > 0.9
    assert standing(replace(spec, poses=PoseRange()), bowl).poses == PoseRange()


def test_what_no_six_sees_brings_no_other_sixes() -> None:
    """A cube in a cube."""
    outer, inner = cube(0.3), cube(0.1)
    places = torch.cat((outer.v_pos, inner.v_pos))
    both = Mesh(places, torch.cat((outer.t_pos_idx, inner.t_pos_idx + len(outer.v_pos))))
    assert standing(PriorSpec(poses=SixSides()), both).poses == SixSides()


def test_a_six_is_drawn_whole_and_with_one_nothing_is_drawn() -> None:
    draws, poses = Generator().manual_seed(3), SixSides((STRAIGHT, (35.0, 45.0)))
    state = draws.get_state()
    assert SixSides().sample(draws, 64, 8, 8) is SixSides().sample(draws, 1, 8, 8)
    assert torch.equal(draws.get_state(), state)
    each = [poses.sample(draws, 1, 8, 8) for _ in range(20)]
    straight, other = (SixSides((turn,)).sample(draws, 1, 8, 8) for turn in poses.turns)
    assert {id(one) for one in each} == {id(straight), id(other)}
    assert torch.equal(poses.sample(draws, 64, 8, 8).c2w, torch.cat((straight.c2w, other.c2w)))


def test_a_noise_level_s_timestep_is_the_one_that_it_was_trained_at() -> None:
    """The published schedule: the ratio of signal to noise divided by 8^(t / 999)."""
    for t in (0, 1, 250, 600, 999):
        snr = sigma_at(t) ** -2 * 8 ** (-t / 999)
        assert abs(shifted_timestep(snr**-0.5, 8.0) - t) < 1e-6
    assert shifted_timestep(sigma_at(300), 1.0) == 300
    assert shifted_timestep(0.001, 8.0) == 0 and shifted_timestep(1e4, 8.0) == 999
