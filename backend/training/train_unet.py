"""The UNets' training: v-prediction on latents of generated pictures, text encoder and UNet together.

Pictures are encoded once, kept in a ring and used a few times each before newer ones replace them. The
refiner is used on renders that are worse than what it knows, so it learns just that: what SDEdit makes of a
damaged picture lies, at noise level s, at x + (s / s0) (y - x) + s n (x clean, y damaged, s0 where it began),
which is x under the noise n + (y - x) / s0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Generator, Tensor, nn
from torch.nn import functional
from transformers import CLIPTokenizer

from backend.diffusion.schedule import sigma_table
from backend.training.damage import damage, soften
from backend.training.dataset import Picture, caption, chance
from backend.training.networks import NATIVE_SIZE
from backend.training.run import Run, precision, set_rate
from dreamflow_blender.contract.language.reading import Description

RATES, WARMUP = {"base": 1.5e-3, "refiner": 8e-4}, 0.005
PLANNED = {"base": 840_000, "refiner": 200_000}  # pictures
BATCH = 32
FRESH_SHARE = 0.125  # of a batch's size, so many new pictures come with every step
REFINER_FROM = 500  # the refiner learns timesteps below this: the low-noise half
GOOD, BAD = 6.0, 2.5  # aesthetic scores of clean pictures and of blurred ones, as SDXL's pipeline gives them
BAD_SHARE = 0.15
BEGUN = 150  # the least timestep at which a damaged picture was given noise


class Entry(NamedTuple):
    """One picture: its latents, those of it damaged, what it shows, and height, width, top, left, score."""

    latents: Tensor
    worse: Tensor
    shown: Description
    time_ids: tuple[float, ...]


@dataclass
class Ring:
    """Latents of the newest pictures and what they show.

    draw   a random picture
    side   pixels a side of a picture
    crops  whether a picture is a crop, for the refiner, or a whole view made as small as `side`
    """

    vae: AutoencoderKL
    draw: Callable[[Generator], Picture]
    side: int
    crops: bool
    room: int
    generator: Generator
    kept: list[Entry] = field(default_factory=list)
    next: int = 0

    @torch.no_grad()
    def add(self, count: int) -> None:
        """Draw and encode `count` new pictures; when the ring is full, they replace the oldest."""
        images, damaged, described, time_ids = [], [], [], []
        for _ in range(count):
            picture = self.draw(self.generator)
            image, size, score = picture.image, picture.image.shape[-1], GOOD
            top = left = 0
            if self.crops:
                if chance(BAD_SHARE, self.generator):
                    score, image = BAD, soften(image, self.generator)
                if size > self.side:
                    top, left = torch.randint(size - self.side + 1, (2,), generator=self.generator).tolist()
                    image = image[:, top : top + self.side, left : left + self.side]
                alpha = picture.alpha[top : top + self.side, left : left + self.side]
                damaged.append(damage(image, alpha, self.generator))
            elif size > self.side:
                image = functional.avg_pool2d(image[None], size // self.side)[0]
            images.append(image)
            described.append(picture.description)
            time_ids.append((size, size, top, left, score))
        device = next(self.vae.parameters()).device
        pixels = torch.stack(images + damaged).to(device) * 2 - 1
        new = self.vae.encode(pixels).latent_dist.mode() * self.vae.config.scaling_factor
        clean, worse = new[:count], new[count:] if self.crops else new
        for entry in map(Entry, clean, worse, described, time_ids):
            if len(self.kept) < self.room:
                self.kept.append(entry)
            else:
                self.kept[self.next] = entry
                self.next = (self.next + 1) % self.room

    def take(self, count: int) -> tuple[Tensor, Tensor, list[str], Tensor]:
        """Latents [count,C,h,w], of the damaged pictures too, captions, and the refiner's time ids [count,5]."""
        rows = torch.randint(len(self.kept), (count,), generator=self.generator).tolist()
        clean, worse, shown, time_ids = zip(*(self.kept[row] for row in rows), strict=True)
        captions = [caption(one, self.generator) for one in shown]
        return torch.stack(clean), torch.stack(worse), captions, torch.tensor(time_ids)


