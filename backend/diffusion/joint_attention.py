"""Self-attention over all pictures of a ring at once, so that views of one object agree (MVDream, section 3.1).

MVDream's UNet is Stable Diffusion's with two changes: every self-attention reads the tokens of all frames of a
ring, and the camera is added to the time embedding (camera_label.py). The first has no weights of its own: it is
one attention processor, so any published weights in diffusers' UNet2DConditionModel take it unchanged.
"""

from __future__ import annotations

from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

from backend.errors import InputError


class JointAttention:
    """Joins `frames` neighbours of the batch [B,N,C] into one sequence of frames * N tokens.

    inner   the processor that computes the attention itself; of any kind (whole, sliced, a kernel of its own)
            sees a batch of B / frames longer sequences
    frames  pictures a ring, neighbours in the batch; 1 is ordinary self-attention
    """

    def __init__(self, inner: Any, frames: int) -> None:
        self.inner, self.frames = inner, frames

    def __call__(self, attn: Attention, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[B,N,C] to [B,N,C]. Raises InputError where B is no whole number of rings."""
        pictures, tokens, width = hidden_states.shape
        if pictures % self.frames:
            raise InputError(
                f"A batch of {pictures} pictures is no whole number of rings of {self.frames}.",
                "Give every ring its views, one after another.",
            )
        rings = hidden_states.reshape(pictures // self.frames, self.frames * tokens, width)
        found: Tensor = self.inner(attn, rings, *args, **kwargs)
        return found.reshape(pictures, tokens, width)


def join_frames(unet: UNet2DConditionModel, frames: int) -> None:
    """Every self-attention of the UNet joins `frames` pictures from now on; may be called again with another number.

    Call it again after anything that replaces processors: what it finds, it wraps.
    """
    found = {}
    for name, processor in unet.attn_processors.items():
        inner = processor.inner if isinstance(processor, JointAttention) else processor
        found[name] = JointAttention(inner, frames) if "attn1" in name else inner
    unet.set_attn_processor(found)
