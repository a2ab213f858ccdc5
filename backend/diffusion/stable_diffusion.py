"""D_p by Stable Diffusion 2.1(-base), with D_phi on Stable Diffusion 2.1 or on the same network.

Images are NHWC in [0, 1] outside and NCHW in [-1, 1] in this file alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTokenizer

from backend.diffusion.denoiser import Network, Text, denoise_guided
from backend.diffusion.load import load_network, load_text, load_tokenizer, load_vae
from backend.diffusion.lora import LoRAPhi
from backend.diffusion.models import ModelFolder, describe, open_folder
from backend.diffusion.prior import Kind, Poses
from backend.diffusion.schedule import NoiseLevel
from backend.diffusion.statement import Statement
from backend.diffusion.views import VIEWS, view_words
from backend.errors import InputError, ModelError
from backend.scene.camera import Camera

LATENT_SPACE = {"latent_channels": 4, "scaling_factor": 0.18215}  # of a VAE, with AutoencoderKL's defaults


@dataclass(frozen=True)
class Conditioning:
    """A prompt as the networks read it."""

    views: Text  # four rows, one a view word, in the order of VIEWS
    negative: Text  # one row
    phi: Text  # one row, without view words


class StableDiffusionPrior:
    """A Prior over a folder in diffusers' layout; epsilon or v prediction as its scheduler says.

    phi_folder  a model for D_phi in the same latent space (SD 2.1, v prediction); None: D_p's own UNet, with
                the adapter switched, which takes less memory

    Raises ModelError where a folder is missing, damaged or does not fit.
    """

    def __init__(
        self, folder: str | Path, device: torch.device | str, phi_folder: str | Path | None = None
    ) -> None:
        self._device = torch.device(device)
        self._model = open_folder(folder)
        self._phi_model = self._model if phi_folder is None else open_folder(phi_folder)
        check_same_latents(self._model, self._phi_model)
        statement = self._model.statement
        self.name = self._model.path.name
        self.factor = self._model.factor
        self.poses: Poses = statement.poses
        self.backgrounds = statement.backgrounds
        self.normal_background, self.guidance = statement.normal_background, statement.guidance
        self.native_size = statement.native_size
        self._network = load_network(self._model, self._device)
        self._phi_network: Network | None = None  # loaded by the first `phi`, unless it is D_p's own
        self._vae = load_vae(self._model, self._device)
        self.channels = int(self._vae.config.latent_channels)

    def check(self, prompt: str, negative: str, kind: Kind, size: int) -> None:
        """InputError for a prompt that is empty or too long, or a size that is not whole in latent pixels."""
        tokenize(load_tokenizer(self._model), write_sentences(self._model.statement, prompt, negative, kind))
        fed_size(size, size, self.native_size, self.factor)

    def prepare(self, prompt: str, negative: str, kind: Kind, size: int) -> Conditioning:
        """All sentences through the text encoder in one go; the encoder is let go of afterwards."""
        sentences = write_sentences(self._model.statement, prompt, negative, kind)
        text = encode_text(self._model, sentences, self._device)
        views, rest = text[: len(VIEWS)], text[len(VIEWS) :]
        own = rest[1:]
        if self._phi_model is not self._model:
            own = encode_text(self._phi_model, sentences[-1:], self._device)
        return Conditioning(Text(views), Text(rest[:1]), Text(own))

    def encode(self, image: Tensor) -> Tensor:
        """[B,H,W,3] in [0,1] to scaled latents [B,C,h,w], differentiable; small images are enlarged first."""
        return to_latent(self._vae, image, self.native_size, self.factor)

    def decode(self, x: Tensor) -> Tensor:
        """Scaled latents [B,C,h,w] to [B,H,W,3] in [0,1], without a gradient."""
        return to_image(self._vae, x)

    @torch.no_grad()
    def denoise(
        self, z: Tensor, level: NoiseLevel, camera: Camera, conditioning: Conditioning, guidance_scale: float
    ) -> Tensor:
        """D_p(z) [B,C,h,w], guided; see Prior."""
        text = conditioning.views.rows([VIEWS.index(word) for word in view_words(camera)])
        return denoise_guided(self._network, z, level, text, conditioning.negative, guidance_scale)

    def phi(
        self, conditioning: Conditioning, rank: int, learning_rate: float, warmup: int, seed: int
    ) -> LoRAPhi:
        """A fresh D_phi; it replaces the one before."""
        if self._phi_model is self._model:
            self._phi_network = self._network
        elif self._phi_network is None:
            self._phi_network = load_network(self._phi_model, self._device)
        return LoRAPhi(self._phi_network, conditioning.phi, rank, learning_rate, warmup, seed)

    def describe(self) -> dict[str, Any]:
        """Name, folders and hashes of the weights, for job.json."""
        shared = self._phi_model is self._model
        return {
            "name": self.name,
            "prior": describe(self._model),
            "phi": "shared" if shared else describe(self._phi_model),
        }


def check_same_latents(model: ModelFolder, phi: ModelFolder) -> None:
    """ModelError unless D_phi's network lives in the latent space of D_p's VAE."""
    if phi.pipeline != model.pipeline:
        raise ModelError(
            f"{phi.path} holds a {phi.pipeline}, expected a {model.pipeline} for D_phi.",
            "Give Stable Diffusion 2.1, or let D_phi share the prior's network.",
        )
    pairs = [
        (name, phi.configs["vae"].get(name, default), model.configs["vae"].get(name, default))
        for name, default in LATENT_SPACE.items()
    ]
    for name, got, expected in [*pairs, ("pixels per latent", phi.factor, model.factor)]:
        if got != expected:
            raise ModelError(
                f"{phi.path} does not fit {model.path}: its {name} is {got}, expected {expected}.",
                "Give a model for D_phi that shares the prior's VAE, or let D_phi share the prior's network.",
            )


def write_sentences(statement: Statement, prompt: str, negative: str, kind: Kind) -> list[str]:
    """One sentence a view word in the order of VIEWS, then the negative, then the prompt without view words."""
    if not prompt.strip():
        raise InputError("The prompt is empty.", "Describe one object, for example: a red mug.")
    if kind == "normal":
        prompt = statement.normal_prompt.format(prompt=prompt)
    return [*(statement.view_prompt.format(prompt=prompt, view=view) for view in VIEWS), negative, prompt]


def tokenize(tokenizer: CLIPTokenizer, sentences: Sequence[str]) -> Tensor:
    """[N, model_max_length] int64. InputError for a sentence that is too long: its end, the view, would be lost."""
    limit = tokenizer.model_max_length
    for sentence in sentences:
        length = len(tokenizer(sentence).input_ids)
        if length > limit:
            raise InputError(
                f"The prompt has {length} tokens with its view words, the model takes {limit}: {sentence!r}.",
                "Shorten the prompt or the negative prompt.",
            )
    tokens: Tensor = tokenizer(
        list(sentences), padding="max_length", max_length=limit, return_tensors="pt"
    ).input_ids
    return tokens


@torch.no_grad()
def encode_text(model: ModelFolder, sentences: Sequence[str], device: torch.device) -> Tensor:
    """[N,L,E] float32, the last hidden states; loads the text encoder and lets go of it."""
    tokenizer, encoder = load_text(model, device)
    hidden: Tensor = encoder(tokenize(tokenizer, sentences).to(device)).last_hidden_state
    return hidden


def fed_size(height: int, width: int, native: int, factor: int) -> tuple[int, int]:
    """The size at which an image is encoded: its own, or enlarged so that its shorter side is `native`.

    Raises InputError unless both sides are then whole numbers of latent pixels.
    """
    shorter = min(height, width)
    scale = max(1.0, native / shorter)
    fed = round(height * scale), round(width * scale)
    if fed[0] % factor or fed[1] % factor:
        raise InputError(
            f"The prior cannot take an image of {height} x {width} pixels (fed as {fed[0]} x {fed[1]}).",
            f"Render at a size whose sides are multiples of {factor}.",
        )
    return fed


def to_latent(vae: AutoencoderKL, image: Tensor, native: int, factor: int) -> Tensor:
    """[B,H,W,3] in [0,1] to [B,C,h,w], scaled, differentiable; the mode, so deterministic."""
    if image.ndim != 4 or image.shape[-1] != 3:
        raise InputError(f"An image is [B,H,W,3], got {list(image.shape)}.", "Pass renders without alpha.")
    fed = fed_size(image.shape[1], image.shape[2], native, factor)
    pixels = image.permute(0, 3, 1, 2) * 2 - 1
    if fed != (image.shape[1], image.shape[2]):
        pixels = nn.functional.interpolate(pixels, fed, mode="bilinear", align_corners=False)
    mode: Tensor = vae.encode(pixels.to(vae.dtype)).latent_dist.mode()
    return mode.float() * vae.config.scaling_factor


@torch.no_grad()
def to_image(vae: AutoencoderKL, x: Tensor) -> Tensor:
    """[B,C,h,w], scaled, to [B,H,W,3] in [0,1]."""
    pixels: Tensor = vae.decode((x / vae.config.scaling_factor).to(vae.dtype)).sample
    return (pixels.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
