"""What the stages pass on: a field, then the sdf of a tetrahedral grid, then a mesh; and the conversions between."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backend.config import NerfStage
from backend.errors import SceneError
from backend.kernels import rasterize_ids
from backend.kernels.hashgrid import GridLayout
from backend.scene import handover
from backend.scene.camera import Camera
from backend.scene.field import Backdrop, Field, Occupancy
from backend.scene.hollows import dig
from backend.scene.isosurface import TetGrid, marching_tetrahedra, tetrahedral_grid
from backend.scene.mesh import Mesh
from backend.scene.optimizer import adamw
from backend.scene.render_mesh import clip_positions, render_colour
from backend.scene.render_nerf import Sampling, render_views

SETTLE_PASSES = 4  # over the views that were seen
HALF_OPAQUE = 14.0  # per metre: 5 cm of it let half of the light through
LOOK = 512  # pixels a side of the views that find the faces that are seen


@dataclass(frozen=True)
class ReferenceViews:
    """Views of the finished field, over black: what its surface should look like from outside."""

    camera: Camera
    image: Tensor  # [K,H,W,3], premultiplied
    opacity: Tensor  # [K,H,W,1]


@dataclass(frozen=True)
class GridBox:
    """The arguments of `tetrahedral_grid`."""

    cells: int
    lower: tuple[float, ...]
    upper: tuple[float, ...]


@dataclass
class Scene:
    """What the stages pass on: the field, then the tetrahedra's sdf, then the mesh."""

    field: Field
    backdrop: Backdrop
    occupancy: Occupancy
    sampling: Sampling
    grid: TetGrid | None = None
    sdf: nn.Parameter | None = None  # [N], in cells, positive inside
    offsets: nn.Parameter | None = None  # [N,3], a vertex moves by half a cell times tanh of it
    mesh: Mesh | None = None  # the geometry of the texture and refine stages
    seen: ReferenceViews | None = None  # what the field looked like when its surface was taken
    box: GridBox | None = None  # what `grid` was built from
    mean_opacity: float = 0.5  # of stage 1's renders, running


