"""Make the embedded prior's ControlNet: python -m backend.training.rings.control --cache FOLDER [--minutes M]

It shows the second edition depth and normal maps of every view, drawn from meshes of the procedural objects as a stage
draws them, each view by itself; the model, its text encoder and VAE stand still. FOLDER holds the rings' albums, as the
model's own training leaves them, and the state. Goes on where it stopped, and writes its folder in diffusers' layout.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file, save
from torch import Generator, Tensor, nn
from torch.nn import functional

from backend.device import prepare_device
from backend.diffusion.camera_label import camera_label
from backend.diffusion.control import MAPS, Control, encode_maps, residuals
from backend.diffusion.schedule import sigma_table
from backend.files import write_bytes
from backend.jobs.priors import built_in
from backend.models.load import load_network, load_text, load_vae
from backend.models.model_folder import open_folder
from backend.objects.kinds import COLOURS
from backend.objects.shapes import KINDS, build
from backend.scene.isosurface import marching_tetrahedra, tetrahedral_grid
from backend.scene.render_mesh import render_shape
from backend.training.dataset import chance, pick, random_background, random_colour
from backend.training.export import write_json, write_part
from backend.training.rings.rings import (
    FRAMES,
    NO_CAPTION_SHARE,
    RING_SIZE,
    RINGS_A_KIND,
    RingAlbum,
    open_ring_album,
    paint_ring,
    ring_cameras,
)
from backend.training.run import Run, new_optimizer, set_rate
from backend.training.train_unet import Sentences
from dreamflow_blender.contract.language.reading import Description, describe
from dreamflow_blender.contract.language.vocabulary import MADE

SHOWN = 60  # rings of an album that are drawn from meshes, a seventh of a second each
CELLS = (20, 24, 32, 40)  # a side of the meshes' grids, a quarter of the rings each
RINGS = 8  # a step, of FRAMES pictures each
CHUNK, CHUNKS = 64, 8  # rings drawn and encoded at once, every CHUNK steps; chunks that a step takes from
PLANNED, RATE, WARMUP, DECAY = 400_000, 1e-3, 0.005, 0.999
# of the rings: some part in a colour of its own; of those, all parts
PART_SHARE, ALL_PARTS_SHARE = 0.75, 0.35
PARTED = 3.0  # how often kinds with parts are drawn, to one without
BEGIN = 900  # timesteps below it are learnt: as far as a texture from nothing is walked from
PART_WEIGHT = 4.0  # of the latents where a part lies that is not the body, beyond those of all: they are few
EDGE = (16, 32, 64)  # channels of what reads the maps, 4 pixels to a latent


def open_maps(folder: Path, album: RingAlbum, seed: int = 0) -> Tensor:
    """[N,6,64,64] uint8: encode_maps of an album's first SHOWN rings, drawn once from meshes and kept in `folder`.

    seed  open_ring_album's
    """
    count = min(SHOWN, album.rings)
    path = folder / f"maps-{album.kind}-{album.rings}-{count}-{seed}.safetensors"
    if not path.exists():
        shape, corner = build(Description(album.kind)), torch.full((3,), 0.52)
        cameras, maps = ring_cameras(album.rings, Generator().manual_seed(seed), RING_SIZE), []
        for quarter, cells in enumerate(CELLS):
            first, end = (FRAMES * (q * count // len(CELLS)) for q in (quarter, quarter + 1))
            grid = tetrahedral_grid(cells, -corner, corner)
            mesh = marching_tetrahedra(grid.vertices, -shape.sdf(grid.vertices), grid)
            maps.append(encode_maps(render_shape(mesh, cameras[first:end])))
        write_bytes(path, save({"maps": (torch.cat(maps) * 255).round().to(torch.uint8).contiguous()}))
    return load_file(path)["maps"]


@dataclass(frozen=True)
class Views:
    """B views, neighbours a ring: latents x [B,C,h,w], maps [B,6,H,W] uint8, how much each latent counts
    weight [B,1,h,w], label [B,16] and hidden [B,L,E], what the model is told."""

    x: Tensor
    maps: Tensor
    weight: Tensor
    label: Tensor
    hidden: Tensor


class Pool:
    """The newest CHUNKS * CHUNK rings, encoded; chunk c follows from c alone."""

    def __init__(
        self, albums: list[tuple[RingAlbum, Tensor]], vae: AutoencoderKL, encoder: nn.Module, words: Sentences
    ) -> None:
        """albums: with their open_maps."""
        self.albums, self.vae, self.encoder, self.words = albums, vae, encoder, words
        self.weights = torch.tensor([PARTED if MADE[a.kind].parts else 1.0 for a, _ in albums])
        self.chunks: dict[int, Views] = {}
        with torch.no_grad():
            self.silence = encoder(words([""])).last_hidden_state

    def take(self, step: int) -> Views:
        """A step's RINGS rings, now and then without a caption."""
        newest = step // CHUNK
        wanted = range(max(0, newest - CHUNKS + 1), newest + 1)
        self.chunks = {c: self.chunks[c] if c in self.chunks else self.make(c) for c in wanted}
        generator = Generator().manual_seed(2 * step + 1)
        found: list[Views] = []
        for _ in range(RINGS):
            chunk = self.chunks[wanted[pick(len(wanted), generator)]]
            first = FRAMES * pick(len(chunk.x) // FRAMES, generator)
            ring = {name: part[first : first + FRAMES] for name, part in vars(chunk).items()}
            if chance(NO_CAPTION_SHARE, generator):
                ring["hidden"] = self.silence.expand(FRAMES, -1, -1)
            found.append(Views(**ring))
        return Views(**{name: torch.cat([vars(one)[name] for one in found]) for name in vars(found[0])})

    @torch.no_grad()
    def make(self, chunk: int) -> Views:
        generator = Generator().manual_seed(2 * chunk)
        rows, captions = [], []
        for _ in range(CHUNK):
            album, shown = self.albums[int(torch.multinomial(self.weights, 1, generator=generator))]
            first = FRAMES * pick(len(shown) // FRAMES, generator)
            views, told = slice(first, first + FRAMES), describe_parts(album.kind, generator)
            image = paint_ring(album, views, build(told).colours, random_background(generator))
            z = self.vae.encode(image * 2 - 1).latent_dist.mode() * self.vae.config.scaling_factor
            parts = (album.shade[views, 1:].sum(1, keepdim=True) > 0).float()
            weight = 1 + PART_WEIGHT * functional.adaptive_avg_pool2d(parts, z.shape[2:])
            rows.append((z, shown[views], weight, camera_label(album.c2w[views])))
            captions.append(describe(told))
        hidden = self.encoder(self.words(captions)).last_hidden_state.repeat_interleave(FRAMES, 0)
        x, maps, weight, label = (torch.cat(part) for part in zip(*rows, strict=True))
        return Views(x, maps, weight, label, hidden)


def describe_parts(kind: str, generator: Generator) -> Description:
    """What is seen of a kind: often with parts in colours of their own."""
    parts = list(MADE[kind].parts)
    chosen: list[str] = []
    if parts and chance(PART_SHARE, generator):
        chosen = parts if chance(ALL_PARTS_SHARE, generator) else [parts[pick(len(parts), generator)]]
    coloured = {part: list(COLOURS)[pick(len(COLOURS), generator)] for part in chosen}
    return Description(kind, random_colour(kind, generator), coloured)


def loss_of(net: ControlNetModel, unet: UNet2DConditionModel, views: Views, generator: Generator) -> Tensor:
    """Weighted mean squared error of v at a random timestep a ring; the UNet joins a ring's views."""
    x = views.x
    t = torch.randint(BEGIN, (len(x) // FRAMES,), generator=generator).repeat_interleave(FRAMES)
    noise = torch.randn(x.shape, generator=generator)
    sigma = sigma_table().float()[t][:, None, None, None]
    signal = (1 + sigma**2).rsqrt()
    noisy, maps = signal * (x + sigma * noise), views.maps.float() / 255
    more = residuals([Control(net, MAPS, 1.0)], noisy, t, views.hidden, None, maps, views.label)
    v = unet(noisy, t, encoder_hidden_states=views.hidden, class_labels=views.label, **more).sample
    return (views.weight * (v - signal * (noise - sigma * x)).square()).mean()


def begin(cache: Path, unet: UNet2DConditionModel) -> Run:
    """The training as it lies in the cache folder, or at its start: a copy of the model's way down."""
    net = ControlNetModel.from_unet(
        unet, conditioning_channels=3 * len(MAPS), conditioning_embedding_out_channels=EDGE
    )
    net.requires_grad_(True)
    run = Run("control", cache, {"control": net}, new_optimizer({"control": net}, 0.01), DECAY)
    run.restore()
    return run


def train(run: Run, unet: UNet2DConditionModel, pool: Pool, minutes: float) -> None:
    """Up to PLANNED pictures or for some minutes, over all its parts; the rate falls to a twentieth by then."""
    net = run.networks["control"]
    assert isinstance(net, ControlNetModel)
    for step in run.work(minutes - run.seconds / 60, PLANNED):
        set_rate(run.optimizer, RATE, WARMUP, max(run.seen / PLANNED, run.seconds / 60 / minutes))
        run.learn(loss_of(net, unet, pool.take(step), Generator().manual_seed(step)), RINGS * FRAMES)


def export(run: Run, out: Path) -> None:
    """The folder, whole or as it was before."""
    run.put_average()
    new = out.with_name(f".{out.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    write_part(run.networks["control"], new)
    write_json(new / "dreamflow.json", {"shows": MAPS})
    shutil.rmtree(out, ignore_errors=True)
    new.rename(out)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m backend.training.rings.control", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="albums and state")
    parser.add_argument(
        "--minutes", type=float, default=120, help="of training, over all its parts (default: 120)"
    )
    parser.add_argument("--model", type=Path, default=built_in("mini"), help="the second edition's folder")
    parser.add_argument("--kinds", default=",".join(KINDS), help="with commas between them (default: all)")
    out = Path(__file__).parents[2] / "mini" / "control"
    parser.add_argument("--out", type=Path, default=out, help="where the ControlNet goes")
    args = parser.parse_args(arguments)
    args.cache.mkdir(parents=True, exist_ok=True)
    cpu = torch.device("cpu")
    prepare_device(cpu, 1)
    torch.manual_seed(0)
    model = open_folder(args.model)
    unet, (tokenizer, encoder) = load_network(model, cpu).unet, load_text(model, cpu)
    assert isinstance(unet, UNet2DConditionModel)
    run = begin(args.cache, unet)
    albums = [open_ring_album(args.cache, kind, RINGS_A_KIND) for kind in args.kinds.split(",")]
    shown = [(album, open_maps(args.cache, album)) for album in albums]
    train(run, unet, Pool(shown, load_vae(model, cpu), encoder, Sentences(tokenizer)), args.minutes)
    export(run, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
