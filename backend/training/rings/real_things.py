"""Albums of rings of real things: models of the package, fitted into the ball, drawn under the procedural sky."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from backend.kernels import rasterize_ids
from backend.kernels.raster import fragments
from backend.meshes.obj import read_obj
from backend.objects.kinds import COLOURS
from backend.objects.shapes import RADIUS, ball_centre
from backend.objects.sphere_trace import sky_shade
from backend.scene.camera import Camera
from backend.scene.render_mesh import clip_positions
from backend.training.dataset import kept
from backend.training.rings.furniture import Furniture, find_furniture, held_out_instances
from backend.training.rings.rings import RING_SIZE, RINGS_A_THING, RingAlbum, ring_cameras
from dreamflow_blender.contract.language.vocabulary import MADE
from dreamflow_blender.contract.meshfile import BadMeshFile

FINE = 3  # rays along a side of a pixel
TEXELS = 128  # a texture is made as small as this: a model is 64 pixels wide
MOST_FACES = 150_000
CREASE = 0.75  # cosine to a corner's mean normal under which a face keeps its own
ALIKE = 0.12  # materials whose mean colours are this near belong to the body together
HUES = 0.10  # deviation of the chroma within the body above which it is a painting, not a colour
DARKEST, MIDDLE = 0.25, 0.8  # a tinted body's shade: at least, and where its mean goes
GREY = 13.0  # CIELAB chroma under which a colour is black, grey or white
NEAR, CLEAR = 38.0, 5.0  # CIELAB distance of a colour's word: at most, and less than the next word's by
SEE_THROUGH = 0.5  # alpha of a texture under which nothing is drawn
WOOD = re.compile(r"wood|oak|pine|teak|teck|walnut|alder|mahogany|bois|madera|legno|holz|roble|birch", re.I)
METAL = re.compile(r"iron|metal|steel|chrome|alumin", re.I)


@dataclass(frozen=True)
class Model:
    """A real thing in the ball of RADIUS round the origin, facing -Y.

    v_pos [V,3], tri [F,3] int64, normal [F,3,3] at the corners, uv [F,3,2], material [F] int64,
    colours  a [3] colour or a [4,h,w] texture a material
    words    what its author called each material
    """

    v_pos: Tensor
    tri: Tensor
    normal: Tensor
    uv: Tensor
    material: Tensor
    colours: list[Tensor]
    words: list[str]


def open_real_albums(
    furniture: Path,
    cache: Path,
    kinds: Collection[str],
    held: bool = False,
    count: int = RINGS_A_THING,
    size: int = RING_SIZE,
) -> list[RingAlbum]:
    """Albums of these kinds' models but the held-out ones, or of these alone; drawn once and kept in `cache`.

    Of a kind that has a procedural object too, those whose material has a word: by a colour both would be asked for.
    """
    found = find_furniture(furniture)
    out = held_out_instances(found)
    albums = (
        open_real_album(item, cache, count, size)
        for item in found
        if item.kind in kinds and (item.id in out) == held
    )
    return [a for a in albums if a is not None and (a.kind not in MADE or a.material is not None)]


def open_real_album(item: Furniture, cache: Path, count: int, size: int) -> RingAlbum | None:
    """One model's album; None where the model cannot be read or has too many faces."""
    safe = re.sub(r"[^\w-]+", "_", item.id)
    path = cache / f"rings-{item.kind}-{safe}-{count}-{size}.safetensors"

    def make() -> dict[str, Tensor]:
        try:
            model = read_model(item)
        except BadMeshFile:
            return {"none": torch.zeros(1)}
        seed = sum(item.id.encode()) * 7919
        return draw_album(model, item, ring_cameras(count, Generator().manual_seed(seed), size))

    maps = kept(path, make)
    if "none" in maps:
        return None
    chosen = maps.pop("words").tolist()
    colour = list(COLOURS)[chosen[0]] if chosen[0] >= 0 else None
    material = {1: "wooden", 2: "metal"}.get(chosen[1])
    return RingAlbum(item.kind, **maps, tint=bool(chosen[2]), colour=colour, material=material)