def new_scene(settings: NerfStage, device: torch.device, seed: int) -> Scene:
    """A fresh field: a soft ball. Draws from torch's global generator inside a fork, by `seed`."""
    layout = GridLayout(
        settings.grid_levels, settings.grid_features, settings.grid_log2_size, finest=settings.grid_finest
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        field = Field(layout, settings.hidden, settings.half, settings.density_bias).to(device)
        backdrop = Backdrop(settings.hidden).to(device)
    step = 2 * 3**0.5 * settings.half / settings.samples
    sampling = Sampling(settings.samples, settings.budget, settings.near, settings.orientation_points)
    return Scene(field, backdrop, Occupancy(field, settings.occupancy, step), sampling)


def field_to_surface(scene: Scene, cameras: Camera, cells: int) -> float:
    """From density to the sdf of a tetrahedral grid round the object; the silhouettes' IoU at the threshold.

    The threshold is the field's own: the one whose silhouettes and distances agree best with those that
    `cameras` see. SceneError where no threshold gives a surface.
    """
    black = torch.zeros(3, device=scene.field.table.device)
    out = render_views(scene.field, scene.occupancy, cameras, black, scene.sampling)
    scene.seen = ReferenceViews(cameras, out.image, out.opacity)
    assert out.distance is not None
    seen = handover.Seen(cameras, out.opacity[..., 0], out.distance[..., 0])
    found = handover.field_to_sdf(scene.field.density, scene.field.extent, cells, seen)
    scene.grid, scene.box = found.grid, GridBox(cells, found.lower, found.upper)
    scene.sdf = nn.Parameter(found.sdf / found.grid.spacing)
    scene.offsets = nn.Parameter(torch.zeros_like(found.grid.vertices))
    scene.mesh = detached(surface(scene))
    return found.iou


def dig_hollows(scene: Scene, error_of: Callable[[Mesh], float]) -> None:
    """Hollows that are open upwards as deep and as wide as they look best; nothing changes where that is as they are.

    error_of  of a surface, how far it is from what it should look like
    """
    assert scene.sdf is not None and scene.grid is not None, "hand over first"
    grid = scene.grid
    before = scene.sdf.detach() * grid.spacing
    after = dig(before, grid, error_of)
    if after is not before:
        surface_after = marching_tetrahedra(grid.vertices, after, grid)
        scene.sdf = nn.Parameter(handover.signed_distances(after, surface_after, grid) / grid.spacing)
        scene.mesh = detached(surface(scene))


@torch.no_grad()
def dense_surface(scene: Scene, cells: int) -> Mesh:
    """Where the field is dense, or half as dense as it gets while it is still thin; closed at the box.

    Raises SceneError where there is nothing.
    """
    half, device = scene.field.extent, scene.field.table.device
    grid = tetrahedral_grid(cells, (-half,) * 3, (half,) * 3).to(device)
    density = torch.cat([scene.field.density(chunk) for chunk in grid.vertices.split(2**17)])
    threshold = min(HALF_OPAQUE, 0.5 * float(density.max()))
    level = (density.clamp(min=1e-6) / max(threshold, 1e-6)).log().clamp(-2, 2)
    return marching_tetrahedra(grid.vertices, torch.where(grid.border, level.clamp(max=-0.1), level), grid)


@torch.no_grad()
def seen_surface(scene: Scene, cameras: Camera, cells: int) -> None:
    """The mesh of a field that is inside out: the faces that the cameras see. SceneError where there are none."""
    black = torch.zeros(3, device=scene.field.table.device)
    out = render_views(scene.field, scene.occupancy, cameras, black, scene.sampling)
    scene.seen = ReferenceViews(cameras, out.image, out.opacity)
    whole = dense_surface(scene, cells)
    near = cameras.resized(LOOK, LOOK)
    seen = torch.zeros(len(whole.t_pos_idx), dtype=torch.bool, device=whole.v_pos.device)
    for i in range(len(near)):
        ids = rasterize_ids(clip_positions(whole.v_pos, near[i : i + 1]), whole.t_pos_idx, LOOK, LOOK)
        seen[ids[ids >= 0].long()] = True
    used, faces = whole.t_pos_idx[seen].unique(return_inverse=True)
    if not len(used):
        raise SceneError("The cameras see no surface.", "Try another seed or more iterations.")
    scene.mesh = Mesh(whole.v_pos[used], faces)


def settle_colours(scene: Scene, grid_rate: float, head_rate: float) -> None:
    """Teach the surface the colours that the field showed there.

    Rays end a little behind the isosurface, so the field's colours are right there and not on the
    surface itself, which would otherwise lose about 5 dB at the hand-over and again where 2a moves it.
    """
    assert scene.mesh is not None and scene.seen is not None, "hand over first"
    seen, field = scene.seen, scene.field
    black = torch.zeros(3, device=field.table.device)
    optimizer = adamw([([field.table], grid_rate), (field.colour_head.parameters(), head_rate)])
    for index in list(range(len(seen.camera))) * SETTLE_PASSES:
        view = slice(index, index + 1)
        out = render_colour(scene.mesh, None, seen.camera[view], black, field.albedo)
        solid = ((out.opacity > 0.5) & (seen.opacity[view] > 0.9)).float()
        target = seen.image[view] / seen.opacity[view].clamp(min=0.5)
        loss = (solid * (out.image - target)).square().sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def surface(scene: Scene) -> Mesh:
    """The isosurface as it stands, differentiable in sdf and offsets. SceneError where it has vanished."""
    assert scene.grid is not None and scene.sdf is not None and scene.offsets is not None, "hand over first"
    grid = scene.grid
    vertices = grid.vertices + 0.45 * grid.spacing * torch.tanh(scene.offsets)
    inside = torch.where(grid.border, scene.sdf.clamp(max=-0.1), scene.sdf)  # the surface stays closed
    return marching_tetrahedra(vertices, inside * grid.spacing, grid)


def detached(mesh: Mesh) -> Mesh:
    return dataclasses.replace(mesh, v_pos=mesh.v_pos.detach())
