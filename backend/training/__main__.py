"""Make the embedded prior's first edition, from nothing: python -m backend.training [--minutes M] [--resume]

It is told a view word and sees one view; backend.training.rings goes on from its folder. Three
parts, one after the other: the VAE, the base model, the refiner (which starts as a copy of the base model). Each may
also be trained alone (--part), in a process of its own, on one CPU thread or on a GPU. The model folders, base/ and
refiner/, are written to --out; states, a plot of the losses (losses.png) and sheets of samples (samples.png,
refined.png) lie in --cache, by default the user's cache folder.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from platformdirs import user_cache_path
from torch import Generator, nn

from backend.device import pick_device, prepare_device
from backend.errors import DeviceError, InputError
from backend.jobs.priors import open_prior
from backend.models.load import load_network, load_text, load_vae
from backend.models.model_folder import open_folder
from backend.training import export, networks, samples, train_unet, train_vae
from backend.training.dataset import FIRST_KINDS, Album, draw, open_album, smaller
from backend.training.run import Run, new_optimizer, width
from dreamflow_blender.contract.protocol import DEVICES

PARTS = ("vae", "base", "refiner")
DECAY = {"vae": 0.997, "base": 0.9995, "refiner": 0.9995}  # of the moving averages
RING = 24_576  # latents of 64^2 pictures kept: 100 MB
SCALE_PICTURES = 256


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m backend.training", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=1500, help="of training, over all parts (default: 1500)"
    )
    parser.add_argument("--part", choices=PARTS, help="only this one")
    parser.add_argument("--resume", action="store_true", help="go on from the cache folder")
    parser.add_argument(
        "--from", dest="start", type=Path, metavar="FOLDER", help="begin with the weights in FOLDER"
    )
    parser.add_argument("--out", type=Path, help="where base/ and refiner/ go (default: the cache folder)")
    parser.add_argument(
        "--cache", type=Path, default=user_cache_path("dreamflow") / "mini", help="states and data"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--export", action="store_true", help="only write the folders from the states there are"
    )
    args = parser.parse_args(arguments)
    args.cache.mkdir(parents=True, exist_ok=True)
    try:
        device = pick_device(args.device)
        # one thread: two parts side by side are faster than one on two threads
        prepare_device(device, 1 if device.type == "cpu" else 0)
        if not args.export:
            parts = PARTS if args.part is None else (args.part,)
            for part in parts:
                train_part(part, args, device, args.minutes / len(parts))
        write_folders(args.cache, args.out or args.cache, device)
    except (InputError, DeviceError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def train_part(part: str, args: argparse.Namespace, device: torch.device, minutes: float) -> None:
    """Train one part for some minutes, or until its planned number of pictures."""
    albums = [open_album(args.cache, kind) for kind in FIRST_KINDS]
    torch.manual_seed(args.seed)
    parts = new_networks(part, args.cache)
    for network in parts.values():
        network.to(device)
    run = Run(part, args.cache, parts, new_optimizer(parts, 0.0 if part == "vae" else 0.01), DECAY[part])
    if args.start is not None:
        copy_weights(parts, args.start / ("refiner" if part == "refiner" else "base"), device)
    elif args.resume:
        run.restore()
    elif part == "refiner":
        begin_with_base(parts, args.cache)
    if part == "vae":
        train_vae.train(run, parts["vae"], albums, networks.NATIVE_SIZE, minutes, args.seed)
        return
    vae = trained_vae(args.cache, albums, device)
    if part == "refiner":
        vae.register_to_config(scaling_factor=vae.config.scaling_factor * export.REFINER_LATENT_SCALE)
    rings = make_rings(part, vae, albums, args.seed + run.step)
    tokenizer = networks.save_tokenizer(args.cache / "tokenizer")
    planned = train_unet.PLANNED[part] * width(device)
    train_unet.train(run, parts["unet"], parts["text_encoder"], tokenizer, rings, minutes, planned, args.seed)


def new_networks(part: str, cache: Path) -> dict[str, nn.Module]:
    if part == "vae":
        return {"vae": networks.make_vae()}
    refiner = part == "refiner"
    words = len(networks.save_tokenizer(cache / "tokenizer"))
    return {"unet": networks.make_unet(refiner), "text_encoder": networks.make_text_encoder(refiner, words)}


def state(part: str, cache: Path) -> Run:
    """The run of a part as it lies in the cache folder; fresh where nothing does (`seen` is 0)."""
    parts = new_networks(part, cache)
    run = Run(part, cache, parts, new_optimizer(parts, 0.0 if part == "vae" else 0.01), DECAY[part])
    run.restore()
    return run


def trained_vae(cache: Path, albums: list[Album], device: torch.device) -> AutoencoderKL:
    """The VAE as it will ship, its scaling_factor measured; InputError before its encoder stands still."""
    run = state("vae", cache)
    if run.seen < train_vae.ENCODER_UNTIL * width(device):
        raise InputError("The VAE's encoder is not trained yet.", "Train it first: --part vae.")
    run.put_average()
    vae = run.networks["vae"].to(device).eval().requires_grad_(False)
    assert isinstance(vae, AutoencoderKL)
    images = train_vae.pictures(albums, SCALE_PICTURES, networks.NATIVE_SIZE, Generator().manual_seed(0))
    vae.register_to_config(scaling_factor=round(train_vae.latent_scale(vae, images.to(device)), 4))
    return vae


def make_rings(
    part: str, vae: AutoencoderKL, albums: list[Album], seed: int
) -> list[tuple[train_unet.Ring, int]]:
    """Where pictures come from, and how many at a time."""
    generator = Generator().manual_seed(seed)
    batch = train_unet.BATCH * width(next(vae.parameters()).device)
    side = networks.NATIVE_SIZE
    if part == "base":
        halves = [smaller(album, albums[0].alpha.shape[-1] // side) for album in albums]
        return [(train_unet.Ring(vae, partial(draw, halves), side, False, RING, generator), batch)]
    return train_unet.refiner_rings(vae, partial(draw, albums), batch, RING, generator)


def begin_with_base(parts: dict[str, nn.Module], cache: Path) -> None:
    """The refiner's networks, as far as they have the base model's shape, start as its average."""
    run = state("base", cache)
    if not run.seen:
        raise InputError("The base model is not trained yet.", "Train it first: --part base.")
    run.put_average()
    for name, network in parts.items():
        network.load_state_dict(run.networks[name].state_dict(), strict=False)
    with torch.no_grad():  # so that the first layer says of larger latents what it said of the base model's
        parts["unet"].get_parameter("conv_in.weight").div_(export.REFINER_LATENT_SCALE)


def write_folders(cache: Path, out: Path, device: torch.device) -> None:
    """The model folders of what has been trained so far, the plot of the losses, and what the models make."""
    albums = [open_album(cache, kind) for kind in FIRST_KINDS]
    vae = trained_vae(cache, albums, device)
    runs = [state("vae", cache)]
    for part in ("base", "refiner"):
        run = state(part, cache)
        if not run.seen:
            continue
        run.put_average()
        parts = run.networks | ({"vae": vae} if part == "base" else {})
        export.write_model(out / part, parts, refiner=part == "refiner")
        runs.append(run)
        prior = open_prior(out / part, "cpu")
        if part == "base":
            samples.sample_sheet(prior, FIRST_KINDS, export.GUIDANCE, cache / "samples.png")
        else:
            samples.refined_sheet(prior, albums, export.REFINER_GUIDANCE, cache / "refined.png")
    export.plot_losses(runs, cache / "losses.png")


def copy_weights(parts: dict[str, nn.Module], folder: Path, device: torch.device) -> None:
    """Weights of a model folder into fresh networks. Raises ModelError."""
    model = open_folder(folder)
    if "vae" in parts:
        parts["vae"].load_state_dict(load_vae(model, device).state_dict())
        return
    _, encoder = load_text(model, device)
    unet = load_network(model, device).unet
    assert isinstance(unet, nn.Module)
    parts["unet"].load_state_dict(unet.float().state_dict())
    parts["text_encoder"].load_state_dict(encoder.state_dict())


if __name__ == "__main__":
    sys.exit(main())
