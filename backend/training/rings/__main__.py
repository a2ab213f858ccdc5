"""Train the embedded prior: told the camera, four views at once, from the shipped base model on.

    python -m backend.training.rings --cache FOLDER [--start MODEL] [--minutes M] [--decay FROM TO] [--export FOLDER]

FOLDER holds the albums, the state (rings.safetensors, rings.json) and rings.log, a line every 100 steps. Started again,
it goes on from the state there. Every step's data follow from the seed and the step's number alone, so a run that was
stopped and gone on with ends with the same bytes as one that was not (same machine, albums and arguments).

The rate is constant; the average of the weights is what gets exported, so there is something to export at any time.
--decay lets the rate fall to a twentieth between two numbers of pictures, so it ends a training. An empty FOLDER begins
with an exported model: weights and the number of pictures, no moments. That is the shipped one, or --start's: a
first edition's folder too (backend.training), which is told the camera and sees four views from then on.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Generator, Tensor, nn
from torch.optim import AdamW

from backend.diffusion.camera_label import camera_label
from backend.diffusion.joint_attention import join_frames
from backend.errors import InputError
from backend.files import write_text
from backend.jobs.priors import built_in
from backend.models.load import load_network, load_text, load_vae
from backend.models.model_folder import open_folder
from backend.objects.shapes import KINDS
from backend.training import export, networks
from backend.training.dataset import FIRST_KINDS, chance, pick
from backend.training.rings.furniture import NAMES, credits, find_furniture, held_out_instances
from backend.training.rings.real_things import open_real_albums
from backend.training.rings.rings import FRAMES, NO_CAPTION_SHARE, RING_POSES, Drawer, open_ring_album
from backend.training.run import Run, precision
from backend.training.train_unet import Sentences, v_error
from backend.weights.layout import read_json
from dreamflow_blender.contract.language.reading import describe
from dreamflow_blender.contract.language.vocabulary import THINGS

NAME, SHIPPED = "rings", built_in("mini")
CREDITS, PROGRESS = "CREDITS.txt", "progress.json"  # in the model folder
# An update sees four views: a third to a quarter of the first edition's updates, which measured the same or better.
RING_SETTINGS: dict[str, Any] = {
    "nerf.guidance_scale": 2.0,  # the first edition needed 3 for thin parts; told the camera, what is weaker is nearer
    "nerf.levels": 110,
    "nerf.views": 4,
    # Normal maps dig vessels out, as far as AdamW moves the field: rates are ten times a draft's (docs/recovery.md).
    "nerf.normal_share": 0.3,
    "nerf.grid_rate": 0.2,
    "nerf.head_rate": 0.05,
    "geometry.levels": 70,
    "geometry.views": 3,
    "geometry.sdf_rate": 0.05,
    "geometry.offset_rate": 0.05,
    # Where there is little noise nothing holds a size, where there is much it is held (docs/decisions.md): so it begins
    # with more and its rates fall early. Less smoothing keeps spouts, handles and beaks.
    "geometry.start": 0.9,
    "geometry.decay_from": 0.3,
    "geometry.consistency": 0.1,
    "geometry.laplacian": 0.3,
    "texture.levels": 40,
    "texture.views": 2,
}
BATCH = 32  # pictures a step: 8 rings, or 32 single views of any rings
JOINT_SHARE = 0.7  # of the steps
RATE, WARMUP, CAMERA_RATE = 7e-4, 100, 3.0  # the camera embedding learns from nothing
AVERAGE = 0.999
# rings drawn and encoded at once, every CHUNK steps; chunks that batches are taken from
CHUNK, CHUNKS = 64, 16
LOG_STEPS, SAVE_SECONDS = 100, 300.0
# How often a kind is drawn: more where the object looks different from everywhere, or has small or thin parts.
WEIGHTS = {
    "ball": 0.4, "cone": 0.4, "donut": 0.8, "bottle": 0.8, "tree": 0.8, "cactus": 1.0, "lamp": 1.2, "tower": 1.2,
    "bowl": 1.2, "boat": 1.2, "rocket": 1.2, "duck": 1.2, "mug": 1.5, "teapot": 1.5, "cube": 1.5, "mushroom": 1.5,
    "fish": 1.5, "snowman": 1.8, "table": 2.0, "bed": 2.5, "house": 2.5, "car": 3.0, "chair": 3.0, "robot": 3.0,
    "desk": 0.0, "cabinet": 0.0, "truck": 0.0,
}  # fmt: skip
FIRST_PICTURES = 64_000  # until then, kinds that the base does not know are drawn less, by this factor:
FIRST_SHARE = 0.2


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m backend.training.rings", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="albums, state and log")
    parser.add_argument("--minutes", type=float, default=120, help="of this session (default: 120)")
    parser.add_argument(
        "--decay",
        type=int,
        nargs=2,
        metavar=("FROM", "TO"),
        help="the rate falls from FROM pictures on, and training ends at TO",
    )
    parser.add_argument(
        "--furniture", type=Path, help="the folder of the package's .sh3f files; without it, no real things"
    )
    parser.add_argument("--kinds", help="only these procedural kinds, with commas between them")
    parser.add_argument(
        "--start",
        type=Path,
        default=SHIPPED,
        help="the model's folder to begin with, where FOLDER holds no state (default: the shipped one)",
    )
    parser.add_argument(
        "--export", type=Path, help="write the model folder from the state there, and stop; its kinds stay"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    args.cache.mkdir(parents=True, exist_ok=True)
    try:
        trainer = Trainer(args.cache, args.seed, args.decay, args.start)
        if args.export is not None:
            trainer.export(args.export, args.furniture)
        else:
            kinds = args.kinds.split(",") if args.kinds else list(KINDS)
            albums = [open_ring_album(args.cache, kind) for kind in kinds]
            if args.furniture is not None:
                wanted = [kind for kind in NAMES if WEIGHTS.get(kind, 1.0)]
                albums += open_real_albums(args.furniture, args.cache, wanted)
            trainer.train(albums, args.minutes)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


class Pool:
    """Latents of the newest CHUNKS * CHUNK rings; chunk c is drawn from the seed and c, whenever it is asked for."""

    def __init__(self, vae: AutoencoderKL, drawers: tuple[Drawer, Drawer], seed: int) -> None:
        self.vae, self.drawers, self.seed = vae, drawers, seed
        self.chunks: dict[int, tuple[Tensor, Tensor, list[str]]] = {}

    def at(self, step: int) -> tuple[Tensor, Tensor, list[str]]:
        """Latents [R,4,C,h,w], cameras [R,4,4,4] and captions of R rings, for this step."""
        newest = step // CHUNK
        wanted = range(max(0, newest - CHUNKS + 1), newest + 1)
        if list(self.chunks) != list(wanted):
            self.chunks = {c: self.chunks[c] if c in self.chunks else self.make(c) for c in wanted}
            latents, cameras, captions = zip(*self.chunks.values(), strict=True)
            self.joined = (
                torch.cat(latents),
                torch.cat(cameras),
                [text for texts in captions for text in texts],
            )
        return self.joined

    @torch.no_grad()
    def make(self, chunk: int) -> tuple[Tensor, Tensor, list[str]]:
        generator = Generator().manual_seed(1_000_003 * self.seed + 2 * chunk)
        drawer = self.drawers[chunk * CHUNK * BATCH >= FIRST_PICTURES]
        rings = [drawer.draw(generator) for _ in range(CHUNK * (4 if chunk == 0 else 1))]
        latents = []
        for start in range(0, len(rings), 8):
            pixels = torch.cat([ring.images for ring in rings[start : start + 8]]) * 2 - 1
            latents.append(self.vae.encode(pixels).latent_dist.mode() * self.vae.config.scaling_factor)
        z = torch.cat(latents)
        captions = [describe(ring.description) for ring in rings]
        return z.view(len(rings), FRAMES, *z.shape[1:]), torch.stack([ring.c2w for ring in rings]), captions


class Trainer:
    """The networks, their run in `cache`, and what a step does with them."""

    def __init__(self, cache: Path, seed: int, decay: Sequence[int] | None, start: Path = SHIPPED) -> None:
        self.cache, self.seed, self.decay, self.start = cache, seed, decay, start
        torch.manual_seed(seed)
        self.tokenizer = networks.save_tokenizer(cache / "tokenizer")
        self.vae, self.unet, self.encoder = begin_with(start, self.tokenizer.get_vocab())
        camera = list(self.unet.class_embedding.parameters())
        rest = [
            p for n in (self.unet, self.encoder) for p in n.parameters() if not any(p is c for c in camera)
        ]
        self.optimizer = AdamW(
            [{"params": rest}, {"params": camera}], betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.parts: dict[str, nn.Module] = {"unet": self.unet, "text_encoder": self.encoder}
        self.run = Run(NAME, cache, self.parts, self.optimizer, AVERAGE)
        if (
            not self.run.restore() and (start / PROGRESS).is_file()
        ):  # else a first edition, which saw no rings
            self.run.seen = int(read_json(start / PROGRESS)["pictures"])
            self.run.step = self.run.seen // BATCH  # later data than it has seen

    def rate(self) -> float:
        rate = RATE * min(1.0, (self.run.step + 1) / WARMUP)
        if self.decay is not None:
            begin, end = self.decay
            rate *= 1 - 0.95 * min(1.0, max(0.0, (self.run.seen - begin) / (end - begin)))
        return rate

    def train(self, albums: list, minutes: float) -> None:
        """Steps until the minutes, or the decay, are over."""
        known = {kind: WEIGHTS.get(kind, 1.0) for kind in {album.kind for album in albums}}
        first = {kind: w if kind in FIRST_KINDS else FIRST_SHARE * w for kind, w in known.items()}
        pool = Pool(self.vae, (Drawer(albums, first), Drawer(albums, known)), self.seed)
        sentences = Sentences(self.tokenizer)
        self.unet.train()
        self.encoder.train()
        began = saved = time.monotonic()
        spent, cpu, log = self.run.seconds, time.process_time(), Log(self.cache / f"{NAME}.log")
        end = math.inf if self.decay is None else self.decay[1]
        asked: list[int] = []  # to end: the step is finished and the state saved
        signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
        while not asked and self.run.seen < end and time.monotonic() - began < 60 * minutes:
            error, t, joint = self.one_step(pool, sentences)
            self.run.step += 1
            self.run.follow()
            self.run.seconds = spent + time.monotonic() - began
            log.note(error, t, joint)
            if self.run.step % LOG_STEPS == 0:
                log.write(self.run, time.process_time() - cpu)
            if time.monotonic() - saved > SAVE_SECONDS:
                saved = time.monotonic()
                self.run.save()
        self.run.save()

    def one_step(self, pool: Pool, sentences: Sentences) -> tuple[Tensor, Tensor, bool]:
        """One update: the error a picture [B], its timestep [B], and whether rings were joint."""
        run = self.run
        generator = Generator().manual_seed(1_000_003 * self.seed + 2 * run.step + 1)
        joint = chance(JOINT_SHARE, generator)
        x, c2w, captions = take(pool.at(run.step), joint, generator)
        for group, times in zip(self.optimizer.param_groups, (1.0, CAMERA_RATE), strict=True):
            group["lr"] = self.rate() * times
        error, t = ring_loss(
            self.unet, self.encoder, sentences(captions), x, c2w, FRAMES if joint else 1, generator
        )
        run.learn(error.mean(), BATCH)
        return error.detach(), t, joint

    def export(self, folder: Path, furniture: Path | None) -> None:
        """The average as a model folder, with the credits of the real things in `furniture`, or of its start's.

        It states every kind that was shown; over an older export, those of them that the older one states: which
        kinds are made well enough to be offered is decided in its dreamflow.json. InputError before the first state
        was saved.
        """
        if not self.run.average:
            raise InputError(f"There is no training state in {self.cache}.", "Train first, without --export.")
        self.run.put_average()
        items = (
            [] if furniture is None else [i for i in find_furniture(furniture) if WEIGHTS.get(i.kind, 1.0)]
        )
        held = held_out_instances(items)
        kinds = [kind for kind in THINGS if kind in KINDS or any(item.kind == kind for item in items)]
        if (stated := folder / "dreamflow.json").is_file():
            kinds = [kind for kind in kinds if kind in read_json(stated)["kinds"]]
        text = credits([item for item in items if item.id not in held]) if items else ""
        if not items and (self.start / CREDITS).is_file():
            text = (self.start / CREDITS).read_text("utf-8")
        write_rings_model(folder, self.parts | {"vae": self.vae}, kinds, text)
        export.write_json(folder / PROGRESS, {"pictures": self.run.seen})


def rings_statement(kinds: Sequence[str]) -> dict[str, Any]:
    """dreamflow.json: the first edition's without view words; the camera is told by its matrix, four views at once."""
    stated = export.statement(refiner=False)
    del stated["views"]
    return stated | {
        "poses": asdict(RING_POSES),
        "kinds": list(kinds),
        "view_prompt": "{prompt}",
        "camera": "c2w",
        "frames": FRAMES,
        "settings": export.SETTINGS | RING_SETTINGS,
    }


