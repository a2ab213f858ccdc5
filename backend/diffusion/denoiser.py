"""Networks as one function D(z, level), in variance-exploding variables: z = x + sigma n, n ~ N(0, I).

What a network sees of z and what it answers is its convention (convention.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from backend.diffusion.control import Control, residuals
from backend.diffusion.convention import CONVENTIONS, Convention, Prediction
from backend.diffusion.graphs import Graphs, Inputs
from backend.diffusion.schedule import NoiseLevel, shifted_timestep


@dataclass(frozen=True)
class Text:
    """What a network is given besides the image, one row a view.

    hidden    [B,L,E] hidden states of a text encoder
    pooled    [B,P] projected sentence embedding, for SDXL alone
    time_ids  [B,6] SDXL's sizes and crop; [B,5] with its refiner, which has an aesthetic score
    label     [B,16] where the camera stands (camera_label.py), for networks that take it
    maps      [B,6,H,W] or [B,12,H,W] the shape that is seen (control.py), for networks that are shown it
    picture   [B,P,E] what a reference picture says (models/reference.py), for networks that read one
    frame     [B,C,h,w] that picture's latents, for networks that see it beside a ring (models/imagedream.py)
    """

    hidden: Tensor
    pooled: Tensor | None = None
    time_ids: Tensor | None = None
    label: Tensor | None = None
    maps: Tensor | None = None
    picture: Tensor | None = None
    frame: Tensor | None = None

    def rows(self, indices: Tensor) -> Text:
        """The rows `indices` [N] int64, in that order, repeats allowed; of the same device, so nothing waits."""
        return self._each(lambda tensor: tensor.index_select(0, indices))

    def repeated(self, count: int) -> Text:
        """One row, `count` times."""
        return self._each(lambda tensor: tensor.expand(count, *tensor.shape[1:]))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Text:
        parts: dict[str, Any] = {n: None if part is None else change(part) for n, part in vars(self).items()}
        return Text(**parts)

    def seen_from(self, label: Tensor | None, maps: Tensor | None = None) -> Text:
        """The same B rows, each with its camera's label [B,16] and maps [B,6,H,W]; None for a network without."""
        return replace(self, label=label, maps=maps)


def join(first: Text, second: Text) -> Text:
    """Both batches in one, `first` first."""
    pairs = ((name, part, getattr(second, name)) for name, part in vars(first).items())
    parts: dict[str, Any] = {n: None if a is None or b is None else torch.cat((a, b)) for n, a, b in pairs}
    return Text(**parts)


class SixViews(Protocol):
    """What joins six views of a shape that stands still (sides/adapter.py)."""

    shift: float  # of schedule.shifted_timestep

    def features(self, maps: Tensor) -> list[Tensor]:
        """What is added to the UNet's own on the way down, of maps [B,6,H,W]."""

    def show(self, on: bool) -> None:
        """Whether the UNet's attention joins the views, from now on."""


@dataclass(frozen=True)
class Network:
    """A UNet in diffusers' calling convention and what its output means."""

    unet: Callable[..., Any]
    prediction: Prediction
    dtype: torch.dtype = torch.float32  # of the weights; inputs are cast to it, outputs to float32
    graphs: Graphs | None = None  # passes without a gradient go through them
    takes_camera: bool = False  # whether it takes the camera as a label, or in words alone
    frames: int = 1  # views of a ring, neighbours in a batch, that its self-attention joins
    controls: tuple[Control, ...] = ()  # what shows it the maps of a text that has them
    sides: SixViews | None = None  # what is shown the last six of twelve maps
    reads_picture: bool = False  # whether its cross-attention reads what a reference picture says

    @property
    def convention(self) -> Convention:
        """How it reads z and what it answers."""
        return CONVENTIONS[self.prediction]

    def predict(
        self, z: Tensor, level: NoiseLevel, text: Text, who: str = "D_p", camera: Tensor | None = None
    ) -> Tensor:
        """The raw output, as its convention has it, [B,C,h,w] float32, for z [B,C,h,w] and B rows of text.

        who     tells D_p from D_phi, which may be the same UNet with adapters
        camera  [B,E] float32, D_phi's: added to what the UNet makes of the timestep
        """
        time = self.convention.timestep(level)
        if self.sides is not None and text.maps is not None:
            time = shifted_timestep(level.sigma, self.sides.shift)
        inputs = {
            "sample": (z * self.convention.scale_in(level)).to(self.dtype),
            "timestep": torch.full((len(z),), time, dtype=torch.float32, device=z.device),
            "hidden": text.hidden.to(self.dtype),
        }
        if text.pooled is not None:
            assert text.time_ids is not None, "they come together"
            inputs |= {"text_embeds": text.pooled.to(self.dtype), "time_ids": text.time_ids}
        if text.label is not None:
            inputs["label"] = text.label.to(self.dtype)
        if text.maps is not None:
            inputs["maps"] = text.maps.to(self.dtype)
        if self.reads_picture:  # without one, words of zeros, whose values are zero
            said = text.picture
            inputs["picture"] = (inputs["hidden"][:, :1] * 0 if said is None else said).to(self.dtype)
        if camera is not None:
            inputs["camera"] = camera
        if text.frame is not None:
            inputs["frame"] = text.frame.to(self.dtype)
        if self.graphs is None or torch.is_grad_enabled():
            return self._run(inputs).float()
        return self.graphs(who, self._run, inputs).float()

    def _run(self, inputs: Inputs) -> Tensor:
        if "frame" in inputs:
            rings = self._run(with_frame(inputs, self.frames)).unflatten(0, (-1, self.frames + 1))
            views: Tensor = rings[:, :-1].flatten(0, 1)
            return views
        added: Inputs = {name: inputs[name] for name in ("text_embeds", "time_ids") if name in inputs}
        sample, timestep, hidden = inputs["sample"], inputs["timestep"], inputs["hidden"]
        more: dict[str, Any] = {"class_labels": inputs["label"]} if "label" in inputs else {}
        if "maps" in inputs:
            with torch.no_grad():  # D_phi learns nothing through them
                shown = inputs["maps"], inputs.get("label")
                more |= residuals(self.controls, sample, timestep, hidden, added or None, *shown)
        if self.sides is not None:
            self.sides.show("maps" in inputs)
            if "maps" in inputs:
                with torch.no_grad():
                    more["down_intrablock_additional_residuals"] = self.sides.features(inputs["maps"][:, 6:])
        read: Any = (hidden, [inputs["picture"]]) if "picture" in inputs else hidden
        with added_to_time(self.unet, inputs.get("camera")):
            output = self.unet(
                sample, timestep, encoder_hidden_states=read, added_cond_kwargs=added or None, **more
            )
        answer: Tensor = output.sample
        return answer


