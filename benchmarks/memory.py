"""How much memory an iteration needs with networks of the real size: counted, without such a machine.

    python -m benchmarks.memory [--dtype float32] [--only sd sdxl refiner mvdream] [--no-phi]
        [--control] [--sides] [--size PIXELS]

The loop's own code runs on torch's meta device, where tensors have sizes and no contents, and a dispatch mode
adds up which of them are alive. What it gives is the peak of allocated memory but for the workspaces of the
libraries' kernels. Attention is taken to be a fused kernel, which keeps no matrix. The figures are the
tables in backend/models/load.py; 3D, a gigabyte at most, is not among them.
"""

from __future__ import annotations

import argparse
import weakref
from dataclasses import replace
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.utils import logging
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from backend.config import STAGES
from backend.diffusion.camera_label import CAMERA_CONFIG
from backend.diffusion.control import Control, ShownShape
from backend.diffusion.denoiser import Network, Text, denoise_guided
from backend.diffusion.joint_attention import join_frames
from backend.diffusion.lora import LoRAPhi
from backend.diffusion.savings import SAVINGS, Savings, save_network, save_vae
from backend.diffusion.schedule import noise_levels
from backend.models.latent_prior import to_latent
from backend.scene.camera import orbit
from backend.sides.adapter import SixViews, attentions_of, reader_of
from backend.sides.attention import RowColumnAttention, Shown
from backend.sides.views import COUNT, SixSides
from tests.tools.published_configs import SDXL_BASE
from tests.tools.published_plan import Published, plan_of
from tests.tools.tiny_models import NUMBERS, unet, vae

LEVEL = noise_levels(0.5, 0.1, 10)[5]
SIDES = {
    "sd": (512, 512),
    "sdxl": (1024, 1024),
    "refiner": (1024, 1024),
    "mvdream": (256, 256),
}  # native, fed
CARDS = (8, 12, 16, 24)  # GB
FRAMES = {"sd": 1, "sdxl": 1, "refiner": 1, "mvdream": 4}  # views of an update


def network_of(kind: str, dtype: torch.dtype) -> Network:
    """A UNet of the real size, on the device that is torch's just now."""
    name: Any = "refiner" if kind == "refiner" else "sd21-base"
    if kind == "sdxl":
        net = UNet2DConditionModel.from_config(SDXL_BASE["unet/config.json"])
    else:
        net = unet(name, NUMBERS[name, "full"])
    if kind == "mvdream":
        net = UNet2DConditionModel.from_config({**net.config, **CAMERA_CONFIG})
        join_frames(net, FRAMES[kind])
    takes_camera = kind == "mvdream"
    return Network(
        net.to(dtype).requires_grad_(False), "epsilon", dtype, takes_camera=takes_camera, frames=FRAMES[kind]
    )


def text_of(kind: str, rows: int) -> Text:
    """Of the real widths."""
    width = {"sd": 1024, "mvdream": 1024, "sdxl": 2048, "refiner": 1280}[kind]
    hidden = torch.empty(rows, 77, width)
    if kind not in ("sdxl", "refiner"):
        return Text(hidden)
    return Text(hidden, torch.empty(rows, 1280), torch.empty(rows, 6 if kind == "sdxl" else 5))


class Alive(TorchDispatchMode):
    """Adds up the storages that exist, from here on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref] = {}

    def watch(self, value: Any) -> None:
        for tensor in tree_leaves(value):
            if not isinstance(tensor, Tensor) or tensor.device.type != "meta":
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self._known:
                self._known[key] = weakref.ref(storage, lambda _, key=key, size=size: self._gone(key, size))
                self.now += size
                self.peak = max(self.peak, self.now)

    def _gone(self, key: int, size: int) -> None:
        del self._known[key]
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.watch(found)
        return found


class FusedAttention(torch.autograd.Function):
    """Of the shapes of one: no matrix, and what its backward needs."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, _g: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(t) for t in ctx.saved_tensors[:3])


def attend(q: Tensor, k: Tensor, v: Tensor, *_args: Any, **_options: Any) -> Tensor:
    return FusedAttention.apply(q, k, v)