def write_rings_model(folder: Path, parts: dict[str, nn.Module], kinds: Sequence[str], credits: str) -> None:
    """parts: unet, text_encoder, vae. credits: whose models the pictures showed; "" where they were all made here."""
    export.write_model(folder, parts, refiner=False)
    export.write_json(folder / "dreamflow.json", rings_statement(kinds))
    if credits:
        write_text(folder / CREDITS, credits)


def begin_with(
    folder: Path, vocabulary: dict[str, int]
) -> tuple[AutoencoderKL, UNet2DConditionModel, nn.Module]:
    """The VAE, UNet and text encoder of a model folder, with rows for words that it does not know.

    A first edition's UNet gets a camera embedding, which says nothing yet.
    """
    cpu = torch.device("cpu")
    model = open_folder(folder)
    old_tokenizer, old_encoder = load_text(model, cpu)
    old_unet = load_network(model, cpu).unet
    assert isinstance(old_unet, nn.Module)
    unet = networks.make_unet(False, camera=True)
    missing, unexpected = unet.load_state_dict(old_unet.float().state_dict(), strict=False)
    assert not unexpected and all(name.startswith("class_embedding.") for name in missing)
    encoder = networks.make_text_encoder(False, len(vocabulary))
    encoder.load_state_dict(networks.grown_state(old_tokenizer.get_vocab(), old_encoder, vocabulary))
    return load_vae(model, cpu).float(), unet, encoder