def with_frame(inputs: Inputs, frames: int) -> Inputs:
    """Each ring of `frames` rows and, after it, its picture: latents without noise, of no camera, told the same."""
    found: Inputs = {}
    for name, rows in inputs.items():
        rings = rows.unflatten(0, (-1, frames))
        last = rings[:, -1:]
        if name == "sample":
            last = inputs["frame"].unflatten(0, (-1, frames))[:, -1:]
        elif name in ("label", "camera"):
            last = torch.zeros_like(last)
        found[name] = torch.cat((rings, last), 1).flatten(0, 1)
    del found["frame"]
    return found


def notes_of(networks: Sequence[Network]) -> list[str]:
    """What their graphs have to say, once."""
    return [
        note for network in networks if network.graphs is not None for note in network.graphs.take_notes()
    ]


@contextmanager
def added_to_time(unet: Any, extra: Tensor | None) -> Iterator[None]:
    """In the body, the UNet's embedding of the timestep has `extra` [B,E] added to it."""
    if extra is None:
        yield
        return

    def add(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        return output + extra.to(output.dtype)

    hook = unet.time_embedding.register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


def denoise(network: Network, z: Tensor, level: NoiseLevel, text: Text) -> Tensor:
    """D(z) [B,C,h,w], conditional, unguided."""
    return network.convention.denoised(network.predict(z, level, text), z, level)


def denoise_guided(
    network: Network,
    z: Tensor,
    level: NoiseLevel,
    text: Text,
    negative: Text,
    guidance_scale: float,
    guidance_rescale: float = 0.0,
) -> Tensor:
    """`guided` of D(text) and D(negative), both in one batched call; scale 1 makes no call for the negative.

    `negative` has one row, or one a view; it is told the cameras and shown the maps of `text`, and rings stay together:
    all views with the text, then all without.
    """
    if guidance_scale == 1:
        return denoise(network, z, level, text)
    if len(negative.hidden) == 1:
        negative = negative.repeated(len(z)).seen_from(text.label, text.maps)
    twice = torch.cat((z, z))
    output = network.predict(twice, level, join(text, negative))
    with_text, without = network.convention.denoised(output, twice, level).chunk(2)
    return guided(with_text, without, guidance_scale, guidance_rescale)


def guided(with_text: Tensor, without: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
    """D(negative) + s (D(text) - D(negative)), all [B,C,h,w]; s is diffusers' guidance scale, 1 + omega of the paper.

    rescale  in [0, 1], of Lin et al. 2023 (section 3.4): how far the standard deviation of the result, which guidance
             enlarges, is brought back to that of D(text). Both are taken over all B views, so that the views of a ring
             keep their brightness to each other, and of D, which means the same whatever the network predicts.
    """
    found = without + scale * (with_text - without)
    if not rescale:
        return found
    smallest = torch.finfo(found.dtype).tiny  # a result of one value has no deviation, and stays as it is
    return found * (1 + rescale * (with_text.std() / found.std().clamp(min=smallest) - 1))
