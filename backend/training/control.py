"""Make the embedded prior's ControlNet: python -m backend.training.control [--minutes M] [--cache FOLDER]

It shows the base model depth and normal maps, drawn from meshes of the procedural objects as a stage draws them, in
single views. The base model, its text encoder and VAE stand still. Goes on where it stopped, and writes its folder in
diffusers' layout.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from platformdirs import user_cache_path
from safetensors.torch import load_file, save
from torch import Generator, Tensor, nn
from torch.nn import functional

from backend.device import prepare_device
from backend.diffusion.camera_label import camera_label
from backend.diffusion.control import MAPS, Control, encode_maps, residuals
from backend.diffusion.joint_attention import join_frames
from backend.diffusion.schedule import sigma_table
from backend.files import write_bytes
from backend.jobs.priors import built_in
from backend.models.load import load_network, load_text, load_vae
from backend.models.model_folder import open_folder
from backend.objects.kinds import COLOURS
from backend.objects.shapes import KINDS, build
from backend.scene.camera import Camera
from backend.scene.isosurface import marching_tetrahedra, tetrahedral_grid
from backend.scene.render_mesh import render_shape
from backend.training.dataset import (
    LEARNED,
    POSES,
    TURNING,
    Album,
    caption,
    held_out,
    open_album,
    paint,
    random_background,
)
from backend.training.export import write_json, write_part
from backend.training.networks import NATIVE_SIZE
from backend.training.run import Run, new_optimizer, set_rate
from backend.training.train_unet import Sentences
from dreamflow_blender.contract.language.reading import Description
from dreamflow_blender.contract.language.vocabulary import MADE

VIEWS, SEED = 400, 5  # a kind; not the base model's views
CELLS = (20, 24, 32, 40)  # a side of the meshes' grids, a quarter of the views each
BATCH, PLANNED, RATE, WARMUP, DECAY = 8, 400_000, 1e-3, 0.005, 0.9995
PART_SHARE, ALL_PARTS_SHARE = (
    0.75,
    0.35,
)  # of the pictures: some part in a colour of its own; of those, all parts
BEGIN = 600  # timesteps below it are learnt: as far as a texture is walked from
PART_WEIGHT = 4.0  # of the latents where a part lies that is not the body, beyond those of all: they are few
EDGE = (16, 32, 64)  # channels of what reads the maps, 4 pixels to a latent


def open_maps(folder: Path, album: Album) -> Tensor:
    """[N,6,64,64] uint8: encode_maps of the album's views, drawn once from meshes and kept in `folder`."""
    path = folder / f"{album.kind}-maps.safetensors"
    if not path.exists():
        shape, corner = build(Description(album.kind)), torch.full((3,), 0.52)
        views, maps = cameras(), []
        for views_from, cells in zip(range(0, VIEWS, VIEWS // len(CELLS)), CELLS, strict=True):
            grid = tetrahedral_grid(cells, -corner, corner)
            mesh = marching_tetrahedra(grid.vertices, -shape.sdf(grid.vertices), grid)
            maps.append(encode_maps(render_shape(mesh, views[views_from : views_from + VIEWS // len(CELLS)])))
        write_bytes(path, save({"maps": (torch.cat(maps) * 255).round().to(torch.uint8).contiguous()}))
    return load_file(path)["maps"]


def cameras() -> Camera:
    """Those of every kind's views."""
    return POSES.sample(Generator().manual_seed(SEED), VIEWS, NATIVE_SIZE, NATIVE_SIZE)


def draw(album: Album, generator: Generator) -> tuple[int, Description]:
    """A view and what is seen in it: often with parts in colours of their own."""

    def pick(count: int) -> int:
        return int(torch.randint(count, (1,), generator=generator))

    def chance(share: float) -> bool:
        return float(torch.rand(1, generator=generator)) < share

    row, parts = pick(len(album.words)), list(MADE[album.kind].parts)
    allowed = [colour for colour in COLOURS if not held_out(album.kind, colour)]
    chosen: list[str] = []
    if parts and chance(PART_SHARE):
        chosen = parts if chance(ALL_PARTS_SHARE) else [parts[pick(len(parts))]]
    coloured = {part: list(COLOURS)[pick(len(COLOURS))] for part in chosen}
    return row, Description(album.kind, allowed[pick(len(allowed))], coloured)


@dataclass(frozen=True)
class Batch:
    """x: latents [B,C,h,w]; maps [B,6,H,W]; label [B,16] of cameras; weight [B,1,h,w], how much each latent counts."""

    x: Tensor
    maps: Tensor
    label: Tensor
    weight: Tensor
    captions: list[str]


def loss_of(
    net: ControlNetModel, unet: UNet2DConditionModel, hidden: Tensor, batch: Batch, generator: Generator
) -> Tensor:
    """Weighted mean squared error of v at a random timestep a picture."""
    x = batch.x
    t = torch.randint(BEGIN, (len(x),), generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    sigma = sigma_table().float()[t][:, None, None, None]
    signal = (1 + sigma**2).rsqrt()
    noisy = signal * (x + sigma * noise)
    more = residuals([Control(net, MAPS, 1.0)], noisy, t, hidden, None, batch.maps, batch.label)
    v = unet(noisy, t, encoder_hidden_states=hidden, class_labels=batch.label, **more).sample
    return (batch.weight * (v - signal * (noise - sigma * x)).square()).mean()


@torch.no_grad()
def make_batch(views: list[tuple[Album, Tensor]], vae: AutoencoderKL, generator: Generator) -> Batch:
    images, maps, rows, parts, captions = [], [], [], [], []
    for place in torch.randint(len(views), (BATCH,), generator=generator).tolist():
        album, shown = views[place]
        row, description = draw(album, generator)
        images.append(paint(album, row, build(description).colours, random_background(generator)))
        maps.append(shown[row].float() / 255)
        rows.append(row)
        parts.append((album.shade[row, 1:].amax(0, keepdim=True) > 0).float())
        captions.append(caption(description, generator))
    pixels = torch.stack(images) * 2 - 1
    x = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
    weight = 1 + PART_WEIGHT * functional.adaptive_avg_pool2d(torch.stack(parts), x.shape[2:])
    return Batch(x, torch.stack(maps), camera_label(cameras().c2w[rows]), weight, captions)


def begin(cache: Path, unet: UNet2DConditionModel) -> Run:
    """The training as it lies in the cache folder, or at its start: a copy of the base model's way down."""
    net = ControlNetModel.from_unet(
        unet, conditioning_channels=3 * len(MAPS), conditioning_embedding_out_channels=EDGE
    )
    net.requires_grad_(True)
    run = Run("control", cache, {"control": net}, new_optimizer({"control": net}, 0.01), DECAY)
    run.restore()
    return run


def train(run: Run, cache: Path, minutes: float) -> None:
    """Up to PLANNED pictures or for some minutes, over all its parts; the rate falls to a twentieth by then."""
    model, cpu = open_folder(built_in("mini")), torch.device("cpu")
    unet, vae = load_network(model, cpu).unet, load_vae(model, cpu)
    tokenizer, encoder = load_text(model, cpu)
    net = run.networks["control"]
    assert isinstance(unet, UNet2DConditionModel) and isinstance(net, ControlNetModel)
    join_frames(unet, 1)
    albums = [open_album(cache, kind, VIEWS, NATIVE_SIZE, SEED) for kind in LEARNED if kind in KINDS]
    views = [(album, open_maps(cache, album)) for album in albums for _ in range(1 + (album.kind in TURNING))]
    generator, sentences = Generator().manual_seed(run.step), Sentences(tokenizer)
    for _ in run.work(minutes - run.seconds / 60, PLANNED):
        set_rate(run.optimizer, RATE, WARMUP, max(run.seen / PLANNED, run.seconds / 60 / minutes))
        batch = make_batch(views, vae, generator)
        with torch.no_grad():
            hidden = encoder(sentences(batch.captions)).last_hidden_state
        loss = loss_of(net, unet, hidden, batch, generator)
        run.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        run.optimizer.step()
        run.note(loss, BATCH)


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
    parser = argparse.ArgumentParser(prog="python -m backend.training.control", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=150, help="of training, over all its parts (default: 150)"
    )
    cache = user_cache_path("dreamflow") / "mini"
    parser.add_argument("--cache", type=Path, default=cache, help="states and data")
    out = Path(__file__).parents[1] / "mini" / "control"
    parser.add_argument("--out", type=Path, default=out, help="where the ControlNet goes")
    args = parser.parse_args(arguments)
    args.cache.mkdir(parents=True, exist_ok=True)
    prepare_device(torch.device("cpu"), 1)
    torch.manual_seed(0)
    unet = load_network(open_folder(built_in("mini")), torch.device("cpu")).unet
    assert isinstance(unet, UNet2DConditionModel)
    run = begin(args.cache, unet)
    train(run, args.cache, args.minutes)
    export(run, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
