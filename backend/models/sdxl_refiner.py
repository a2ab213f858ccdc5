"""D_p and D_phi by the SDXL refiner (stage 3): one network, its LoRA switched on for D_phi alone.

The refiner reads the OpenCLIP bigG encoder only, its last but one hidden states and its pooled projection,
and is told the image's size, crop and an aesthetic score (SDXL's micro-conditioning, in the refiner's form).
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from backend.diffusion.denoiser import Network, Text, denoise_guided, notes_of
from backend.diffusion.lora import LoRAPhi
from backend.diffusion.prior import Kind, Poses
from backend.diffusion.savings import Thrift, save_network, save_vae
from backend.diffusion.schedule import NoiseLevel
from backend.diffusion.view_words import view_indices
from backend.models.load import footprint, load_network, load_tokenizer, load_vae, network_dtype
from backend.models.model_folder import describe, open_folder
from backend.models.stable_diffusion import (
    Conditioning,
    SpellOut,
    fed_size,
    to_image,
    to_latent,
    write_sentences,
)
from backend.models.text import Embedding, encode_sentences, tokenize
from backend.scene.camera import Camera

AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5  # diffusers' defaults for this model


class SDXLRefinerPrior:
    """A Prior over the refiner's folder in diffusers' layout.

    Networks are loaded when they are first needed. Raises ModelError where the folder is missing, damaged or
    does not fit.
    """

    def __init__(
        self, folder: str | Path, device: torch.device | str, spell_out: SpellOut | None = None
    ) -> None:
        self._device, self._spell_out = torch.device(device), spell_out
        self._model = open_folder(folder)
        statement = self._model.statement
        self.name = self._model.path.name
        self.factor = self._model.factor
        self.poses: Poses = statement.poses
        self.backgrounds = statement.backgrounds
        self.normal_background, self.guidance = statement.normal_background, statement.guidance
        self.target, self.lora = statement.target, statement.lora
        self.settings = statement.settings
        self.native_size, self.frames = statement.native_size, 1
        self.channels = int(self._model.configs["vae"]["latent_channels"])
        self._thrift = Thrift()

    @cached_property
    def _network(self) -> Network:
        network = load_network(self._model, self._device)
        save_network(self._thrift, network)
        return network

    @cached_property
    def _vae(self) -> AutoencoderKL:
        vae = load_vae(self._model, self._device)
        save_vae(self._thrift, vae)
        return vae

    def load(self) -> None:
        """Now, rather than when they are first needed."""
        _ = self._network, self._vae

    def release(self) -> None:
        """Let go of both networks; they are loaded again when they are needed."""
        for name in ("_network", "_vae"):
            self.__dict__.pop(name, None)

    def save_memory(self, thrift: Thrift) -> None:
        """From now on, without an end."""
        self._thrift = thrift
        if "_network" in self.__dict__:
            save_network(thrift, self._network)
        if "_vae" in self.__dict__:
            save_vae(thrift, self._vae)

    def take_notes(self) -> list[str]:
        """See Prior."""
        return notes_of([self._network] if "_network" in self.__dict__ else [])

    def footprint(self, size: int, thrift: Thrift) -> float:
        """See Prior."""
        fed, _ = fed_size(size, size, self.native_size, self.factor)
        return footprint(self._model, None, fed, network_dtype(self._device), thrift)

    def check(self, prompt: str, negative: str, kind: Kind, size: int) -> None:
        """InputError for a prompt that is empty or too long, or a size that is not whole in latent pixels."""
        sentences = write_sentences(self._model.statement, prompt, negative, kind, self._spell_out)
        tokenize(load_tokenizer(self._model), sentences)
        fed_size(size, size, self.native_size, self.factor)

    def prepare(self, prompt: str, negative: str, kind: Kind, size: int) -> Conditioning:
        """All sentences through the text encoder, or out of the cache; `size` is the renders' side in pixels."""
        sentences = write_sentences(self._model.statement, prompt, negative, kind, self._spell_out)
        rows = encode_sentences(self._model, sentences, self._device, read_text)
        hidden, pooled = rows["hidden"], rows["pooled"]
        side, _ = fed_size(size, size, self.native_size, self.factor)
        good, bad = (
            torch.tensor([[side, side, 0, 0, score]], device=self._device)
            for score in (AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE)
        )
        n = len(self._model.statement.views)
        plain = Text(hidden[n + 1 :], pooled[n + 1 :], good)
        return Conditioning(
            views=Text(hidden[:n], pooled[:n], good.expand(n, -1)),
            negative=Text(hidden[n : n + 1], pooled[n : n + 1], bad),
            phi=plain,
            shared=plain,
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
        text = conditioning.views.rows(view_indices(camera, self._model.statement.views))
        return denoise_guided(self._network, z, level, text, conditioning.negative, guidance_scale)

    def phi(
        self, conditioning: Conditioning, rank: int, learning_rate: float, warmup: int, seed: int
    ) -> LoRAPhi:
        """A fresh D_phi on D_p's own network; it replaces the one before."""
        phi = LoRAPhi(self._network, conditioning.phi, rank, learning_rate, warmup, seed)
        save_network(self._thrift, self._network)  # of the adapters' layers as well
        return phi

    def describe(self) -> dict[str, Any]:
        """Name, folder and hashes of the weights, for job.json."""
        return {"name": self.name, "prior": describe(self._model), "phi": "shared"}


def read_text(encoder: nn.Module, tokens: Tensor) -> Embedding:
    """The last but one hidden states and the pooled projection."""
    output = encoder(tokens, output_hidden_states=True)
    return {"hidden": output.hidden_states[-2], "pooled": output.text_embeds}