def refiner_rings(
    vae: AutoencoderKL, draw: Callable[[Generator], Picture], batch: int, room: int, generator: Generator
) -> list[tuple[Ring, int]]:
    """Crops of a quarter, and more of what the refiner will be fed: whole views. draw: pictures twice NATIVE_SIZE."""
    crops = (Ring(vae, draw, NATIVE_SIZE, True, room // 2, generator), batch)
    whole = (Ring(vae, draw, 2 * NATIVE_SIZE, True, room // 8, generator), batch // 4)
    return [crops, whole, whole]


class Sentences:
    """Token rows by caption: few captions make many pictures."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, Tensor] = {}

    def __call__(self, captions: list[str]) -> Tensor:
        """[N, model_max_length] int64."""
        for text in captions:
            if text not in self._known:
                limit = self._tokenizer.model_max_length
                row = self._tokenizer(
                    text, padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
                )
                self._known[text] = row.input_ids[0]
        return torch.stack([self._known[text] for text in captions])


def loss_of(
    unet: UNet2DConditionModel,
    encoder: nn.Module,
    tokens: Tensor,
    x: Tensor,
    y: Tensor,
    time_ids: Tensor | None,
    generator: Generator,
) -> Tensor:
    """Weighted mean squared error of v = sqrt(alpha_bar) n - sqrt(1 - alpha_bar) x at a random timestep a picture.

    x, y: latents [B,C,h,w] of clean pictures and, for the refiner, of the same ones damaged.
    time_ids: the refiner's sizes and score [B,5]; None for the base model. The generator lives on the CPU.
    """
    sigmas = sigma_table().float().to(x.device)
    limit = 1000 if time_ids is None else REFINER_FROM
    t = torch.randint(limit, (len(x),), generator=generator).to(x.device)
    noise = torch.randn(x.shape, generator=generator).to(x.device)
    weight = torch.ones(len(x), device=x.device)
    if time_ids is not None:
        share = torch.rand(len(x), generator=generator).to(x.device)
        least = t.clamp(min=BEGUN)
        begun = least + (share * (limit - least)).long()
        harm = (y - x) / sigmas[begun][:, None, None, None]
        noise = noise + harm
        weight = 1 / (1 + harm.square().mean((1, 2, 3)))  # or the few worst pictures would be all that counts
    with precision(x.device):
        output = encoder(tokens.to(x.device), output_hidden_states=time_ids is not None)
        if time_ids is None:
            hidden, added = output.last_hidden_state, None
        else:
            hidden = output.hidden_states[-2]
            added = {"text_embeds": output.text_embeds, "time_ids": time_ids.to(x.device)}
        error = v_error(unet, x, noise, t, encoder_hidden_states=hidden, added_cond_kwargs=added)
    return (weight * error).mean()


def v_error(unet: UNet2DConditionModel, x: Tensor, noise: Tensor, t: Tensor, **told: Any) -> Tensor:
    """[B]: mean squared error of v a picture x [B,C,h,w] under the noise, at its timestep t [B] int64."""
    sigma = sigma_table().float().to(x.device)[t][:, None, None, None]
    signal = (1 + sigma**2).rsqrt()
    v = unet(signal * (x + sigma * noise), t, **told).sample.float()
    return (v - signal * (noise - sigma * x)).square().mean((1, 2, 3))


def train(
    run: Run,
    unet: UNet2DConditionModel,
    encoder: nn.Module,
    tokenizer: CLIPTokenizer,
    rings: list[tuple[Ring, int]],
    minutes: float,
    planned: int,
    seed: int,
) -> None:
    """Up to `planned` pictures. rings: where pictures come from and how many at a time, taken in turn."""
    generator = Generator().manual_seed(seed + run.step)
    sentences = Sentences(tokenizer)
    unet.train()
    encoder.train()
    for ring, _ in rings:
        while len(ring.kept) < ring.room // 8:
            ring.add(BATCH)
    for step in run.work(minutes, planned):
        ring, count = rings[step % len(rings)]
        ring.add(max(1, round(count * FRESH_SHARE)))
        set_rate(run.optimizer, RATES[run.name], WARMUP, run.seen / planned)
        x, y, captions, time_ids = ring.take(count)
        ids = time_ids if run.name == "refiner" else None
        run.learn(loss_of(unet, encoder, sentences(captions), x, y, ids, generator), count)