def take(
    pool: tuple[Tensor, Tensor, list[str]], joint: bool, generator: Generator
) -> tuple[Tensor, Tensor, list[str]]:
    """A batch: latents [BATCH,C,h,w], cameras [BATCH,4,4] and captions, of whole rings or of single views."""
    latents, cameras, captions = pool

    def said(ring: int) -> str:
        return "" if chance(NO_CAPTION_SHARE, generator) else captions[ring]

    if joint:
        rings = [pick(len(latents), generator) for _ in range(BATCH // FRAMES)]
        texts = [text for text in map(said, rings) for _ in range(FRAMES)]
        return latents[rings].flatten(0, 1), cameras[rings].flatten(0, 1), texts
    views = [(pick(len(latents), generator), pick(FRAMES, generator)) for _ in range(BATCH)]
    ring, view = (list(column) for column in zip(*views, strict=True))
    return latents[ring, view], cameras[ring, view], [said(r) for r in ring]


def ring_loss(
    unet: UNet2DConditionModel,
    encoder: nn.Module,
    tokens: Tensor,
    x: Tensor,
    c2w: Tensor,
    frames: int,
    generator: Generator,
) -> tuple[Tensor, Tensor]:
    """Mean squared error of v a picture [B], and its timestep [B]; one timestep a ring of `frames` pictures."""
    t = torch.randint(1000, (len(x) // frames,), generator=generator).repeat_interleave(frames)
    noise = torch.randn(x.shape, generator=generator)
    join_frames(unet, frames)
    with precision(x.device):
        hidden = encoder(tokens).last_hidden_state
        told = {"encoder_hidden_states": hidden, "class_labels": camera_label(c2w)}
        return v_error(unet, x, noise, t, **told), t


class Log:
    """Mean errors of the last LOG_STEPS steps by quarter of the noise, low to high; a JSON line each."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, {True: [], False: []}  # type: tuple[Path, dict[bool, list[Tensor]]]

    def note(self, error: Tensor, t: Tensor, joint: bool) -> None:
        self.rows[joint].append(torch.stack((t // 250, error)))

    def write(self, run: Run, cpu: float) -> None:
        line: dict[str, object] = {
            "step": run.step,
            "seen": run.seen,
            "seconds": round(run.seconds),
            "cpu": round(cpu),
        }
        for joint, name in ((False, "single"), (True, "joint")):
            if not self.rows[joint]:
                continue
            quarter, error = torch.cat(self.rows[joint], 1)
            line[name] = [round(float(error[quarter == q].mean()), 4) for q in range(4)]
            line[f"{name} mean"] = round(float(error.mean()), 5)
            self.rows[joint] = []
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    sys.exit(main())
