"""The embedded prior's training data: pictures of the procedural objects and their captions, generated.

A view is kept as one map a part, not as a picture: image = sum_p colour_p shade_p + (1 - alpha) background
is linear in the colours, so any colouring of a view before any background costs one product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Generator, Tensor
from torch.nn import functional

from backend.diffusion.prior import Backgrounds, PoseRange
from backend.diffusion.view_words import COMPASS, view_words
from backend.files import write_bytes
from backend.jobs.priors import built_in
from backend.objects.kinds import COLOURS
from backend.objects.shapes import Shape, build
from backend.objects.sphere_trace import gbuffer, shade, sky_shade
from backend.scene.camera import Camera
from backend.weights.layout import read_json
from dreamflow_blender.contract.language.reading import Description, describe
from dreamflow_blender.contract.language.vocabulary import MADE, THINGS

# What the first edition is shown, easiest first; rings go on from there with all kinds.
FIRST_KINDS = (
    "ball", "mushroom", "duck", "mug", "rocket", "bottle", "donut", "tree", "cone", "teapot",
)  # fmt: skip
# What the shipped model offers: its dreamflow.json is where a kind is taken in or out.
LEARNED = tuple(read_json(built_in("mini") / "dreamflow.json")["kinds"])
POSES = PoseRange(
    elevation=(-10.0, 50.0), overhead_share=0.15, overhead_to=85.0, distance=(1.4, 1.6), fov=(45.0, 45.0)
)
# In training any plain colour stands behind an object; the pipeline shows these, so far apart that nothing but
# air can look like all of them.
BACKGROUNDS = Backgrounds(
    (
        (0.12, 0.12, 0.12), (0.5, 0.5, 0.5), (0.88, 0.88, 0.88), (0.85, 0.25, 0.3), (0.25, 0.75, 0.35),
        (0.25, 0.35, 0.85), (0.85, 0.8, 0.3), (0.3, 0.8, 0.8), (0.75, 0.3, 0.8),
    ),
    learned_share=0.0,
)  # fmt: skip
# Of blue 0, which no normal that faces the camera has (z >= 0 is blue >= 0.5), so silhouettes stand out.
NORMAL_BACKGROUND = (0.5, 0.5, 0.0)
SIZE = 128  # pixels a side of an album's views
VIEWS_A_KIND = 400
TRACED_AT_ONCE = 8
# of the pictures: normal maps, objects with a part in a colour of its own
NORMAL_SHARE, PART_SHARE = 0.15, 0.15
NO_VIEW_SHARE, NO_CAPTION_SHARE = 0.08, 0.10  # of the captions
TURNING = ("duck", "mug", "teapot")  # look different from everywhere: drawn twice as often, to learn it
COARSE_SHARE = 0.2  # of the pictures whose view is one of VIEWS; else it is one of COMPASS


def held_out(kind: str, colour: str) -> bool:
    """Whether training never shows this pair: about one in ten, never a kind in its natural colour."""
    number = 7 * list(THINGS).index(kind) + 3 * list(COLOURS).index(colour)
    return number % 10 == 0 and THINGS[kind].natural != colour


@dataclass(frozen=True)
class Album:
    """N views of one kind.

    shade   [N,P,H,W] uint8, how much of the pixel shows part p, times its shade
    alpha   [N,H,W] uint8
    normal  [N,3,H,W] uint8, (n + 1) / 2 in camera space, zero where alpha is zero
    words   N view words, of VIEWS
    compass N view words, of COMPASS
    angles  [N,2] float32, azimuth and elevation in degrees
    """

    kind: str
    shade: Tensor
    alpha: Tensor
    normal: Tensor
    words: list[str]
    compass: list[str]
    angles: Tensor


def make_album(kind: str, count: int, size: int, seed: int, path: Path | None = None) -> Album:
    """Traces `count` views from random poses of POSES: about 30 a second on one core at 128 pixels.

    path  where the maps are kept, if they are
    """
    cameras = POSES.sample(Generator().manual_seed(seed), count, size, size)

    def make() -> dict[str, Tensor]:
        return trace(build(Description(kind)), cameras, edge=2)

    maps = make() if path is None else kept(path, make)
    angles = torch.stack((cameras.azimuth, cameras.elevation), 1)
    words, compass = view_words(cameras), view_words(cameras, COMPASS)
    return Album(kind, **maps, words=words, compass=compass, angles=angles)


def kept(path: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors in the file, made and written first where there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save({name: value.contiguous() for name, value in make().items()}))
    return load_file(path)


def trace(shape: Shape, cameras: Camera, edge: int) -> dict[str, Tensor]:
    """An Album's shade, alpha and normal maps; `edge` rays along a side of an edge pixel."""
    parts, size = len(shape.names), cameras.height
    shades, alphas, normals = [], [], []
    for start in range(0, len(cameras), TRACED_AT_ONCE):
        camera = cameras[start : start + TRACED_AT_ONCE]
        n, pixels = len(camera), size * size
        buffer = gbuffer(shape, camera, edge)
        view = buffer.pixel // pixels
        row = (view * parts + buffer.part.long()) * pixels + buffer.pixel % pixels
        lit = sky_shade(buffer.normal)[:, 0] * buffer.weight
        shades.append(torch.zeros(n * parts * pixels).index_add_(0, row, lit).view(n, parts, size, size))
        views = shade(buffer, shape.colours)
        alphas.append(views.alpha[..., 0])
        normals.append(views.normal.permute(0, 3, 1, 2))
    maps = {"shade": shades, "alpha": alphas, "normal": normals}
    return {name: (torch.cat(part) * 255).round().to(torch.uint8) for name, part in maps.items()}


