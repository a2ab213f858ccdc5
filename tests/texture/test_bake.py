"""What is baked reads back: colours, seams and gutters."""

import time

import pytest
import torch

from backend.errors import InputError
from backend.kernels import rasterize_ids
from backend.kernels.raster import fragments, interpolate
from backend.scene.camera import orbit
from backend.scene.isosurface import marching_tetrahedra, tetrahedral_grid
from backend.scene.mesh import Mesh, face_cross
from backend.texture import bake as baking
from backend.texture.bake import (
    bake,
    border_points,
    dilate,
    nearest_texel,
    polish,
    random_points,
    sample_texture,
    texels_of,
)
from backend.texture.charts import cube_charts, single_triangles
from backend.texture.packing import pack

SIZE = 256


def ball(cells):
    grid = tetrahedral_grid(cells, (-0.5,) * 3, (0.5,) * 3)
    return marching_tetrahedra(grid.vertices, 0.4 - grid.vertices.norm(dim=1), grid)


@pytest.fixture(scope="module")
def charted():
    mesh = ball(10)
    v_pos, tri = mesh.v_pos.numpy(), mesh.t_pos_idx.numpy()
    v_tex, t_tex_idx = pack(v_pos, tri, cube_charts(v_pos, tri, SIZE), SIZE, 4)
    return Mesh(mesh.v_pos, mesh.t_pos_idx, torch.from_numpy(v_tex), torch.from_numpy(t_tex_idx))


@pytest.fixture(scope="module")
def shredded():
    """Each triangle a chart of its own: nothing but seams."""
    mesh = ball(6)
    v_tex, t_tex_idx = single_triangles(len(mesh.t_pos_idx), SIZE, 4)
    return Mesh(mesh.v_pos, mesh.t_pos_idx, torch.from_numpy(v_tex), torch.from_numpy(t_tex_idx))


def smooth(position):
    return 0.5 + 0.5 * torch.sin(position * torch.tensor([7.0, 8.0, 9.0]) + torch.tensor([0.0, 1, 2]))


def checkers(position):
    return ((position * 5).floor().sum(1, keepdim=True) % 2).expand(-1, 3) * 0.8 + 0.1


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def error(texture, mesh, points, colour):
    return (sample_texture(texture, points.uv(mesh)) - colour(points.position(mesh))).abs().amax(1)


@pytest.mark.parametrize("which", ["charted", "shredded"])
def test_a_smooth_colour_reads_back_everywhere_seams_included(which, request):
    mesh = request.getfixturevalue(which)
    texture = bake(mesh, smooth, SIZE)
    assert texture.shape == (SIZE, SIZE, 3) and texture.dtype == torch.float32
    start = time.perf_counter()
    polished = polish(texture, mesh, smooth, generator())
    print(f"{which}: polished in {time.perf_counter() - start:.2f} s")
    anywhere, border = random_points(mesh, 20000, generator(1)), border_points(mesh, SIZE)
    assert error(texture, mesh, anywhere, smooth).mean() < 5e-3
    assert error(texture, mesh, border, smooth).max() < 0.1
    assert error(polished, mesh, anywhere, smooth).mean() < 2e-3
    assert error(polished, mesh, border, smooth).mean() < 2e-3
    assert error(polished, mesh, border, smooth).max() < 0.03
    assert error(polished, mesh, border, smooth).mean() < 0.5 * error(texture, mesh, border, smooth).mean()


def test_checkers_read_back_but_at_their_own_edges(charted):
    texture = bake(charted, checkers, 2 * SIZE)
    points = random_points(charted, 20000, generator())
    wrong = error(texture, charted, points, checkers) > 0.1
    to_edge = (points.position(charted) * 5 - (points.position(charted) * 5).round()).abs().amin(1) / 5
    assert not wrong[to_edge > 0.01].any()  # two texels


def test_both_sides_of_a_seam_agree(charted):
    """The same point of a seam is looked up in both charts that meet there."""
    texture = polish(bake(charted, smooth, SIZE), charted, smooth, generator())
    tri = charted.t_pos_idx
    start, end = tri, tri.roll(-1, 1)
    key = torch.minimum(start, end) * len(charted.v_pos) + torch.maximum(start, end)
    order = key.flatten().argsort(stable=True).view(-1, 2)  # a closed mesh: each edge twice
    face, corner = order // 3, order % 3
    uv_start = charted.v_tex[charted.t_tex_idx[face, corner]]
    uv_end = charted.v_tex[charted.t_tex_idx[face, (corner + 1) % 3]]
    middle = (uv_start + uv_end) / 2
    seam = (middle[:, 0] - middle[:, 1]).norm(dim=1) > 1 / SIZE
    assert seam.sum() > 50
    one, other = (sample_texture(texture, middle[seam, side]) for side in (0, 1))
    assert (one - other).abs().mean() < 2 / 255


