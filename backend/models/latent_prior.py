"""D_p and D_phi by latent diffusion models: Stable Diffusion 1 and 2, SDXL and its refiner (stage 3).

Images are NHWC in [0, 1] outside and NCHW in [-1, 1] in this file alone. What each is told beside the noise and the
time: models/text.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backend.diffusion.camera_label import camera_label
from backend.diffusion.control import DrawShape, ShownShape
from backend.diffusion.denoiser import Network, Text, denoise_guided, notes_of
from backend.diffusion.lora import LoRAPhi
from backend.diffusion.prior import Backgrounds, Kind, PriorSpec
from backend.diffusion.savings import Savings, save_network, save_vae
from backend.diffusion.schedule import NoiseLevel
from backend.diffusion.view_words import view_indices
from backend.errors import InputError, ModelError
from backend.models.artist_lora import add_loras, check_loras, open_loras
from backend.models.control import load_control, open_controls
from backend.models.imagedream import add_picture, as_image, open_thing, words_of
from backend.models.load import footprint, load_network, load_tokenizer, load_vae, network_dtype
from backend.models.model_folder import ModelFolder, describe
from backend.models.prior_spec import fill
from backend.models.reference import add_reference, open_reference, picture_words
from backend.models.single_file import empty_module, open_model
from backend.models.text import TEXT_INPUTS, Embedding, check_length, encode_sentences
from backend.scene.camera import Camera
from backend.sides import views
from backend.sides.adapter import add_sides
from dreamflow_blender.contract.language.notation import refuse_notation
from dreamflow_blender.contract.language.unknown import NotUnderstood

# (prompt, negative, kinds) -> the prompt in the words that a model of these kinds was taught
CanonicalPrompt = Callable[[str, str, tuple[str, ...]], str]
AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5  # diffusers' defaults for the SDXL refiner

# what six sides take of what one view does, by what is saved: benchmarks.memory --sides
SIX_TIMES = (6.0, 5.2, 1.2)
LATENT_SPACE = {"latent_channels": 4, "scaling_factor": 0.18215}  # of a VAE, with AutoencoderKL's defaults


@dataclass(frozen=True)
class Conditioning:
    """A prompt as the networks read it."""

    views: Text  # one row a view word, in the order of PriorSpec.view_words
    negative: Text  # one row
    phi: Text  # one row, without view words, as D_phi's own network reads it
    shared: Text  # the same as the prior's network reads it
    shape: ShownShape | None = None  # what the ControlNets are shown of the views

    def beside(self, picture: Tensor, frame: Tensor | None = None) -> Conditioning:
        """With what a picture says to the prior's network, [2,P,E], and its latents [2,C,h,w]: of it, and of none."""

        def told(text: Text, row: int) -> Text:
            said = Text(picture[row : row + 1], frame=None if frame is None else frame[row : row + 1])
            said = said.repeated(len(text.hidden))
            return replace(text, picture=said.hidden, frame=said.frame)

        views, shared, negative = told(self.views, 0), told(self.shared, 0), told(self.negative, 1)
        return replace(self, views=views, shared=shared, negative=negative)


