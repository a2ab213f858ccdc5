"""A Prior of the real architectures with random weights, made on the device: nothing is downloaded or written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from backend.diffusion.denoiser import Network, Text, denoise_guided
from backend.diffusion.graphs import Graphs
from backend.diffusion.lora import LoRAPhi
from backend.diffusion.prior import PriorSpec
from backend.diffusion.savings import Savings, save_network, save_vae
from backend.diffusion.schedule import NoiseLevel
from backend.models.latent_prior import to_latent
from backend.models.load import network_dtype
from backend.scene.camera import Camera
from tests.tools.tiny_models import NUMBERS, unet, vae


@contextmanager
def made_in(dtype: torch.dtype) -> Iterator[None]:
    """Modules are made in it at once: in float32 first, the refiner would fill a small card."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class RandomPrior:
    """Stable Diffusion 2.1-base with 2.1 for D_phi, or the SDXL refiner; `size` is "full" or "tiny"."""

    factor, channels, spec = 8, 4, PriorSpec()

    def __init__(self, refiner: bool, size: Any, device: torch.device, savings: Savings) -> None:
        name: Any = "refiner" if refiner else "sd21-base"
        self.name, self.savings, self.dtype = name, savings, network_dtype(device)
        numbers = NUMBERS[name, size]
        self.native = numbers.latent_size * 8
        with torch.device(device):
            self.vae = vae(name, numbers).eval().requires_grad_(False)
            self.vae.to(memory_format=torch.channels_last)
            self.network = self.own = self._load(name, size, "epsilon")
            if not refiner:
                self.own = self._load("sd21", size, "v_prediction")
            more = (torch.rand(1, numbers.projection), torch.full((1, 5), 512.0)) if refiner else ()
            self.text = Text(torch.randn(1, 77, numbers.text_width), *more)
        save_vae(savings, self.vae)

    def _load(self, name: Any, size: Any, prediction: Any) -> Network:
        with made_in(self.dtype):
            module = unet(name, NUMBERS[name, size]).eval().requires_grad_(False)
        module.to(memory_format=torch.channels_last)
        network = Network(module, prediction, self.dtype, Graphs())
        save_network(self.savings, network)
        return network

    @property
    def networks(self) -> list[Network]:
        return [self.network] if self.own is self.network else [self.network, self.own]

    def prepare(self, *_: Any) -> None: ...

    def shown(self, *_: Any) -> None: ...

    def encode(self, image: Tensor) -> Tensor:
        return to_latent(self.vae, image, self.native, 8)

    @torch.no_grad()
    def denoise(
        self, z: Tensor, level: NoiseLevel, camera: Camera, conditioning: Any, guidance_scale: float,
        guidance_rescale: float = 0.0,
    ) -> Tensor:  # fmt: skip
        return denoise_guided(self.network, z, level, self.text, self.text, guidance_scale, guidance_rescale)

    def phi(self, conditioning: Any, rank: int, learning_rate: float, warmup: int, seed: int) -> LoRAPhi:
        phi = LoRAPhi(self.own, self.text, rank, learning_rate, warmup, seed)
        save_network(self.savings, self.own)
        return phi