def read_model(item: Furniture) -> Model:
    """Raises BadMeshFile."""
    prefix = item.model.rsplit("/", 1)[0] + "/"
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(item.archive) as archive:
        for name in archive.namelist():
            if name.startswith(prefix) and ".." not in name:
                archive.extract(name, folder)
        read = read_obj(Path(folder) / item.model, [])
    if len(read.t_pos_idx) > MOST_FACES:
        raise BadMeshFile(f"{item.id} has {len(read.t_pos_idx)} faces.")
    tri = torch.from_numpy(read.t_pos_idx).long()
    used, tri = tri.unique(return_inverse=True)
    v = torch.from_numpy(read.v_pos)[used].double()
    v = upright(v, item)
    v = (v - ball_centre(v, 200)).float()
    v = v * (RADIUS / v.norm(dim=1).max())
    corner = v[tri]
    face = torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    whole = face.norm(dim=1) > 0
    mean = torch.zeros_like(v).index_add_(0, tri.reshape(-1), face.repeat_interleave(3, 0))
    mean, face = (functional.normalize(n, dim=1) for n in (mean, face))
    smooth = (mean[tri] * face[:, None]).sum(2, keepdim=True) > CREASE
    normal = torch.where(smooth, mean[tri], face[:, None].expand(-1, 3, -1))
    uv = torch.from_numpy(read.uv) if len(read.uv) else torch.zeros(len(tri), 3, 2)
    colours = []
    for base, image in zip(read.base, read.image, strict=True):
        colours.append(_texture(read.images[image]) if image >= 0 else torch.from_numpy(base[:3].copy()))
    material = torch.from_numpy(read.material).long()
    return Model(v, tri[whole], normal[whole], uv[whole], material[whole], colours, read.names.tolist())


def upright(v: Tensor, item: Furniture) -> Tensor:
    """The catalogue's rotation and size; v [V,3] in Blender's axes (x, -z, y of the OBJ)."""
    to_obj = v.new_tensor(((1, 0, 0), (0, 0, 1), (0, -1, 0)))
    turn = to_obj.T @ v.new_tensor(item.rotation).view(3, 3) @ to_obj
    v = v @ turn.T
    extent = (v.amax(0) - v.amin(0)).clamp(min=1e-9)
    return v * (v.new_tensor(item.size) / extent)


def _texture(image: np.ndarray) -> Tensor:
    """[4,h,w] in [0,1], no side longer than TEXELS."""
    texels = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    size = [min(TEXELS, side) for side in texels.shape[1:]]
    return functional.interpolate(texels[None], size, mode="area")[0]


def draw_album(model: Model, item: Furniture, cameras: Camera) -> dict[str, Tensor]:
    """The maps of a RingAlbum, and `words`: its colour's number (-1: none), its material's, may it be tinted."""
    size = cameras.height
    fine = cameras.resized(FINE * size, FINE * size)
    views = [draw_view(model, fine[i : i + 1]) for i in range(len(fine))]
    body, mean, tint = find_body(model, views)
    rows: list[dict[str, Tensor]] = []
    light = mean @ LUMINANCE
    for view in views:
        in_body = body[view.material]
        level = (view.colour @ LUMINANCE / light.clamp(min=0.02) * MIDDLE).clamp(DARKEST, 1)
        lit = sky_shade(view.normal)
        columns = torch.cat(
            (
                (level * in_body)[:, None] * lit,
                torch.ones_like(lit),
                view.turned,
                view.colour * lit * ~in_body[:, None],
                view.colour * lit,
            ),
            1,
        )
        image = columns.new_zeros(fine.height * fine.width, columns.shape[1]).index_copy_(
            0, view.pixel, columns
        )
        image = image.view(fine.height, fine.width, -1).permute(2, 0, 1)
        image = functional.avg_pool2d(image, FINE)
        encoded = (functional.normalize(image[2:5], dim=0) * 0.5 + 0.5) * (image[1:2] > 0)
        rows.append(
            {
                "shade": image[:1],
                "alpha": image[1],
                "normal": encoded,
                "fixed": image[5:8],
                "made": image[8:11],
            }
        )
    parts = [word for word, part in zip(model.words, body.tolist(), strict=True) if part]
    called = " ".join([item.name, item.id, *parts])
    words = torch.tensor([colour_number(mean), material_number(called, mean), int(tint)])
    maps = {name: torch.stack([row[name] for row in rows]) * 255 for name in rows[0]}
    bytes_of = {name: values.round().clamp(0, 255).to(torch.uint8) for name, values in maps.items()}
    return bytes_of | {"c2w": cameras.c2w, "words": words}