class LatentPrior:
    """A Prior over a folder in diffusers' layout or a model in one file; epsilon or v prediction as that says.

    phi_folder        a model for D_phi in the same latent space (SD 2.1, v prediction); None: D_p's own UNet, with
                      the adapter switched, which takes less memory
    loras             FILE or FILE:WEIGHT, of D_p's own network and text encoders (artist_lora.py); D_phi starts from
                      the network with them, unless it has a model of its own
    controls          FOLDER or FOLDER:WEIGHT, ControlNets of D_p's own network (control.py), or FILE, MV-Adapter's, by
                      which six sides are painted at once; D_phi, on that network, is shown what they are shown
    image             FILE or FILE:WEIGHT, a picture that D_p sees beside the prompt where a mesh stands still, by the
                      IP-Adapter image_adapter (reference.py); D_phi, on that network, sees it too. An ImageDream
                      sees it in every stage (imagedream.py)
    canonical_prompt  for a model that states its kinds: reads their language (jobs.priors)

    Networks are loaded when they are first needed. Raises ModelError where a folder is missing, damaged or does
    not fit.
    """

    def __init__(
        self, folder: str | Path, device: torch.device | str, phi_folder: str | Path | None = None,
        canonical_prompt: CanonicalPrompt | None = None, loras: Sequence[str] = (), controls: Sequence[str] = (),
        image: str = "", image_adapter: str | Path = "",
    ) -> None:  # fmt: skip
        self._device, self._canonical_prompt = torch.device(device), canonical_prompt
        self._model = open_model(folder)
        self._phi_model = self._model if phi_folder is None else open_model(phi_folder)
        check_same_latents(self._model, self._phi_model)
        self._loras = open_loras(loras, self._model.configs)
        for component in self._model.weights if self._loras else ():
            check_loras(self._loras, component, empty_module(component, self._model.configs[component]))
        self._controls, self._sides = open_controls(controls, self._model)
        self._thing = open_thing(image, image_adapter, self._model)
        self._reference = None if self._thing else open_reference(image, image_adapter, self._model)
        self.spec = self._model.spec
        if self._sides is not None:
            grey = Backgrounds((views.GREY,), learned_share=0.0)
            native = min(self.spec.native_size, views.SIDE.get(self._model.pipeline, self.spec.native_size))
            self.spec = replace(self.spec, native_size=native)
            self.spec = replace(self.spec, still=replace(self.spec, poses=views.SixSides(), backgrounds=grey))
        self.name = self._model.path.stem if self._model.family else self._model.path.name
        self.factor = self._model.factor
        self.channels = int(self._model.configs["vae"]["latent_channels"])
        self._savings = Savings()

    @property
    def _shared(self) -> bool:
        return self._savings.share or self._phi_model is self._model

    @cached_property
    def _network(self) -> Network:
        network = load_network(self._model, self._device)
        assert isinstance(network.unet, nn.Module)
        add_loras(self._loras, "unet", network.unet)
        controls = (load_control(found, self._device, network.dtype) for found in self._controls)
        told = self._reference or self._thing
        network = replace(network, controls=tuple(controls), reads_picture=told is not None)
        unet = network.unet
        assert isinstance(unet, nn.Module)
        if self._reference is not None:
            reader = add_reference(self._reference, unet)
            self._picture = picture_words(self._reference, reader, self._device)
        if self._thing is not None:
            reader = add_picture(self._thing, unet)
            self._picture = words_of(self._thing, reader, self._device)
        if self._sides is not None:
            path, weight = self._sides.path, self._sides.weight
            assert isinstance(unet, UNet2DConditionModel)
            six = add_sides(path, weight, unet, self.factor, self._device, network.dtype)
            network = replace(network, sides=six)
        save_network(self._savings, network)
        return network

    @cached_property
    def _phi_network(self) -> Network:
        network = load_network(self._phi_model, self._device)
        save_network(self._savings, network)
        return network

    @cached_property
    def _vae(self) -> AutoencoderKL:
        vae = load_vae(self._model, self._device)
        save_vae(self._savings, vae)
        return vae

    def load(self) -> None:
        """Load the networks now, rather than when they are first needed."""
        _ = self._network, self._vae

    def release(self) -> None:
        """Let go of all networks; they are loaded again when they are needed."""
        for name in ("_network", "_phi_network", "_vae"):
            self.__dict__.pop(name, None)

    def save_memory(self, savings: Savings) -> None:
        """Applies until the end of the run, and to a phi made from now on."""
        self._savings = savings
        if self._shared:
            self.__dict__.pop("_phi_network", None)
        for name in ("_network", "_phi_network"):
            if name in self.__dict__:
                save_network(savings, self.__dict__[name])
        if "_vae" in self.__dict__:
            save_vae(savings, self._vae)

    def take_notes(self) -> list[str]:
        """See Prior."""
        loaded = [self.__dict__[name] for name in ("_network", "_phi_network") if name in self.__dict__]
        words = (note for lora in self._loras if (note := lora.note()))
        thing = [self._thing.note] if self._thing is not None and self._thing.note else []
        return [*self._model.notes, *words, *thing, *notes_of(loaded)]

    def footprint(self, size: int, savings: Savings, still: bool = False) -> float:
        """See Prior."""
        phi_model = None if savings.share or self._phi_model is self._model else self._phi_model
        fed, _ = encoder_input_size(size, size, self.spec.native_size, self.factor)
        dtype = network_dtype(self._device)
        beside = sum(control.footprint(fed, self.factor, dtype) for control in self._controls)
        beside += 0 if self._reference is None else self._reference.footprint(dtype)
        at_once = 0.0
        if self._sides is not None:
            at_once = SIX_TIMES[savings.checkpoint_encode + savings.checkpoint_fit] if still else 0
            beside += self._sides.footprint(dtype)
        return footprint(self._model, phi_model, fed, dtype, savings, at_once) + beside

    def check(self, prompt: str, negative: str, kind: Kind, size: int) -> None:
        """InputError for a prompt that is empty or too long, or a size that is not whole in latent pixels."""
        sentences = write_sentences(self.spec, prompt, negative, kind, self._canonical_prompt)
        for encoder in self._model.encoders:
            check_length(load_tokenizer(self._model, encoder), sentences)
        encoder_input_size(size, size, self.spec.native_size, self.factor)

    def prepare(self, prompt: str, negative: str, kind: Kind, size: int) -> Conditioning:
        """All sentences through the text encoder, or out of the cache; the encoder is released afterwards."""
        sentences = write_sentences(self.spec, prompt, negative, kind, self._canonical_prompt)
        side, _ = encoder_input_size(size, size, self.spec.native_size, self.factor)
        rows = encode_sentences(self._model, sentences, self._device, self._loras)
        n = len(self.spec.view_words)
        if self._model.empty_is_zeros and not negative:
            for row in rows.values():
                row[n].zero_()
        ids = TEXT_INPUTS[self._model.pipeline].time_ids
        good, bad = ([] if ids is None else ids(side, s) for s in (AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE))
        own = shared = text_of(rows, slice(n + 1, None), good)
        if not self._shared:
            own = text_of(encode_sentences(self._phi_model, sentences[-1:], self._device), slice(None), good)
        found = Conditioning(
            views=text_of(rows, slice(n), good),
            negative=text_of(rows, slice(n, n + 1), bad),
            phi=own,
            shared=shared,
        )
        if self._thing is None:
            return found
        _ = self._network  # which makes the picture's words
        frame = self.encode(as_image(self._thing, side).to(self._device)).detach()
        none = torch.zeros_like(frame)
        # a picture's colours say nothing of normals: there the words alone
        seen = (self._picture, frame) if kind == "colour" else (self._picture[1:].expand(2, -1, -1), none)
        return found.beside(seen[0], torch.cat((seen[1], none)))

    def shown(self, conditioning: Conditioning, draw: DrawShape) -> Conditioning:
        """See Prior."""
        if self._reference is not None:
            _ = self._network  # which makes the picture's words
            conditioning = conditioning.beside(self._picture)
        if not self._controls and self._sides is None:
            return conditioning
        encode = None if self._sides is None else views.encode_sides
        return replace(conditioning, shape=ShownShape(draw, self.factor, encode))

    def encode(self, image: Tensor) -> Tensor:
        """[B,H,W,3] in [0,1] to scaled latents [B,C,h,w], differentiable; small images are enlarged first."""
        apart = self._sides is not None and self._savings.checkpoint_encode
        return to_latent(self._vae, image, self.spec.native_size, self.factor, apart)

    def decode(self, x: Tensor) -> Tensor:
        """Scaled latents [B,C,h,w] to [B,H,W,3] in [0,1], without a gradient."""
        return to_image(self._vae, x)

    @torch.no_grad()
    def denoise(
        self, z: Tensor, level: NoiseLevel, camera: Camera, conditioning: Conditioning, guidance_scale: float,
        guidance_rescale: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """D_p(z) [B,C,h,w], guided; see Prior."""
        label = camera_label(camera.c2w) if self._network.takes_camera else None
        if self._sides is not None and conditioning.shape is not None:
            text = conditioning.shared.repeated(len(z))  # all six sides under one sentence
        elif label is None:
            text = conditioning.views.rows(view_indices(camera, self.spec.views))
        else:
            text = conditioning.views.repeated(len(z))
        shape = conditioning.shape
        text = text.seen_from(label, None if shape is None else shape(camera, z))
        return denoise_guided(
            self._network, z, level, text, conditioning.negative, guidance_scale, guidance_rescale
        )

    def phi(
        self, conditioning: Conditioning, rank: int, learning_rate: float, warmup: int, seed: int
    ) -> LoRAPhi:
        """A fresh D_phi; it replaces the one before."""
        network, text, shape = self._network, conditioning.shared, conditioning.shape
        if not self._shared:
            network, text, shape = self._phi_network, conditioning.phi, None
        phi = LoRAPhi(network, text, rank, learning_rate, warmup, seed, shape)
        save_network(self._savings, network)  # of the adapters' layers as well
        return phi

    def describe(self) -> dict[str, Any]:
        """Name, folders and hashes of the weights, for job.json."""
        phi: Any = "shared" if self._shared else describe(self._phi_model)
        found = {"name": self.name, "prior": describe(self._model), "phi": phi}
        for name, parts in (("loras", self._loras), ("controls", self._controls)):
            if parts:
                found[name] = [part.describe() for part in parts]
        if self._sides is not None:
            found["sides"] = self._sides.describe()
        told = self._reference or self._thing
        if told is not None:
            found["image"] = told.describe()
        return found


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


def write_sentences(
    spec: PriorSpec, prompt: str, negative: str, kind: Kind, canonical_prompt: CanonicalPrompt | None = None
) -> list[str]:
    """One sentence a view word in the spec's order, then the negative, then the prompt without view words."""
    if not prompt.strip():
        raise InputError("The prompt is empty.", "Describe one object, for example: a red mug.")
    if spec.kinds is None:
        try:
            refuse_notation(prompt, negative)
        except NotUnderstood as error:
            raise InputError(error.message, error.todo) from error
    else:
        if canonical_prompt is None:
            raise ModelError(
                "This model reads the language of its kinds alone, and was opened without it.",
                "Open it with backend.jobs.priors.open_prior.",
            )
        prompt = canonical_prompt(prompt, negative, spec.kinds)
    if kind == "normal":
        prompt = fill(spec.normal_prompt, prompt, "")
    sentences = (fill(spec.view_prompt, prompt, view) for view in spec.view_words)
    return [*sentences, negative, prompt]


def text_of(rows: Embedding, which: slice, time_ids: list[float]) -> Text:
    """Those rows; for SDXL also its micro-conditioning, the same for each."""
    hidden = rows["hidden"][which]
    if not time_ids:
        return Text(hidden)
    ids = torch.tensor([time_ids], dtype=torch.float32, device=hidden.device).expand(len(hidden), -1)
    return Text(hidden, rows["pooled"][which], ids)


def encoder_input_size(height: int, width: int, native: int, factor: int) -> tuple[int, int]:
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


def to_latent(vae: AutoencoderKL, image: Tensor, native: int, factor: int, apart: bool = False) -> Tensor:
    """[B,H,W,3] in [0,1] to [B,C,h,w], scaled, differentiable; the mode, so deterministic.

    apart  one view after the other, each computed again on the way back
    """
    if apart:
        again = partial(checkpoint, to_latent, use_reentrant=False, preserve_rng_state=False)
        return torch.cat([again(vae, view, native, factor) for view in image.split(1)])
    if image.ndim != 4 or image.shape[-1] != 3:
        raise InputError(f"An image is [B,H,W,3], got {list(image.shape)}.", "Pass renders without alpha.")
    fed = encoder_input_size(image.shape[1], image.shape[2], native, factor)
    pixels = image.permute(0, 3, 1, 2) * 2 - 1
    if fed != (image.shape[1], image.shape[2]):
        pixels = nn.functional.interpolate(pixels, fed, mode="bilinear", align_corners=False)
    mode: Tensor = vae.encode(pixels.to(vae.dtype)).latent_dist.mode()
    return mode.float() * float(vae.config.scaling_factor)


@torch.no_grad()
def to_image(vae: AutoencoderKL, x: Tensor) -> Tensor:
    """[B,C,h,w], scaled, to [B,H,W,3] in [0,1]."""
    pixels: Tensor = vae.decode((x / vae.config.scaling_factor).to(vae.dtype)).sample
    return (pixels.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
