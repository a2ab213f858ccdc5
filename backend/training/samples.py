"""Sheets of pictures that show what the embedded prior has learnt; `train` writes them, `benchmarks/mini.py` too."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional

from backend.diffusion.prior import Prior
from backend.diffusion.schedule import noise_levels
from backend.diffusion.view_words import COMPASS, VIEWS
from backend.objects.kinds import COLOURS
from backend.scene.camera import Camera, orbit
from backend.training.dataset import POSES, Album, draw, held_out
from dreamflow_blender.contract.language.reading import Description

STEPS = 30  # of a sample, from noise
SIDE = 64  # pixels of the base model's pictures
FROM, LEVELS = 0.3, 15  # the paper's t for the refiner, and steps from there
REFINED = 8  # pictures on the refiner's sheet
BLURRED = 4  # times smaller, and back


def view_cameras(words: list[str], size: int) -> Camera:
    """One camera a word of VIEWS or COMPASS, in the middle of what the word means."""
    turns = {word: 45.0 * i for i, word in enumerate(COMPASS)} | {"side": 90.0, "overhead": 0.0}
    azimuth = torch.tensor([(turns[word] + 180) % 360 - 180 for word in words])
    elevation = torch.tensor([75.0 if word == "overhead" else 20.0 for word in words])
    distance = torch.full_like(azimuth, sum(POSES.distance) / 2)
    return orbit(azimuth, elevation, distance, torch.full_like(azimuth, POSES.fov[0]), size, size)


@torch.no_grad()
def sample(prior: Prior, prompt: str, camera: Camera, guidance_scale: float, generator: Generator) -> Tensor:
    """[N,H,W,3]: pictures of the prompt, one a camera, by STEPS Euler steps of the probability flow."""
    conditioning = prior.prepare(prompt, "", "colour", camera.height)
    levels = noise_levels(1.0, 0.0, STEPS)
    side = camera.height // prior.factor
    z = levels[0].sigma * torch.randn(len(camera), prior.channels, side, side, generator=generator)
    for level in levels:
        denoised = prior.denoise(z, level, camera, conditioning, guidance_scale)
        z = z + level.kappa * (denoised - z)
    return prior.decode(z)


def prompts(kinds: tuple[str, ...] | list[str]) -> list[str]:
    """Two a kind: a colour that training has seen and, where one was, a colour held out from it."""
    found = []
    for i, kind in enumerate(kinds):
        colours = list(COLOURS)[i:] + list(COLOURS)[:i]  # the sheet is not of one colour
        held = [colour for colour in colours if held_out(kind, colour)]
        seen = [colour for colour in colours if not held_out(kind, colour)]
        found += [f"a {colour} {kind}" for colour in (held + seen[1:])[:1] + seen[:1]]
    return found


def sample_sheet(prior: Prior, kinds: tuple[str, ...] | list[str], guidance: float, path: Path) -> None:
    """Every kind in two colours, four views each, a kind a row."""
    generator = Generator().manual_seed(0)
    camera = view_cameras(list(VIEWS), SIDE)
    pictures = [sample(prior, prompt, camera, guidance, generator) for prompt in prompts(kinds)]
    save_sheet(torch.cat(pictures), path, 2 * len(VIEWS))


@torch.no_grad()
def sdedit(
    prior: Prior, image: Tensor, description: Description, guidance: float, generator: Generator
) -> Tensor:
    """image [1,H,W,3] with noise to t = 0.3, then along the probability flow to 0 (SDEdit)."""
    size = image.shape[1]
    prompt = f"a {description.colour} {description.kind}"
    conditioning = prior.prepare(prompt, "", "colour", size)
    camera = view_cameras([description.view or "front"], size)
    levels = noise_levels(FROM, 0.0, LEVELS)
    x = prior.encode(image)
    z = x + levels[0].sigma * torch.randn(x.shape, generator=generator).to(x)
    for level in levels:
        z = z + level.kappa * (prior.denoise(z, level, camera, conditioning, guidance) - z)
    return prior.decode(z)


def plain_picture(albums: list[Album], generator: Generator) -> tuple[Tensor, Description]:
    """A whole view [1,H,W,3] with no part in a colour of its own, and what it shows."""
    while True:
        picture = draw(albums, generator, coarse_share=0.0)
        if not picture.description.normal_map and not picture.description.parts:
            return picture.image.permute(1, 2, 0)[None], picture.description


def blurred(image: Tensor) -> Tensor:
    """[1,H,W,3] at a quarter of its resolution, and enlarged again."""
    height, width = image.shape[1:3]
    channels = image.permute(0, 3, 1, 2)
    small = functional.interpolate(channels, (height // BLURRED, width // BLURRED), mode="area")
    return functional.interpolate(small, (height, width), mode="bilinear").permute(0, 2, 3, 1)


def refined_sheet(prior: Prior, albums: list[Album], guidance: float, path: Path) -> None:
    """Rows of clean, blurred, the blurred one refined, the clean one refined, two a row."""
    generator = Generator().manual_seed(0)
    rows = []
    for _ in range(REFINED):
        clean, description = plain_picture(albums, generator)
        worse = blurred(clean)
        rows += [clean, worse]
        rows += [sdedit(prior, image, description, guidance, generator) for image in (worse, clean)]
    save_sheet(torch.cat(rows), path, 8)


def save_sheet(images: Tensor, path: Path, across: int) -> None:
    """Pictures [N,H,W,3] in [0,1] side by side, `across` a row, as a PNG."""
    count, height, width, _ = images.shape
    rows = -(-count // across)
    sheet = torch.ones(rows * across, height, width, 3)
    sheet[:count] = images
    sheet = sheet.view(rows, across, height, width, 3).transpose(1, 2)
    sheet = sheet.reshape(rows * height, across * width, 3)
    Image.fromarray((sheet.clamp(0, 1) * 255).round().byte().numpy()).save(path)
