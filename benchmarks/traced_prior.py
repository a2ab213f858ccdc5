"""A Prior whose networks are of the real size and on the meta device, beside a scene with real numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from backend.diffusion.denoiser import Network, Text, denoise_guided
from backend.diffusion.lora import LoRAPhi
from backend.diffusion.prior import PriorSpec
from backend.diffusion.schedule import NoiseLevel
from backend.models.latent_prior import to_latent
from backend.scene.camera import Camera
from benchmarks.memory import FusedAttention
from benchmarks.recorder import TENSORS_A_KERNEL, Event, Trace, size_of
from tests.tools.tiny_models import NUMBERS, unet, vae


def to_meta(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


class TracedEncode(torch.autograd.Function):
    """The VAE's encoder on the meta device, both ways; what it gives the scene is small and means nothing."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, prior: TracedPrior) -> Tensor:
        with torch.enable_grad(), prior.trace.during("encode"):
            ctx.image = to_meta(image).requires_grad_()
            ctx.x = to_latent(prior.vae, ctx.image, prior.native, 8)
        ctx.prior = prior
        return prior.like(ctx.x, image)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        with torch.enable_grad(), ctx.prior.trace.during("encode, backward"):
            (found,) = torch.autograd.grad(ctx.x, ctx.image, to_meta(g))
        return ctx.prior.like(found, g), None


class TracedPrior:
    """A Prior whose networks are of the real size and on the meta device."""

    factor, channels, spec = 8, 4, PriorSpec()

    def __init__(self, trace: Trace, refiner: bool, size: str) -> None:
        self.trace, self.name = trace, "refiner" if refiner else "sd"
        name: Any = "refiner" if refiner else "sd21-base"
        numbers = NUMBERS[name, size]
        self.native = numbers.latent_size * 8
        with torch.device("meta"):
            self.vae = vae(name, numbers).requires_grad_(False)
            self.network = self.own = Network(frozen(unet(name, numbers)), "epsilon", torch.bfloat16)
            if not refiner:
                self.own = Network(
                    frozen(unet("sd21", NUMBERS["sd21", size])), "v_prediction", torch.bfloat16
                )
            more = (torch.empty(1, numbers.projection), torch.empty(1, 5)) if refiner else ()
            self.text = Text(torch.empty(1, 77, numbers.text_width), *more)

    def like(self, x: Tensor, beside: Tensor) -> Tensor:
        """Numbers of that shape, beside another tensor."""
        with self.trace.silent():
            return torch.full(x.shape, 1e-3, device=beside.device)

    def prepare(self, *_: Any) -> None: ...

    def shown(self, *_: Any) -> None: ...

    def encode(self, image: Tensor) -> Tensor:
        return TracedEncode.apply(image, self)

    @torch.no_grad()
    def denoise(
        self, z: Tensor, level: NoiseLevel, camera: Camera, conditioning: Any, guidance_scale: float,
        guidance_rescale: float = 0.0,
    ) -> Tensor:  # fmt: skip
        with self.trace.during("D_p"):
            found = denoise_guided(
                self.network, to_meta(z), level, self.text, self.text, guidance_scale, guidance_rescale
            )
        return self.like(found, z)

    def phi(self, conditioning: Any, rank: int, learning_rate: float, warmup: int, seed: int) -> TracedPhi:
        with self.trace.silent():
            return TracedPhi(self, LoRAPhi(self.own, self.text, rank, learning_rate, warmup, seed))


class TracedPhi:
    def __init__(self, prior: TracedPrior, phi: LoRAPhi) -> None:
        self.prior, self.real, self.steps = prior, phi, 0
        self.optimizer = phi._optimizer
        for group in self.optimizer.param_groups:
            group.update(
                fused=False, foreach=False
            )  # meta tensors have no fused kernel: it is written down by hand
        self.optimizer.step = self.step  # type: ignore[method-assign]

    def step(self) -> None:
        count = len(self.real.parameters)
        size = 7 * sum(p.numel() for p in self.real.parameters.values()) * 4
        kernels = -(-count // TENSORS_A_KERNEL)
        self.prior.trace.add(Event(self.prior.trace.part, "_fused_adamw_", kernels, size))

    def fit(self, x: Tensor, level: NoiseLevel, camera: Camera, generator: Generator) -> Tensor:
        with self.prior.trace.during("D_phi's step"):
            loss = self.real.fit(to_meta(x), level, on_host(self.prior, camera), torch.Generator())
        return self.prior.like(loss, x)

    def __call__(self, z: Tensor, level: NoiseLevel, camera: Camera) -> Tensor:
        with self.prior.trace.during("D_phi"):
            return self.prior.like(self.real(to_meta(z), level, on_host(self.prior, camera)), z)


def on_host(prior: TracedPrior, camera: Camera) -> Any:
    """All that D_phi asks of a camera, on the meta device."""

    class Poses:
        c2w = to_meta(camera.c2w)

    return Poses()


def frozen(module: nn.Module) -> Any:
    return module.to(torch.bfloat16).eval().requires_grad_(False)


def attention(trace: Trace) -> Callable[..., Tensor]:
    """Fused, with its arithmetic: two products of [T,d] and [d,S], and five on the way back."""

    def attend(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
        size = sum(map(size_of, (q, k, v, q)))
        flops = 4.0 * q[..., 0].numel() * q.shape[-1] * k.shape[-2]
        half = q.dtype == torch.bfloat16
        trace.add(Event(trace.part, "flash attention", 1, size, flops, half))
        out = FusedAttention.apply(q, k, v)
        if out.requires_grad:
            part = trace.part
            out.register_hook(
                lambda g: trace.add(Event(part, "flash attention backward", 3, 2 * size, 2.5 * flops, half))
            )
        return out

    return attend
