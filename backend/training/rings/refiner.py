"""Teach the embedded refiner all kinds, from the shipped refiner's weights or those of a first edition (--start).

    python -m backend.training.rings.refiner --cache FOLDER [--furniture F] [--minutes M] [--pictures N] [--export OUT]

FOLDER holds the albums, the state (refiner.safetensors) and goes on from it. A refiner sees a picture that shows the
thing already, so it is told no view: single views of rings, at twice the base model's size, damaged as in the
first edition's training. --export writes the average as a model folder, and stops.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Generator, nn

from backend.errors import InputError
from backend.jobs.priors import built_in
from backend.models.load import load_network, load_text, load_vae
from backend.models.model_folder import open_folder
from backend.objects.shapes import KINDS
from backend.training import export, networks, train_unet
from backend.training.rings.__main__ import WEIGHTS
from backend.training.rings.furniture import NAMES
from backend.training.rings.real_things import open_real_albums
from backend.training.rings.rings import Drawer, open_ring_album
from backend.training.run import Run, new_optimizer

NAME = "refiner"  # of the state, and of train_unet's rates
RINGS, RINGS_A_THING = 50, 8  # of a procedural kind, of each real thing
AVERAGE = 0.999
ROOM = 12_288  # latents kept


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m backend.training.rings.refiner", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="albums and state")
    parser.add_argument("--minutes", type=float, default=60, help="of training (default: 60)")
    parser.add_argument(
        "--pictures", type=int, default=120_000, help="where it ends; the rate falls over the second half"
    )
    parser.add_argument(
        "--furniture", type=Path, help="the folder of the package's .sh3f files; without it, no real things"
    )
    parser.add_argument("--kinds", help="only these procedural kinds, with commas between them")
    parser.add_argument(
        "--start",
        type=Path,
        default=built_in("mini-refiner"),
        help="the refiner's folder to begin with, where FOLDER holds no state (default: the shipped one)",
    )
    parser.add_argument("--export", type=Path, help="write the model folder from the state there, and stop")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    args.cache.mkdir(parents=True, exist_ok=True)
    try:
        torch.manual_seed(args.seed)
        tokenizer = networks.save_tokenizer(args.cache / "tokenizer")
        parts = grown_refiner(args.start, tokenizer.get_vocab())
        run = Run(NAME, args.cache, parts, new_optimizer(parts, 0.01), AVERAGE)
        run.restore()
        if args.export is not None:
            write_refiner(args.export, run)
            return 0
        kinds = args.kinds.split(",") if args.kinds else list(KINDS)
        size = 2 * networks.NATIVE_SIZE
        albums = [open_ring_album(args.cache, kind, RINGS, size) for kind in kinds]
        if args.furniture is not None:
            wanted = [kind for kind in NAMES if WEIGHTS.get(kind, 1.0)]
            albums += open_real_albums(args.furniture, args.cache, wanted, count=RINGS_A_THING, size=size)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    vae = load_vae(open_folder(built_in("mini")), torch.device("cpu")).float()
    vae.register_to_config(scaling_factor=vae.config.scaling_factor * export.REFINER_LATENT_SCALE)
    drawer = Drawer(albums, {})
    generator = Generator().manual_seed(args.seed + run.step)
    rings = train_unet.refiner_rings(vae, drawer.draw_view, train_unet.BATCH, ROOM, generator)
    unet, encoder = parts["unet"], parts["text_encoder"]
    train_unet.train(run, unet, encoder, tokenizer, rings, args.minutes, args.pictures, args.seed)
    return 0


def grown_refiner(folder: Path, vocabulary: dict[str, int]) -> dict[str, Any]:
    """A refiner's UNet and text encoder, with rows for the words that it does not know yet."""
    cpu, model = torch.device("cpu"), open_folder(folder)
    old_tokenizer, old_encoder = load_text(model, cpu)
    unet = load_network(model, cpu).unet
    assert isinstance(unet, nn.Module)
    encoder = networks.make_text_encoder(True, len(vocabulary))
    encoder.load_state_dict(networks.grown_state(old_tokenizer.get_vocab(), old_encoder, vocabulary))
    return {"unet": unet.float(), "text_encoder": encoder}


def write_refiner(folder: Path, run: Run) -> None:
    """The average as a model folder; InputError before the first state was saved."""
    if not run.seen:
        raise InputError("There is no training state yet.", "Train first, without --export.")
    run.put_average()
    export.write_model(folder, run.networks, refiner=True)
    path = folder / "dreamflow.json"
    stated = json.loads(path.read_text("utf-8"))
    del stated["views"]
    export.write_json(path, stated | {"kinds": "base", "view_prompt": "{prompt}"})


if __name__ == "__main__":
    sys.exit(main())
