"""D_phi: a LoRA and a camera embedding on a diffusion UNet, fitted to the renders (Algorithm 1, line 7).

The UNet may be D_p's own. Outside of `fit` and `__call__` its adapters are off, so that D_p is exactly the network
that was loaded. Weights change in place, as captured passes (graphs.py) need it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Generator, Tensor, nn

from backend.diffusion.camera_label import camera_label
from backend.diffusion.control import ShownShape
from backend.diffusion.denoiser import Network, Text
from backend.diffusion.schedule import NoiseLevel
from backend.errors import ModelError
from backend.scene.camera import Camera

ADAPTER = "phi"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]  # of every attention, self and cross


class LoRAPhi:
    """A fresh D_phi, equal to its base network until the first `fit`.

    text           one row: the prompt without view words; the camera comes by its embedding
    rank           of the LoRA, kept in float32 whatever the base's dtype
    learning_rate  of AdamW, reached linearly after `warmup` steps
    seed           of the initial weights; the global generator is left as it was
    shape          what shows the network the shape of the views, where D_p is shown it too

    A UNet carries one phi at a time: a fresh one on the same UNet replaces the last one.
    """

    def __init__(
        self, network: Network, text: Text, rank: int, learning_rate: float, warmup: int, seed: int,
        shape: ShownShape | None = None,
    ) -> None:  # fmt: skip
        self.learning_rate, self.warmup = learning_rate, warmup
        assert isinstance(network.unet, UNet2DConditionModel)
        self.network, self.text, self.steps, self._shape = network, text, 0, shape
        if network.graphs is not None:
            network.graphs.clear()
        self._unet = unet = network.unet
        unet.requires_grad_(False)
        if ADAPTER in getattr(unet, "peft_config", {}):
            unet.delete_adapters(ADAPTER)
        with torch.random.fork_rng(devices=[]):  # peft and nn draw from the CPU's global generator
            torch.default_generator.manual_seed(seed)
            # scale 1 and a Gaussian A: the LoRA of the paper's baselines
            config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS)
            unet.add_adapter(config, ADAPTER)
            self.camera_embedding = CameraEmbedding(unet.time_embedding.linear_2.out_features)
        self.camera_embedding.to(unet.device)
        self._layers = [module for module in unet.modules() if isinstance(module, BaseTunerLayer)]
        lora = {name: p for name, p in unet.named_parameters() if p.requires_grad}
        for parameter in lora.values():
            parameter.data = parameter.data.float()
        camera = {f"camera.{name}": p for name, p in self.camera_embedding.named_parameters()}
        self.parameters: dict[str, nn.Parameter] = lora | camera
        self._optimizer = torch.optim.AdamW(
            list(self.parameters.values()),
            lr=learning_rate,
            betas=(0.9, 0.99),
            eps=1e-15,
            fused=True,
        )
        self._switch(on=False)

    def fit(self, x: Tensor, level: NoiseLevel, camera: Camera, generator: Generator) -> Tensor:
        """One AdamW step on the mean squared error of the network's own prediction at x + sigma n.

        x [B,C,h,w]; n is drawn from `generator`, a draw of its own. No guidance. Returns the loss, a scalar
        without graph.
        """
        x = x.detach()
        noise = torch.randn(x.shape, generator=generator, device=generator.device).to(x)
        target = self.network.convention.answer(x, noise, level)
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate * min(1.0, (self.steps + 1) / max(1, self.warmup))
        self._optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad(), self._active():
            loss = (self._predict(x + level.sigma * noise, level, camera) - target).square().mean()
            loss.backward()  # here, so that recomputed activations see the adapters as well
        self._optimizer.step()
        self.steps += 1
        return loss.detach()

    @torch.no_grad()
    def __call__(self, z: Tensor, level: NoiseLevel, camera: Camera) -> Tensor:
        """D_phi(z) [B,C,h,w], without a gradient."""
        with self._active():
            output = self._predict(z, level, camera)
        return self.network.convention.denoised(output, z, level)

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, AdamW's moments and the step count, as tensors that safetensors can hold."""
        state = {name: p.detach().clone() for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for moment, value in self._optimizer.state[parameter].items():
                state[f"adamw.{moment}.{name}"] = value.clone()
        state["steps"] = torch.tensor(self.steps)
        state["network"] = self._fingerprint()
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue where `state_dict` was taken; on another network, which a run that saves memory may have moved
        to, begin again. ModelError where the tensors do not fit.
        """
        if "network" in state and not torch.equal(
            state["network"].to(self._fingerprint()), self._fingerprint()
        ):
            return
        for name, parameter in self.parameters.items():
            if name not in state or state[name].shape != parameter.shape:
                got = tuple(state[name].shape) if name in state else "nothing"
                raise ModelError(
                    f"The saved D_phi does not fit: {name} is {got}, expected {tuple(parameter.shape)}.",
                    "Resume with the model and the rank that the run was started with.",
                )
            for moment in ("exp_avg", "exp_avg_sq", "step"):
                kept = state.get(f"adamw.{moment}.{name}")
                if kept is not None and kept.shape != (() if moment == "step" else parameter.shape):
                    raise ModelError(
                        f"The saved D_phi does not fit: {moment} of {name}.", "Begin the job again."
                    )
        self.steps = int(state["steps"])
        self._optimizer.state.clear()
        for name, parameter in self.parameters.items():
            parameter.data.copy_(state[name])
            moments = [m for m in ("step", "exp_avg", "exp_avg_sq") if f"adamw.{m}.{name}" in state]
            for moment in moments:
                saved = state[f"adamw.{moment}.{name}"].to(parameter.device, copy=True)
                self._optimizer.state[parameter][moment] = saved

    def _fingerprint(self) -> Tensor:
        """[E]: weights by which the network below is recognised."""
        found: Tensor = self._unet.conv_in.bias.detach().float().clone()
        return found

    def _predict(self, z: Tensor, level: NoiseLevel, camera: Camera) -> Tensor:
        label = camera_label(camera.c2w) if self.network.takes_camera else None
        text = self.text.repeated(len(z)).seen_from(
            label, None if self._shape is None else self._shape(camera, z)
        )
        return self.network.predict(z, level, text, "D_phi", self.camera_embedding(camera.c2w))

    @contextmanager
    def _active(self) -> Iterator[None]:
        """The UNet as D_phi: adapters on."""
        self._switch(on=True)
        try:
            yield
        finally:
            self._switch(on=False)

    def _switch(self, on: bool) -> None:
        for layer in self._layers:  # what unet.enable_adapters does, without walking all modules every call
            layer.enable_adapters(enabled=on)


class CameraEmbedding(nn.Module):
    """[B,4,4] camera-to-world poses to [B,E], zero at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(16, width)
        self.outer = nn.Linear(width, width)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, c2w: Tensor) -> Tensor:
        flat = c2w.flatten(1).to(self.inner.weight)
        found: Tensor = self.outer(nn.functional.silu(self.inner(flat)))
        return found