def open_album(folder: Path, kind: str, count: int = VIEWS_A_KIND, size: int = SIZE, seed: int = 0) -> Album:
    """The album, traced once and kept as safetensors in `folder`."""
    return make_album(kind, count, size, seed, folder / f"{kind}-{count}-{size}-{seed}.safetensors")


def smaller(album: Album, factor: int) -> Album:
    """Every `factor` x `factor` pixels averaged into one."""

    def pool(maps: Tensor) -> Tensor:
        return functional.avg_pool2d(maps.float(), factor).round().to(torch.uint8)

    weighted = album.normal.float() / 255 * 2 - 1
    solid = album.alpha[:, None].float() / 255
    mean = functional.avg_pool2d(weighted * solid, factor)
    alpha = pool(album.alpha)
    encoded = (functional.normalize(mean, dim=1) * 0.5 + 0.5) * (alpha[:, None] > 0)
    normal = (encoded * 255).round().to(torch.uint8)
    return replace(album, shade=pool(album.shade), alpha=alpha, normal=normal)


def paint(album: Album, row: int, colours: Tensor, background: Tensor) -> Tensor:
    """[3,H,W] in [0,1]: one view in these colours [P,3] before this background [3]."""
    shade, alpha = album.shade[row].float() / 255, album.alpha[row].float() / 255
    return torch.einsum("phw,pc->chw", shade, colours) + (1 - alpha) * background[:, None, None]


def paint_normals(normal: Tensor, alpha: Tensor) -> Tensor:
    """[...,3,H,W] in [0,1]: an album's normal maps before NORMAL_BACKGROUND; alpha [...,H,W]."""
    solid = alpha[..., None, :, :].float() / 255
    return normal.float() / 255 * solid + (1 - solid) * torch.tensor(NORMAL_BACKGROUND)[:, None, None]


@dataclass(frozen=True)
class Picture:
    """One example: what it shows, the picture [3,H,W] in [0,1] and the object's alpha [H,W]."""

    description: Description
    image: Tensor
    alpha: Tensor


def draw(albums: list[Album], generator: Generator, coarse_share: float = COARSE_SHARE) -> Picture:
    """A random kind, colour, view and background; colours of held-out pairs are never drawn."""
    choices = [album for album in albums for _ in range(1 + (album.kind in TURNING))]
    album = choices[pick(len(choices), generator)]
    row = pick(len(album.words), generator)
    description = random_description(album.kind, generator)
    normal_map = chance(NORMAL_SHARE, generator)
    word = (album.words if chance(coarse_share, generator) else album.compass)[row]
    description = replace(description, normal_map=normal_map, view=word)
    alpha = album.alpha[row].float() / 255
    if normal_map:
        return Picture(description, paint_normals(album.normal[row], album.alpha[row]), alpha)
    image = paint(album, row, build(description).colours, random_background(generator))
    return Picture(description, image, alpha)


def random_description(kind: str, generator: Generator) -> Description:
    """The kind in a random colour, now and then with a part in a colour of its own."""
    colour = random_colour(kind, generator)
    names, parts = MADE[kind].parts, {}
    if names and chance(PART_SHARE, generator):
        parts[names[pick(len(names), generator)]] = list(COLOURS)[pick(len(COLOURS), generator)]
    return Description(kind, colour, parts)


def random_colour(kind: str, generator: Generator) -> str:
    """One that is not held out from the kind."""
    allowed = [colour for colour in COLOURS if not held_out(kind, colour)]
    return allowed[pick(len(allowed), generator)]


def random_background(generator: Generator) -> Tensor:
    """[3]: half of them grey."""
    colour = 0.1 + 0.8 * torch.rand(3, generator=generator)
    return colour[:1].expand(3) if chance(0.5, generator) else colour


def pick(count: int, generator: Generator) -> int:
    return int(torch.randint(count, (1,), generator=generator))


def chance(share: float, generator: Generator) -> bool:
    return float(torch.rand(1, generator=generator)) < share


def caption(description: Description, generator: Generator) -> str:
    """What is said of a picture: everything, now and then without the view, now and then nothing."""
    drawn = float(torch.rand(1, generator=generator))
    if drawn < NO_CAPTION_SHARE:
        return ""
    if drawn < NO_CAPTION_SHARE + NO_VIEW_SHARE:
        description = replace(description, view=None)
    return describe(description)


def spoil(image: Tensor, other: Tensor, generator: Generator) -> Tensor:
    """[B,3,H,W] and another batch to what young fields look like: fog, blobs, blur, ghosts.

    The VAE learns these too: a field's gradient goes through the encoder long before its renders look
    like data.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    b, _, h, w = image.shape
    fog_size = 2 ** int(torch.randint(1, 5, (1,), generator=generator))  # 2 to 16 blobs a side
    fog = functional.interpolate(uniform(b, 3, fog_size, fog_size), (h, w), mode="bicubic").clamp(0, 1)
    flat = uniform(b, 3, 1, 1).expand_as(image)
    small = 2 ** int(torch.randint(2, 5, (1,), generator=generator))
    blurred = functional.interpolate(
        functional.avg_pool2d(image, h // small), (h, w), mode="bilinear", align_corners=False
    )
    share = uniform(b, 1, 1, 1)
    choices = torch.stack(
        (
            fog,
            share * fog + (1 - share) * flat,  # thin fog
            blurred,
            share * image + (1 - share) * fog,  # an object in fog
            share * image + (1 - share) * other,  # a ghost: two views at once
            (share * blurred + (1 - share) * fog + 0.05 * torch.randn(b, 3, h, w, generator=generator)).clamp(
                0, 1
            ),
        )
    )
    kind = torch.randint(len(choices), (b,), generator=generator)
    return choices[kind, torch.arange(b)]
