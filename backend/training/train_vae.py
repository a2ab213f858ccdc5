"""The VAE's training: renders, normal maps, and a third of junk, so that it is right off the data as well."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Generator, Tensor
from torch.nn import functional

from backend.training.dataset import Album, chance, draw, spoil
from backend.training.run import Run, precision, set_rate, width

BATCH = 8
PLANNED = 72_000  # pictures
ENCODER_UNTIL = 36_000  # then the encoder stands still: the UNets can begin while the decoder goes on
RATE, WARMUP = 2e-3, 0.01
JUNK_SHARE = 0.33
KL_WEIGHT = 1e-7


def pictures(albums: list[Album], count: int, side: int, generator: Generator) -> Tensor:
    """[count,3,side,side] in [0,1]: half whole views made smaller, half crops at full size."""
    images = []
    for _ in range(count):
        image = draw(albums, generator).image
        if chance(0.5, generator):
            image = functional.avg_pool2d(image[None], image.shape[-1] // side)[0]
        else:
            y, x = torch.randint(image.shape[-1] - side + 1, (2,), generator=generator).tolist()
            image = image[:, y : y + side, x : x + side]
        images.append(image)
    return torch.stack(images)


def batch(albums: list[Album], count: int, side: int, generator: Generator) -> Tensor:
    """[count,3,side,side] in [0,1], the last ones junk."""
    images = pictures(albums, count, side, generator)
    junk = max(1, round(count * JUNK_SHARE))
    return torch.cat((images[junk:], spoil(images[:junk], images[junk : 2 * junk], generator)))


def loss_of(vae: AutoencoderKL, image: Tensor, generator: Generator) -> Tensor:
    """L1 + L2 / 2 + 0.3 L1 of differences between neighbours, and a little KL, for images in [0, 1]."""
    pixels = image * 2 - 1
    with precision(image.device):
        posterior = vae.encode(pixels).latent_dist
        result = vae.decode(posterior.sample(generator)).sample
        divergence = posterior.kl().float().mean()
    error = result.float() - pixels
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    reconstruction = error.abs().mean() + 0.5 * error.square().mean() + 0.3 * edges
    return reconstruction + KL_WEIGHT * divergence


def train(run: Run, vae: AutoencoderKL, albums: list[Album], side: int, minutes: float, seed: int) -> None:
    """Up to PLANNED pictures, on a GPU more; the generator follows from the seed and the position."""
    generator = Generator().manual_seed(seed + run.step)
    device = next(vae.parameters()).device
    wide = width(device)
    planned = PLANNED * wide
    vae.train()
    for _ in run.work(minutes, planned):
        if run.seen >= ENCODER_UNTIL * wide and vae.quant_conv.weight.requires_grad:
            freeze(run, vae)
        set_rate(run.optimizer, RATE, WARMUP, run.seen / planned)
        image = batch(albums, BATCH * wide, side, generator).to(device)
        run.learn(loss_of(vae, image, generator), len(image))


def freeze(run: Run, vae: AutoencoderKL) -> None:
    """End the encoder's training at its average; the decoder goes on from its own average."""
    run.put_average()
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(False)


@torch.no_grad()
def latent_scale(vae: AutoencoderKL, image: Tensor) -> float:
    """The scaling_factor: 1 / standard deviation of the latents of clean pictures [B,3,H,W]."""
    return 1 / float(vae.encode(image * 2 - 1).latent_dist.mode().std())