LUMINANCE = torch.tensor((0.299, 0.587, 0.114))


@dataclass(frozen=True)
class Hits:
    """The P covered pixels of a view: pixel, material [P] int64; colour, world normal, camera-space normal [P,3]."""

    pixel: Tensor
    material: Tensor
    colour: Tensor
    normal: Tensor
    turned: Tensor


@torch.no_grad()
def draw_view(model: Model, camera: Camera) -> Hits:
    """What one camera sees; normals face it, whichever way the model's triangles are wound."""
    clip = clip_positions(model.v_pos, camera)
    tri = model.tri.int()
    ids = rasterize_ids(clip, tri, camera.height, camera.width)
    hit = fragments(clip, tri, ids)
    bary = hit.bary[:, :, None]
    position = (model.v_pos[model.tri[hit.face]] * bary).sum(1)
    normal = functional.normalize((model.normal[hit.face] * bary).sum(1), dim=1)
    away = ((position - camera.position) * normal).sum(1, keepdim=True) > 0
    normal = torch.where(away, -normal, normal)
    uv = (model.uv[hit.face] * bary).sum(1)
    material = model.material[hit.face]
    colour, solid = torch.zeros_like(normal), torch.ones(len(normal), dtype=torch.bool)
    for number, source in enumerate(model.colours):
        rows = (material == number).nonzero()[:, 0]
        if source.ndim == 1:
            colour[rows] = source
            continue
        texels = _look_up(source, uv[rows])
        colour[rows], solid[rows] = texels[:, :3], texels[:, 3] > SEE_THROUGH
    turned = normal @ camera.c2w[0, :3, :3]
    return Hits(hit.pixel[solid], material[solid], colour[solid], normal[solid], turned[solid])


def _look_up(texture: Tensor, uv: Tensor) -> Tensor:
    """[P,4]: the texture's nearest texels, repeated outside the square; row 0 is at v = 1."""
    _, h, w = texture.shape
    column = (uv[:, 0] * w).floor().long() % w
    row = ((1 - uv[:, 1]) * h).floor().long() % h
    return texture[:, row, column].T


def find_body(model: Model, views: list[Hits]) -> tuple[Tensor, Tensor, bool]:
    """Which materials are the body [M] bool (the most seen, and those like it), its mean colour, may it be tinted."""
    material = torch.cat([view.material for view in views])
    colour = torch.cat([view.colour for view in views])
    count = torch.zeros(len(model.colours)).index_add_(0, material, torch.ones(len(material)))
    mean = torch.zeros(len(model.colours), 3).index_add_(0, material, colour) / count.clamp(min=1)[:, None]
    body = (mean - mean[count.argmax()]).norm(dim=1) < ALIKE
    seen = colour[body[material]]
    chroma = seen - (seen @ LUMINANCE)[:, None]
    return body, seen.mean(0), float(chroma.std(0).norm()) < HUES


def colour_number(rgb: Tensor) -> int:
    """The row of the COLOURS' word that fits a colour [3], or -1. No pale blue is grey, and no beige white."""
    known, lab = _lab(torch.tensor(list(COLOURS.values()))), _lab(rgb[None])
    away = (known - lab).norm(dim=1)
    grey = known[:, 1:].norm(dim=1) < GREY
    away = away.masked_fill(grey != bool(lab[0, 1:].norm() < GREY), torch.inf)
    order = away.argsort()
    fits = float(away[order[0]]) < NEAR and float(away[order[1]] - away[order[0]]) > CLEAR
    return int(order[0]) if fits else -1


def material_number(called: str, mean: Tensor) -> int:
    """1 wooden, 2 metal, 0 neither: what its author called it and its body, where the body has such a colour."""
    lab = _lab(mean[None])[0]
    if WOOD.search(called) and float(lab[2]) > 8 and float(lab[1]) > -8:
        return 1
    return 2 if METAL.search(called) and float(lab[1:].norm()) < GREY else 0


def _lab(rgb: Tensor) -> Tensor:
    """sRGB [N,3] in [0,1] to CIELAB, D65."""
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    to_xyz = rgb.new_tensor(((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)))
    xyz = linear @ to_xyz.T / rgb.new_tensor((0.9505, 1.0, 1.089))
    f = torch.where(xyz > 0.008856, xyz.clamp(min=1e-9) ** (1 / 3), 7.787 * xyz + 16 / 116)
    return torch.stack((116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])), 1)
