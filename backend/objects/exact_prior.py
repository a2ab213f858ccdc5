"""A prior that needs no network: the exact denoiser of a finite set of images of a known object.

For images x_i, D(z; sigma) = sum_i softmax_i(-||z - x_i||^2 / (2 sigma^2)) x_i is the optimal denoiser
(Karras et al. 2022, Eq. 57). The images are the views of the prompt's procedural object (objects/grammar.py)
from a fixed list of cameras, each before three greys; the camera's view word selects which of them count.
At low sigma it is a nearest neighbour, so training cameras are drawn from that list.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from backend.diffusion.denoiser import guided
from backend.diffusion.prior import Backgrounds, Kind, PriorSpec
from backend.diffusion.savings import Savings
from backend.diffusion.schedule import NoiseLevel
from backend.diffusion.view_words import COMPASS, VIEWS, view_words
from backend.errors import InputError
from backend.objects.grammar import parse_object
from backend.objects.shapes import build
from backend.objects.sphere_trace import GBuffer, Solid, coarser, gbuffer, shade
from backend.scene.camera import Camera, orbit
from dreamflow_blender.contract.language.reading import describe

COUNT = 176  # cameras in the list
DISTANCE = (1.4, 1.6)  # metres; with FOV the object's ball just fits the frame
FOV = 45.0  # degrees
ELEVATION = (-10.0, 60.0)  # degrees
OVERHEAD_SHARE, OVERHEAD_TO = 0.12, 85.0
GREYS = ((0.15,) * 3, (0.5,) * 3, (0.85,) * 3)
NORMAL_BACKGROUND = (0.5, 0.5, 1.0)
FLOAT32_BYTES = 256 * 2**20  # a bank larger than this is kept in half precision
KEPT = 2  # banks kept in memory
TRACED = 128  # pixels a side: smaller images are averages of views at about this size
EDGE = 2  # rays along a side of an edge pixel
BATCH = 8  # views rendered, or widened from half precision, at a time


class FixedPoses:
    """Cameras spread evenly, by multiples of irrational numbers; the same on every machine."""

    def __init__(self, count: int = COUNT) -> None:
        i = torch.arange(count, dtype=torch.float64) + 0.5
        self.azimuth = (i * 0.6180339887 % 1 * 360 - 180).float()
        overhead = i > count * (1 - OVERHEAD_SHARE)
        # Each of the two sections from its lowest to its highest elevation.
        low = ELEVATION[0] + (ELEVATION[1] - ELEVATION[0]) * i / (count * (1 - OVERHEAD_SHARE))
        high = OVERHEAD_TO - (OVERHEAD_TO - ELEVATION[1]) * (count - i) / (count * OVERHEAD_SHARE)
        self.elevation = torch.where(overhead, high, low).float()
        self.distance = (DISTANCE[0] + (DISTANCE[1] - DISTANCE[0]) * (i * 0.7548776662 % 1)).float()
        # on the device of the newest index
        self._moved: tuple[Tensor, ...] = (self.azimuth, self.elevation, self.distance)

    def __len__(self) -> int:
        return len(self.azimuth)

    def cameras(self, index: Tensor, height: int, width: int) -> Camera:
        """Those of the list at `index` [B] int64, on its device."""
        if self._moved[0].device != index.device:  # once: a copy to a card is waited for
            self._moved = tuple(t.to(index.device) for t in self._moved)
        azimuth, elevation, distance = (t.index_select(0, index) for t in self._moved)
        return orbit(azimuth, elevation, distance, torch.full_like(distance, FOV), height, width)

    def draw(self, generator: Generator, count: int) -> Tensor:
        """[count] int64, rows of the list."""
        return torch.randint(len(self), (count,), generator=generator, device=generator.device)

    def sample(self, generator: Generator, count: int, height: int, width: int) -> Camera:
        return self.cameras(self.draw(generator, count), height, width)


@dataclass(frozen=True)
class Bank:
    """The images of one object at one size, before G backgrounds each, in x in [-1,1].

    Image i before background b is x = coloured[i] + clear[i] * (2 b), channel by channel.

    coloured     [N,3,P] 2 alpha colour - 1 at the P pixels; float32 or float16
    clear        [N,P] 1 - alpha, likewise
    square       [N,G] float64, ||x||^2
    backgrounds  [G,3] RGB
    rows         view word -> the rows that it selects
    """

    coloured: Tensor
    clear: Tensor
    square: Tensor
    backgrounds: Tensor
    rows: dict[str, slice]
    size: int

    def image(self, row: int, background: int) -> Tensor:
        """[3,size,size] float32, one of the N x G images."""
        behind = 2 * self.backgrounds[background, :, None] * self.clear[row].float()
        return (self.coloured[row].float() + behind).view(3, self.size, self.size)


class ExactPrior:
    """Fulfils `prior.Prior`. Latents are the images themselves, x = 2 image - 1."""

    name, factor, channels = "exact", 1, 3

    def __init__(
        self, device: torch.device | str = "cpu", views: int = COUNT, *, words: tuple[str, ...] = VIEWS
    ) -> None:
        """views: how many cameras; fewer than some 150 are too few to recover an object from.

        words  for where a camera stands: VIEWS, of which "side" may be either, or COMPASS, which says which
        """
        self.poses, self.words = FixedPoses(views), words
        if words == COMPASS:
            self.name = "exact-compass"
        self.spec = PriorSpec(
            poses=self.poses,
            backgrounds=Backgrounds(GREYS, learned_share=0.0),
            guidance=1.0,  # it needs none
            normal_background=NORMAL_BACKGROUND,
            lora=False,  # its latents are pictures, so D_phi(x) = x is right
        )
        self._device = torch.device(device)
        if self._device.type == "mps":  # it has no float64
            self._device = torch.device("cpu")
        self._banks: OrderedDict[tuple[str, Kind, int], Bank] = OrderedDict()
        self._buffers: tuple[str, list[GBuffer], Camera] | None = None

    def check(self, prompt: str, negative: str, kind: Kind, size: int) -> None:
        """InputError where the prompt is not in the grammar, names what only the stage and the camera can
        name ("a normal map of", a view), or comes with a negative prompt."""
        if negative.strip():
            raise InputError(
                "The exact prior knows no negative prompts.", "Leave it out, or use another prior."
            )
        parse_object(prompt)

    def footprint(self, size: int, savings: Savings, still: bool = False) -> float:
        """See Prior: its images, traced at several times the size."""
        return 0.5

    def save_memory(self, savings: Savings) -> None:
        """It has no networks."""

    def take_notes(self) -> list[str]:
        """It has none."""
        return []

    def load(self) -> None:
        """What it needs is made by `prepare`."""

    def release(self) -> None:
        """What `prepare` has made stays: it took seconds, and little memory."""

    def prepare(self, prompt: str, negative: str, kind: Kind, size: int) -> Bank:
        """The bank of the prompt's object: seconds for the first of a kind and size, then remembered.

        Raises InputError as `check` does.
        """
        self.check(prompt, negative, kind, size)
        named, shape = self.solid(prompt)
        key = (named, kind, size)
        if key not in self._banks:
            buffers, camera = self._traced(shape, size)
            self._banks[key] = make_bank(buffers, camera, shape.colours, kind, self.words_of(camera))
        self._banks.move_to_end(key)
        while len(self._banks) > KEPT:
            self._banks.popitem(last=False)
        return self._banks[key]

    def solid(self, prompt: str) -> tuple[str, Solid]:
        """What the prompt names, and its name. Raises InputError."""
        described = parse_object(prompt)
        return describe(described), build(described)

    def words_of(self, camera: Camera) -> list[str]:
        """One of `words` for each view: from which side it is."""
        return view_words(camera, self.words)

    def traced_at(self) -> int:
        """TRACED, unless the pictures have more to trace."""
        return TRACED

    def _traced(self, shape: Solid, size: int) -> tuple[list[GBuffer], Camera]:
        """The G-buffers of all cameras, sorted by view word. The last ones traced are kept: they serve any
        colours, and any size that is traced at the same size. The size traced depends on `size` alone, or a
        resumed run would be shown other images."""
        traced = max(size, self.traced_at() // size * size)
        if self._buffers is None or self._buffers[0] != shape.kind or self._buffers[2].height != traced:
            words = self.words_of(self.poses.cameras(torch.arange(len(self.poses)), 1, 1))
            order = torch.tensor(sorted(range(len(words)), key=lambda i: self.words.index(words[i])))
            camera = self.poses.cameras(order.to(self._device), traced, traced)
            parts = [gbuffer(shape, camera[i : i + BATCH], EDGE) for i in range(0, len(words), BATCH)]
            self._buffers = shape.kind, parts, camera
        _, parts, camera = self._buffers
        if camera.height == size:
            return parts, camera
        return [coarser(part, camera.height // size) for part in parts], camera.resized(size, size)

    def shown(self, conditioning: Bank, draw: object) -> Bank:
        """See Prior: its pictures are of the object itself."""
        return conditioning

    def encode(self, image: Tensor) -> Tensor:
        return image.permute(0, 3, 1, 2) * 2 - 1

    def decode(self, x: Tensor) -> Tensor:
        return ((x + 1) / 2).permute(0, 2, 3, 1)

    @torch.no_grad()
    def denoise(
        self, z: Tensor, level: NoiseLevel, camera: Camera, conditioning: Bank, guidance_scale: float = 1.0,
        guidance_rescale: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """D_p(z); unguided, that is for guidance_scale 1, over the images of the camera's view word alone.

        The unconditional set is all of the object's views.
        """
        if z.shape[1:] != (3, conditioning.size, conditioning.size):
            raise ValueError(f"z is [B,3,{conditioning.size},{conditioning.size}], got {list(z.shape)}")
        words = self.words_of(camera)
        conditional = torch.stack(
            [
                posterior_mean(one, level.sigma, conditioning, conditioning.rows[word])
                for one, word in zip(z, words, strict=True)
            ]
        )
        if guidance_scale == 1:
            return conditional
        unconditional = torch.stack(
            [posterior_mean(one, level.sigma, conditioning, slice(None)) for one in z]
        )
        return guided(conditional, unconditional, guidance_scale, guidance_rescale)

    def phi(self, conditioning: Any, rank: int, learning_rate: float, warmup: int, seed: int) -> None:
        """None: D_phi(x) = x is right, since the encoder is the identity."""

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "views": len(self.poses), "backgrounds": [list(grey) for grey in GREYS]}


def posterior_mean(z: Tensor, sigma: float, bank: Bank, rows: slice) -> Tensor:
    """[3,h,w]: the mean of the bank's images in `rows` given z = x + sigma n [3,h,w]; sigma 0: the nearest.

    Distances are float64: a float32 sum over 10^5 pixels is wrong by 0.1, and at sigma = 0.03 that is a
    factor of e^55.
    """
    coloured, clear, grounds = bank.coloured[rows], bank.clear[rows], bank.backgrounds.double()
    flat = z.reshape(3, -1).to(clear.device)
    exact = flat.double()
    part = BATCH if coloured.dtype == torch.float16 or coloured[0].numel() > 2**14 else len(coloured)
    with_colour = torch.cat([(c.double().flatten(1) @ exact.flatten()) for c in coloured.split(part)])  # [n]
    with_clear = torch.cat([c.double() @ exact.T for c in clear.split(part)])  # [n,3]
    # less ||z||^2, [n,G]
    distance = bank.square[rows] - 2 * (with_colour[:, None] + 2 * with_clear @ grounds.T)
    if sigma > 0:
        weight = torch.softmax(-distance.flatten() / (2 * sigma**2), 0).view_as(distance)
    else:
        weight = torch.nn.functional.one_hot(distance.argmin(), distance.numel()).view_as(distance).double()
    likely = (weight.sum(1) > 1e-12).nonzero()[:, 0]
    weight = weight[likely]
    behind = (2 * weight @ grounds).float()  # [n,3]
    alone = weight.sum(1).float()
    mean = torch.zeros_like(flat)
    for some, c, a in zip(likely.split(part), alone.split(part), behind.split(part), strict=True):
        mean += (c @ coloured[some].float().flatten(1)).view_as(mean) + a.T @ clear[some].float()
    return mean.view_as(z).to(z)


def make_bank(
    buffers: Sequence[GBuffer], camera: Camera, colours: Tensor, kind: Kind, words: list[str]
) -> Bank:
    """The bank of square views that are sorted by their words."""
    size, count = camera.height, len(camera)
    backgrounds = torch.tensor(GREYS if kind == "colour" else [NORMAL_BACKGROUND], device=camera.c2w.device)
    dtype = torch.float32 if count * size * size * 16 <= FLOAT32_BYTES else torch.float16
    coloured, clear, squares = [], [], []
    for buffer in buffers:
        views = shade(buffer, colours)
        image = views.colour if kind == "colour" else views.normal
        seen = (2 * image * views.alpha - 1).flatten(1, 2).transpose(1, 2).to(dtype)
        air = (1 - views.alpha).flatten(1).to(dtype)
        c, a, b = seen.double(), air.double(), backgrounds.double()  # the squares of what is stored
        cross = torch.einsum("ncp,np->nc", c, a)
        squares.append(
            c.square().sum((1, 2))[:, None]
            + 4 * cross @ b.T
            + 4 * a.square().sum(1)[:, None] * b.square().sum(1)
        )
        coloured.append(seen.contiguous())
        clear.append(air)
    rows = {
        word: slice(words.index(word), words.index(word) + words.count(word)) for word in dict.fromkeys(words)
    }
    return Bank(torch.cat(coloured), torch.cat(clear), torch.cat(squares), backgrounds, rows, size)
