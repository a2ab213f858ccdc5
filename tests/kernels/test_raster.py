"""Rasterisation: exact coverage, agreement between implementations, gradients."""

from __future__ import annotations

import importlib
import sys
import types

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from backend.kernels import raster
from backend.scene.camera import orbit, rays
from tests.tools import strict_nvdiffrast

warp_raster = pytest.importorskip("backend.kernels.raster_warp", reason="Warp is not installed")


def bumpy_sphere(subdivisions: int, bump: float = 0.1) -> tuple[Tensor, Tensor]:
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.5)
    v = torch.tensor(mesh.vertices, dtype=torch.float32)
    return v * (1 + bump * torch.sin(v * 20).prod(1, keepdim=True)), torch.tensor(np.asarray(mesh.faces))


def clip(v: Tensor, azimuth: float = 30.0, distance: float = 2.0, size: int = 64) -> Tensor:
    camera = orbit(*(torch.tensor([a]) for a in (azimuth, 20.0, distance, 40.0)), size, size)
    return torch.cat((v, torch.ones_like(v[:, :1])), 1) @ camera.mvp[0].T


def square(x0: float, y0: float, x1: float, y1: float, size: int) -> tuple[Tensor, Tensor]:
    """Two triangles over a box given in pixels."""
    xy = torch.tensor([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) / size * 2 - 1
    return torch.cat((xy, torch.zeros(4, 1), torch.ones(4, 1)), 1), torch.tensor([[0, 1, 2], [0, 2, 3]])


@pytest.mark.parametrize("implementation", [raster, warp_raster])
def test_a_square_covers_exactly_its_pixels(implementation: types.ModuleType) -> None:
    pos, tri = square(3.25, 5.5, 9.75, 12.0, 16)
    expected = torch.full((16, 16), False)
    expected[5:12, 3:10] = True  # centres at 3.5 .. 9.5 and, edges being inclusive, 5.5 .. 11.5
    for turned in (tri, tri.flip(1)):  # nothing is culled
        ids = implementation.rasterize_ids(pos, turned, 16, 16)
        assert ids.dtype == torch.int32
        assert torch.equal(ids >= 0, expected)


@pytest.mark.parametrize("size", [32, 75, 256])
@pytest.mark.parametrize("subdivisions", [1, 4])
def test_torch_and_warp_agree_on_spheres(size: int, subdivisions: int) -> None:
    v, tri = bumpy_sphere(subdivisions)
    pos = clip(v)
    ids = raster.rasterize_ids(pos, tri, size, size + 7)
    assert (ids >= 0).any()
    assert torch.equal(ids, warp_raster.rasterize_ids(pos, tri.int(), size, size + 7))


@pytest.mark.parametrize("scale", [0.02, 0.3, 5.0])
def test_torch_and_warp_agree_on_soups_with_ties(scale: float) -> None:
    g = torch.Generator().manual_seed(int(scale * 100))
    centre, corner = (torch.rand(n, 3, generator=g) * 2 - 1 for n in (300, 900))
    xyz = centre.repeat_interleave(3, 0) + scale * corner
    w = torch.rand(900, 1, generator=g) * 2 - 0.2  # some are behind the camera
    pos = torch.cat((xyz * w, w), 1)
    tri = torch.arange(900).view(300, 3)
    tri = torch.cat((tri, tri, tri.roll(1, 1)))  # each triangle thrice: every pixel is a tie
    ids = raster.rasterize_ids(pos, tri, 64, 96)
    assert torch.equal(ids, warp_raster.rasterize_ids(pos, tri, 64, 96))
    assert (ids >= 0).any()
    assert not ((ids >= 300) & (ids < 600)).any()  # a turned copy may win by a rounding, an exact one never


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    v, tri = bumpy_sphere(2)
    whole = raster.rasterize_ids(clip(v), tri, 64, 64)
    monkeypatch.setattr(raster, "CHUNK", 37)
    assert torch.equal(whole, raster.rasterize_ids(clip(v), tri, 64, 64))


@pytest.mark.parametrize("implementation", [raster, warp_raster])
def test_no_cracks_between_neighbours(implementation: types.ModuleType) -> None:
    g = torch.Generator().manual_seed(0)
    n = 24
    y, x = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    xy = torch.stack((x, y), -1) / (n - 1) * 2.2 - 1.1
    inner = (xy.abs() < 1.05).all(-1, keepdim=True)
    xy = (xy + inner * (torch.rand(n, n, 2, generator=g) - 0.5) * 0.04).view(-1, 2)
    pos = torch.cat((xy, torch.zeros(n * n, 1), torch.ones(n * n, 1)), 1)
    a = (y[:-1, :-1] * n + x[:-1, :-1]).reshape(-1)
    tri = torch.cat((torch.stack((a, a + 1, a + n), 1), torch.stack((a + 1, a + n + 1, a + n), 1)))
    for size in (48, 301):
        assert (implementation.rasterize_ids(pos, tri, size, size) >= 0).all()


@pytest.mark.parametrize("implementation", [raster, warp_raster])
def test_odd_meshes(implementation: types.ModuleType) -> None:
    draw = implementation.rasterize_ids
    pos, tri = square(2, 2, 6, 6, 8)
    nothing = torch.full((8, 8), -1, dtype=torch.int32)
    assert torch.equal(draw(pos, tri[:0], 8, 8), nothing)
    assert torch.equal(draw(pos[:0], tri[:0], 8, 8), nothing)
    assert torch.equal(draw(pos, torch.tensor([[0, 1, 1], [2, 2, 2]]), 8, 8), nothing)
    assert torch.equal(draw(-pos, tri, 8, 8), nothing), "behind the camera"
    for bad in (torch.nan, torch.inf):
        broken = pos.clone()
        broken[1, 0] = bad
        assert set(draw(broken, tri, 8, 8).unique().tolist()) == {-1, 1}, "only its own triangle goes"
    outside = pos.clone()
    outside[:, 2] = 1.5
    assert torch.equal(draw(outside, tri, 8, 8), nothing), "beyond the far plane"
    huge, tri = square(-3e5, -2e6, 4e5, 5e6, 8)
    assert (draw(huge, tri, 8, 8) >= 0).all()


def test_fragments_agree_with_ray_casting() -> None:
    v, tri = bumpy_sphere(3)
    camera = orbit(*(torch.tensor([a]) for a in (75.0, 20.0, 1.4, 60.0)), 48, 64)
    pos = torch.cat((v, torch.ones_like(v[:, :1])), 1) @ camera.mvp[0].T
    frags = raster.fragments(pos, tri, raster.rasterize_ids(pos, tri, 48, 64))
    seen = raster.interpolate(v, tri, frags)
    origin, direction = (r[0].reshape(-1, 3)[frags.pixel].double() for r in rays(camera))
    a, b, c = v[tri[frags.face]].double().unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    t = ((a - origin) * normal).sum(1) / (direction * normal).sum(1)
    assert len(t) > 500
    # a triangle seen edge-on has no well-defined hit
    hit = origin + t[:, None] * direction
    facing = (torch.nn.functional.normalize(normal, dim=1) * direction).sum(1).abs() > 0.1
    assert (seen - hit)[facing].abs().max() < 1e-5
    clipped = torch.cat((hit, torch.ones_like(hit[:, :1])), 1) @ camera.mvp[0].double().T
    assert ((clipped[:, 2] / clipped[:, 3]) - frags.depth)[facing].abs().max() < 1e-5
    depth = raster.depth_image(frags)
    assert torch.equal(depth.isinf(), raster.scatter(torch.ones(len(t), 1), frags, 0.0)[..., 0] == 0)


def test_gradients_are_those_of_finite_differences() -> None:
    v, tri = bumpy_sphere(1)
    pos = clip(v).double()
    ids = raster.rasterize_ids(pos, tri, 12, 12)
    frags = raster.fragments(pos, tri, ids)
    inner = (frags.bary > 0.02).all(1)  # the clamp begins at an edge
    attribute = torch.rand(len(v), 2, generator=torch.Generator().manual_seed(0)).double()

    def shade(pos: Tensor, attribute: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        frags = raster.fragments(pos, tri, ids)
        return frags.bary[inner], frags.depth[inner], raster.interpolate(attribute, tri, frags)[inner]

    assert inner.sum() > 20
    assert torch.autograd.gradcheck(
        shade, (pos.requires_grad_(), attribute.requires_grad_()), eps=1e-7, atol=1e-4
    )


def test_gradients_are_deterministic_and_finite_at_edge_on_triangles() -> None:
    v, tri = bumpy_sphere(4, bump=0.3)
    pos = clip(v, size=128).requires_grad_()
    gradients = []
    torch.use_deterministic_algorithms(True)
    for _ in range(3):
        ids = raster.rasterize_ids(pos, tri, 128, 128)
        frags = raster.fragments(pos, tri, ids)
        image = raster.scatter(raster.interpolate(v, tri, frags), frags, 0.5)
        gradients.append(torch.autograd.grad(image.square().sum() + frags.depth.sum(), pos)[0])
    torch.use_deterministic_algorithms(False)
    assert gradients[0].isfinite().all()
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


def test_scatter_over_a_background() -> None:
    pos, tri = square(0, 0, 2, 1, 2)
    frags = raster.fragments(pos, tri, raster.rasterize_ids(pos, tri, 2, 2))
    background = torch.tensor([[0.1], [0.2], [0.3], [0.4]], requires_grad=True)
    values = torch.full((2, 1), 9.0, requires_grad=True)
    image = raster.scatter(values, frags, background)
    assert torch.equal(image[..., 0], torch.tensor([[9.0, 9.0], [0.3, 0.4]]))
    image.sum().backward()
    assert background.grad[:, 0].tolist() == [0, 0, 1, 1]
    assert values.grad[:, 0].tolist() == [1, 1]


def test_nvdiffrast_is_called_as_it_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    c = strict_nvdiffrast.install(monkeypatch, card="cpu")
    adapter = importlib.import_module("backend.kernels.raster_nvdiffrast")
    v, tri = bumpy_sphere(2)
    pos = clip(v)
    for p, t in ((pos, tri), (pos.double(), tri.int()), (pos.t().contiguous().t(), tri.flip(1))):
        ids = adapter.rasterize_ids(p, t, 32, 48)
        assert ids.dtype == torch.int32
        assert torch.equal(ids >= 0, raster.rasterize_ids(pos, tri, 32, 48) >= 0)
    assert torch.equal(adapter.rasterize_ids(pos, tri, 32, 48), raster.rasterize_ids(pos, tri, 32, 48))
    shifted = torch.cat((pos.new_zeros(1), pos.flatten()))[1:].view(-1, 4)  # not on a float4's address
    assert torch.equal(adapter.rasterize_ids(shifted, tri, 32, 48), raster.rasterize_ids(pos, tri, 32, 48))
    assert torch.equal(adapter.rasterize_ids(pos, tri[:0], 4, 4), torch.full((4, 4), -1, dtype=torch.int32))
    assert c.RasterizeCRStateWrapper.made == 1, "a context is expensive"
    sys.modules.pop("backend.kernels.raster_nvdiffrast")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["raster", "raster_warp", "raster_nvdiffrast"])
def test_cuda_agrees_with_the_cpu(name: str) -> None:
    if name == "raster_nvdiffrast":
        pytest.importorskip("nvdiffrast.torch", reason="nvdiffrast is not installed")
    implementation = importlib.import_module(f"backend.kernels.{name}")
    v, tri = bumpy_sphere(4)
    pos = clip(v)
    ids = raster.rasterize_ids(pos, tri, 256, 256)
    cuda = implementation.rasterize_ids(pos.cuda(), tri.cuda(), 256, 256).cpu()
    if name == "raster_nvdiffrast":  # coarser snapping, other ties
        assert (ids != cuda).float().mean() < 0.01
        assert ((ids >= 0) != (cuda >= 0)).float().mean() < 0.002
    else:
        # corners are projected on the device: the last bit of a division by w may differ
        assert (ids != cuda).float().mean() < 1e-4
