"""D_p and D_phi by the SDXL refiner (stage 3): one network, its LoRA switched on for D_phi alone.

The refiner reads the OpenCLIP bigG encoder only, its last but one hidden states and its pooled projection,
and is told the image's size, crop and an aesthetic score (SDXL's micro-conditioning, in the refiner's form).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backend.diffusion.denoiser import Text, denoise_guided
from backend.diffusion.load import load_network, load_text, load_tokenizer, load_vae
from backend.diffusion.lora import LoRAPhi
from backend.diffusion.models import ModelFolder, describe, open_folder
from backend.diffusion.prior import Kind, Poses
from backend.diffusion.schedule import NoiseLevel
from backend.diffusion.stable_diffusion import (
    Conditioning,
    fed_size,
    to_image,
    to_latent,
    tokenize,
    write_sentences,
)
from backend.diffusion.views import VIEWS, view_words
from backend.scene.camera import Camera

AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5  # diffusers' defaults for this model


class SDXLRefinerPrior:
    """A Prior over the refiner's folder in diffusers' layout.

    Raises ModelError where the folder is missing, damaged or does not fit.
    """

    def __init__(self, folder: str | Path, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._model = open_folder(folder)
        statement = self._model.statement
        self.name = self._model.path.name
        self.factor = self._model.factor
        self.poses: Poses = statement.poses
        self.backgrounds = statement.backgrounds
        self.normal_background, self.guidance = statement.normal_background, statement.guidance
        self.native_size = statement.native_size
        self._network = load_network(self._model, self._device)
        self._vae = load_vae(self._model, self._device)
        self.channels = int(self._vae.config.latent_channels)

    def check(self, prompt: str, negative: str, kind: Kind, size: int) -> None:
        """InputError for a prompt that is empty or too long, or a size that is not whole in latent pixels."""
        tokenize(load_tokenizer(self._model), write_sentences(self._model.statement, prompt, negative, kind))
        fed_size(size, size, self.native_size, self.factor)

    def prepare(self, prompt: str, negative: str, kind: Kind, size: int) -> Conditioning:
        """All sentences through the text encoder in one go; `size` is the side of the renders, in pixels."""
        sentences = write_sentences(self._model.statement, prompt, negative, kind)
        hidden, pooled = encode_text(self._model, sentences, self._device)
        side, _ = fed_size(size, size, self.native_size, self.factor)
        good, bad = (
            torch.tensor([[side, side, 0, 0, score]], device=self._device)
            for score in (AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE)
        )
        n = len(VIEWS)
        return Conditioning(
            views=Text(hidden[:n], pooled[:n], good.expand(n, -1)),
            negative=Text(hidden[n : n + 1], pooled[n : n + 1], bad),
            phi=Text(hidden[n + 1 :], pooled[n + 1 :], good),
        )

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
        """A fresh D_phi on D_p's own network; it replaces the one before."""
        return LoRAPhi(self._network, conditioning.phi, rank, learning_rate, warmup, seed)

    def describe(self) -> dict[str, Any]:
        """Name, folder and hashes of the weights, for job.json."""
        return {"name": self.name, "prior": describe(self._model), "phi": "shared"}


@torch.no_grad()
def encode_text(model: ModelFolder, sentences: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
    """Last but one hidden states [N,L,E] and pooled projection [N,P], float32; the encoder is let go of."""
    tokenizer, encoder = load_text(model, device)
    output = encoder(tokenize(tokenizer, sentences).to(device), output_hidden_states=True)
    return output.hidden_states[-2], output.text_embeds