def iteration(
    kind: str,
    savings: Savings,
    dtype: torch.dtype,
    with_phi: bool = True,
    with_control: bool = False,
    with_sides: bool = False,
    size: int | None = None,
) -> tuple[float, float]:
    """(weights, peak) of one iteration of one view, of one ring, or of MV-Adapter's six sides, in GB.

    size  pixels a side of what is fed; None: those that it was trained at
    """
    native, side = (768, 768) if with_sides and kind == "sdxl" else SIDES[kind]
    native, side = (native, side) if size is None else (size, size)
    numbers = NUMBERS["refiner" if kind == "refiner" else "sd21-base", "full"]
    name: Any = "refiner" if kind == "refiner" else "sd21-base"
    alive = Alive()
    with torch.device("meta"), alive:
        encoder = vae(name, numbers).requires_grad_(False)
        own = base = network_of(kind, dtype)
        if with_phi and kind == "sd" and not savings.share:
            base = network_of(kind, dtype)
        for network in {id(own): own, id(base): base}.values():
            save_network(savings, network)
        if with_control:
            net = ControlNetModel.from_unet(own.unet).to(dtype).requires_grad_(False)
            own = replace(own, controls=(Control(net, ("depth",), 1.0),))
            base = own if base.unet is own.unet else base
        if with_sides:
            own = replace(own, sides=six_views(own.unet, dtype))
            base = own if base.unet is own.unet else base
        save_vae(savings, encoder)
        weights = alive.peak = (
            alive.now
        )  # what it took to build them, in float32 at first, is not an iteration's
        text = text_of(kind, 1)
        views = COUNT if with_sides else FRAMES[kind]
        image = torch.empty(views, side, side, 3, requires_grad=True)
        with torch.device("cpu"):
            ones = torch.ones(views)
            camera = orbit(ones, ones, ones, 50 * ones, side, side)
            if with_sides:
                camera = SixSides().sample(torch.Generator(), 1, side, side)
        x = to_latent(encoder, image, native, 8, with_sides and savings.checkpoint_encode)
        phi, shape = None, None
        if with_control or with_sides:
            sides = (lambda _, shape: torch.empty(len(shape), 6, side, side)) if with_sides else None
            shape = ShownShape(
                lambda views: torch.empty(len(views), side, side, 4), side // x.shape[-1], sides
            )
        if with_phi:
            phi = LoRAPhi(base, text, 4, 1e-4, 1, 0, shape if base is own else None)
            for group in phi._optimizer.param_groups:
                group.update(fused=False, foreach=False)  # meta tensors have no fused kernels
            phi.fit(x.detach(), LEVEL, camera, torch.Generator())
        with torch.no_grad():
            z = x + LEVEL.sigma * torch.randn(x.shape)
            label = torch.empty(views, 16) if own.takes_camera else None
            seen = text.repeated(views).seen_from(label, None if shape is None else shape(camera, z))
            goal = denoise_guided(own, z, LEVEL, seen, text, 7.5)
            if phi is not None:
                goal = goal - phi(z, LEVEL, camera)
        (x - goal).square().sum().backward()
    return weights / 1e9, alive.peak / 1e9


def six_views(net: Any, dtype: torch.dtype) -> SixViews:
    """MV-Adapter on the UNet, without contents."""
    shown, processors = Shown(1.0), dict(net.attn_processors)
    for name, width in attentions_of(net).items():
        processors[name] = RowColumnAttention(processors[name], width, shown).to(dtype).requires_grad_(False)
    net.set_attn_processor(processors)
    return SixViews(reader_of(net, 8).to(dtype).requires_grad_(False), shown)


def captured(kind: str, dtype: torch.dtype) -> float:
    """GB that guided D_p's pass keeps where it is captured as a CUDA graph: the most that is alive in it."""
    rows = 2 * FRAMES[kind]
    alive = Alive()
    with torch.device("meta"), alive, torch.no_grad():
        network = network_of(kind, dtype)
        weights = alive.peak = alive.now
        text = text_of(kind, rows).seen_from(torch.empty(rows, 16) if network.takes_camera else None)
        side = SIDES[kind][0] // 8
        network.predict(torch.empty(rows, 4, side, side), LEVEL, text)
    return (alive.peak - weights) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the UNets")
    parser.add_argument("--only", choices=tuple(SIDES), nargs="+", default=tuple(SIDES))
    parser.add_argument("--no-phi", action="store_true", help="D_phi(x) = x, as --phi none has it")
    parser.add_argument("--control", action="store_true", help="a ControlNet on D_p's network")
    parser.add_argument("--sides", action="store_true", help="MV-Adapter's six views on D_p's network")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="a side (default: as trained)")
    parser.add_argument(
        "--plan", action="store_true", help="what `paper` plans for MVDream, and nothing else"
    )
    options = parser.parse_args()
    if options.plan:
        print_plans()
        return
    nn.functional.scaled_dot_product_attention = attend
    logging.set_verbosity_error()
    print("| network | what is saved | weights, GB | peak, GB |\n|---|---|---|---|")
    for kind in options.only:
        for words, savings in SAVINGS:
            dtype = getattr(torch, options.dtype)
            weights, peak = iteration(
                kind, savings, dtype, not options.no_phi, options.control, options.sides, options.size
            )
            print(f"| {kind} | {words or 'nothing'} | {weights:.1f} | {peak:.1f} |", flush=True)
        print(f"| {kind} | a captured pass keeps | | {captured(kind, getattr(torch, options.dtype)):.2f} |")


def print_plans() -> None:
    """By card, of MVDream alone, and with Stable Diffusion for the texture and the SDXL refiner."""
    print(
        f"| card, GB | texture and last stage by | {', '.join(STAGES)}, GB | rung | fits |\n|---|---|---|---|---|"
    )
    finer = {"texture": Published("sd21-base", "sd21"), "refine": Published("refiner")}
    for gigabytes in CARDS:
        for names, others in (("MVDream", {}), ("Stable Diffusion, refiner", finer)):
            plan = plan_of("paper", gigabytes, Published("mvdream"), others)
            needed = ", ".join(f"{value:.1f}" for value in plan.needed.values())
            print(f"| {gigabytes} | {names} | {needed} | {plan.rung} | {'yes' if plan.fits else 'no'} |")


if __name__ == "__main__":
    main()
