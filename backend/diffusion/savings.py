"""What a prior of real networks can do to need less memory, in the order in which it is asked to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:  # diffusers takes seconds to import, and the exact prior does without it
    from diffusers import AutoencoderKL

    from backend.diffusion.denoiser import Network


@dataclass(frozen=True)
class Savings:
    """What is saved, and what is spent. All but `share` change results by rounding at most."""

    checkpoint_encode: bool = False  # the VAE's activations are computed again on the way back
    checkpoint_fit: bool = False  # likewise the UNet's in D_phi's step
    share: bool = False  # D_phi on D_p's own network
    graphs: bool = False  # CUDA graphs, which keep the memory of a pass to themselves


# each takes what those before it take; what it is called in a sentence
SAVINGS = (
    ("", Savings()),
    ("the VAE's encoder checkpointed", Savings(True)),
    ("D_phi's step checkpointed", Savings(True, True)),
    ("D_phi on the prior's own network", Savings(True, True, True)),
)


def checkpoint_encoder(vae: AutoencoderKL) -> None:
    """Every residual block of the encoder, and its attention, computes its inside again on the way back.

    diffusers checkpoints whole levels instead, of two such blocks each: 3 GB more at 1024 px.
    """
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D

    for block in vae.encoder.modules():
        if isinstance(block, ResnetBlock2D | Attention) and "forward" not in vars(block):
            again = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
            block.forward = again


def save_vae(savings: Savings, vae: AutoencoderKL) -> None:
    """Of an encoder that has been loaded. Nothing is undone, here and below."""
    if savings.checkpoint_encode:
        checkpoint_encoder(vae)


def save_network(savings: Savings, network: Network) -> None:
    """Of a UNet that has been loaded, or whose layers have changed."""
    if network.graphs is not None:
        network.graphs.clear()
        network.graphs.allowed = savings.graphs
    if savings.checkpoint_fit:
        unet: Any = network.unet
        unet.enable_gradient_checkpointing()