@pytest.mark.parametrize("which", ["charted", "shredded"])
def test_no_texel_of_the_gutter_is_visible_from_any_view(which, request):
    mesh = request.getfixturevalue(which)
    texels = texels_of(mesh, SIZE)
    gutter = torch.ones(SIZE * SIZE, 1)
    gutter[texels.index] = 0
    assert gutter.sum() > 1000
    gutter = gutter.view(SIZE, SIZE, 1)
    everywhere = random_points(mesh, 100000, generator())
    assert sample_texture(gutter, everywhere.uv(mesh)).max() <= 1e-4
    assert sample_texture(gutter, border_points(mesh, SIZE).uv(mesh)).max() <= 1e-4
    azimuth = torch.tensor([0.0, 60, 120, 180, 240, 300, 0, 0])
    elevation = torch.tensor([10.0, -10, 30, 0, 45, -30, 90, -90])
    views = orbit(azimuth, elevation, torch.full((8,), 1.2), torch.full((8,), 45.0), 96, 96)
    for mvp in views.mvp:
        clip = torch.nn.functional.pad(mesh.v_pos, (0, 1), value=1.0) @ mvp.T
        seen = fragments(clip, mesh.t_pos_idx, rasterize_ids(clip, mesh.t_pos_idx, 96, 96))
        uv = interpolate(mesh.v_tex, mesh.t_tex_idx, seen)
        assert len(uv) > 1000
        assert sample_texture(gutter, uv).max() <= 1e-4


def test_no_texel_keeps_a_fill_colour(charted):
    texture = bake(charted, lambda p: 0.4 + 0.5 * torch.rand(p.shape, generator=generator()), 128)
    assert texture.min() >= 0.4


def test_the_gutter_holds_its_nearest_texel():
    mesh = Mesh(
        torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]),
        torch.tensor([[0, 1, 2]]),
        torch.tensor([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75]]),
        torch.tensor([[0, 1, 2]]),
    )
    texels = texels_of(mesh, 16)
    values = torch.arange(len(texels.index), dtype=torch.float32)[:, None]
    texture = dilate(values, texels)
    assert torch.equal(texture.flatten()[texels.index], values[:, 0])
    column = texels.index % 16 == 3  # the triangle's left border, its outer side
    rows = (texels.index // 16)[column]
    assert torch.equal(texture[rows, 0, 0], values[column, 0])


def test_row_0_is_v_1_and_column_0_is_u_0():
    quad = Mesh(
        torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1]]),
        torch.tensor([[0, 1, 2], [0, 2, 3]]),
        torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]]),
        torch.tensor([[0, 1, 2], [0, 2, 3]]),
    )
    texture = bake(quad, lambda p: p, 8)  # red is x = u, blue is z = v
    centres = (torch.arange(8) + 0.5) / 8
    assert torch.allclose(texture[..., 0], centres.expand(8, 8), atol=1e-5)
    assert torch.allclose(texture[..., 2], centres.flip(0)[:, None].expand(8, 8), atol=1e-5)
    uv = torch.tensor([[0.3, 0.8], [0.5, 0.5], [0.0, 1.0], [1.0, 0.0]])
    read = sample_texture(texture, uv)
    assert torch.allclose(read[:2, [0, 2]], uv[:2], atol=1e-5)
    assert torch.allclose(read[2:, [0, 2]], torch.tensor([[1, 15], [15, 1]]) / 16, atol=1e-5)


def test_looking_up_is_differentiable_in_texture_and_uv():
    texture = torch.rand(5, 5, 2, generator=generator(), dtype=torch.double).requires_grad_()
    uv = (0.2 + 0.6 * torch.rand(9, 2, generator=generator(), dtype=torch.double)).requires_grad_()
    assert torch.autograd.gradcheck(sample_texture, (texture, uv))


def test_random_points_are_spread_by_area(charted):
    points = random_points(charted, 50000, generator())
    area = face_cross(charted).norm(dim=1)
    assert (points.bary >= 0).all() and torch.allclose(points.bary.sum(1), torch.ones(50000))
    share = torch.bincount(points.face, minlength=len(area)).float() / 50000
    assert (share - area / area.sum()).abs().max() < 1e-3
    assert points.position(charted).mean(0).abs().max() < 0.01


def test_the_same_seed_gives_the_same_texture(charted):
    texture = bake(charted, smooth, 128)
    assert torch.equal(texture, bake(charted, smooth, 128))
    first, second = (polish(texture, charted, smooth, generator(3)) for _ in range(2))
    assert torch.equal(first, second)


def test_a_map_that_covers_nothing_is_an_error():
    mesh = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]), torch.full((3, 2), 5.0), torch.tensor([[0, 1, 2]]))
    with pytest.raises(InputError, match="covers nothing") as caught:
        bake(mesh, smooth, 16)
    assert caught.value.todo


def test_parts_change_no_byte(charted, monkeypatch):
    """A texture of 8,192 pixels is looked at in parts; as many as it takes, texels and their colours are the same."""
    whole = [texels_of(charted, 64), bake(charted, smooth, 64)]
    monkeypatch.setattr(baking, "CHUNK", 100)
    monkeypatch.setattr(baking, "STRIP", 64 * 5)
    parts = [texels_of(charted, 64), bake(charted, smooth, 64)]
    assert torch.equal(whole[1], parts[1]) and torch.equal(whole[0].index, parts[0].index)
    assert torch.equal(whole[0].points.face, parts[0].points.face)
    assert torch.equal(whole[0].points.bary, parts[0].points.bary)


def test_the_nearest_texel_is_the_nearest():
    empty = torch.rand(9, 9, generator=generator()) < 0.8
    full = (~empty).nonzero().float()
    found = torch.from_numpy(nearest_texel(empty.numpy())).view(9, 9)
    for row, column in torch.cartesian_prod(torch.arange(9), torch.arange(9)).tolist():
        taken = torch.tensor([found[row, column] // 9, found[row, column] % 9]).float()
        here = torch.tensor([row, column]).float()
        assert (taken - here).norm() == (full - here).norm(dim=1).min()


def test_a_view_that_shows_nothing_of_a_mesh_asks_for_no_texel() -> None:
    assert sample_texture(torch.rand(4, 4, 3), torch.zeros(0, 2)).shape == (0, 3)
