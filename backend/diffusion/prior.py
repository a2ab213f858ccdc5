"""What every prior promises: D_p, its encoder, and (PriorSpec) what it wants to be shown.

A prior states its own camera poses and background policy, because both belong to the images that it
was trained on. `stages.py` is written against these protocols alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Generator, Tensor

from backend.diffusion.control import DrawShape
from backend.diffusion.savings import Savings
from backend.diffusion.schedule import NoiseLevel
from backend.diffusion.view_words import VIEWS
from backend.draws import draw_on_host
from backend.errors import InputError
from backend.scene.camera import Camera, look_out, orbit

Kind = Literal["colour", "normal"]


@dataclass(frozen=True)
class Backgrounds:
    """What stands behind the object when a view is shown to the prior."""

    solids: tuple[tuple[float, float, float], ...] | None = None  # None: any colour
    learned_share: float = 0.5  # how often the background network is shown instead of a random solid

    def sample_solid(self, generator: Generator) -> Tensor:
        """[3] RGB in [0,1]."""
        if self.solids is None:
            return torch.rand(3, generator=generator, device=generator.device)
        if generator.device.type == "cpu":
            index = int(torch.randint(len(self.solids), (1,), generator=generator))
        else:
            index = int(draw_on_host(generator) * len(self.solids))
        # filled in on the device: copied there, it would be waited for
        return torch.stack([torch.full((), value, device=generator.device) for value in self.solids[index]])


class Poses(Protocol):
    """Where this prior's cameras stand."""

    def sample(self, generator: Generator, count: int, height: int, width: int) -> Camera: ...


@dataclass(frozen=True)
class PoseRange:
    """Cameras drawn uniformly from ranges; angles in degrees, distances in metres.

    Distances are the paper's (section D.1); the angles are those of its baselines.
    """

    azimuth: tuple[float, float] = (-180.0, 180.0)
    elevation: tuple[float, float] = (-10.0, 45.0)
    overhead_share: float = 0.1  # of the views, from the upper end of `elevation` to overhead_to
    overhead_to: float = 85.0
    distance: tuple[float, float] = (1.0, 1.5)
    fov: tuple[float, float] = (40.0, 70.0)

    def sample(self, generator: Generator, count: int, height: int, width: int) -> Camera:
        u = torch.rand(5, count, generator=generator, device=generator.device)

        def between(row: int, low: float, high: float) -> Tensor:
            return low + (high - low) * u[row]

        elevation = torch.where(
            u[4] < self.overhead_share,
            between(1, self.elevation[1], self.overhead_to),
            between(1, *self.elevation),
        )
        return orbit(
            between(0, *self.azimuth),
            elevation,
            between(2, *self.distance),
            between(3, *self.fov),
            height,
            width,
        )


@dataclass(frozen=True)
class PosesWithin:
    """Cameras near the middle of a scene, which look outwards; degrees and metres. The ranges are ours."""

    elevation: tuple[float, float] = (-30.0, 30.0)  # of where they look
    fov: tuple[float, float] = (60.0, 90.0)
    away: float = 0.1  # from the middle, at most, along each axis

    def sample(self, generator: Generator, count: int, height: int, width: int) -> Camera:
        """See Poses."""
        u = torch.rand(6, count, generator=generator, device=generator.device)
        (low, high), (narrow, wide) = self.elevation, self.fov
        elevation, fov = low + (high - low) * u[1], narrow + (wide - narrow) * u[2]
        return look_out(360 * u[0] - 180, elevation, self.away * (2 * u[3:].T - 1), fov, height, width)


@dataclass(frozen=True)
class PriorSpec:
    """What a prior states of itself: how it was trained, so how it wants to be shown objects.

    A model states it in an optional dreamflow.json beside model_index.json (models/prior_spec.py); the defaults are
    Stable Diffusion's.
    """

    native_size: int = 0  # pixels a side that it was trained at; smaller renders are enlarged to it
    poses: Poses = PoseRange()
    backgrounds: Backgrounds = Backgrounds()
    guidance: float | None = None  # the scale that suits it; None: the preset's
    views: tuple[str, ...] = VIEWS  # the words for where a camera stands: VIEWS or COMPASS
    view_prompt: str = "{prompt}, {view} view"
    camera: str = "words"  # how it is given where the camera stands: by view_prompt, or by its matrix ("c2w")
    # views that it denoises jointly: a ring of equal steps round the object (rings_of). 1: any views
    frames: int = 1
    normal_prompt: str = "a normal map of {prompt}"
    normal_background: tuple[float, float, float] = (0.5, 0.5, 1.0)  # RGB behind normal maps (stage 2a)
    # of objects/grammar.py, all that it can draw; None: it reads any words
    kinds: tuple[str, ...] | None = None
    # where x_hat is unless a stage says otherwise: "latent" as in the paper, or "pixel" (stages/apfo.py)
    target: str = "latent"
    lora: bool = True  # whether D_phi is learned unless a stage says otherwise; False: D_phi(x) = x
    # "stage.setting": value, over every preset's, such as {"nerf.size": 64}; a job's overrides win
    settings: dict[str, Any] = field(default_factory=dict)
    refiner: str = ""  # the model that does the last stage where it has been fetched; empty: this one
    # "epsilon" or "v_prediction" where the model's own files say it wrongly or not at all
    prediction: str = ""
    vae: str = ""  # a folder beside this one whose VAE it shares; empty: its own
    vae_scale: float = 1.0  # of that VAE's latents, times its own scaling_factor
    still: PriorSpec | None = (
        None  # what holds while a mesh that stands still is textured; None: all of the above
    )

    @property
    def view_words(self) -> tuple[str, ...]:
        """What view_prompt is filled with, one sentence each: one empty word where the matrix tells the camera."""
        return ("",) if self.camera == "c2w" else self.views


def within(spec: PriorSpec) -> PriorSpec:
    """What a prior of any prompt wants of a scene round the cameras: no background, and no word for the view.

    Raises InputError for a prior that knows objects alone, or rings of views round them.
    """
    if spec.kinds is not None or spec.frames != 1:
        raise InputError(
            "This prior knows single objects alone.", "Take sd, or another model of any pictures."
        )
    black = Backgrounds(((0.0, 0.0, 0.0),), learned_share=0.0)
    return replace(spec, poses=PosesWithin(), backgrounds=black, view_prompt="{prompt}")


class Phi(Protocol):
    """D_phi: the denoiser of the renders themselves."""

    steps: int  # fits done

    def fit(self, x: Tensor, level: NoiseLevel, camera: Camera, generator: Generator) -> Tensor:
        """One step of denoising score matching (Algorithm 1, line 7) on x [B,C,h,w]; the loss, a scalar."""

    def __call__(self, z: Tensor, level: NoiseLevel, camera: Camera) -> Tensor:
        """D_phi(z), without a gradient."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the next `fit` and call depend on, for a checkpoint."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class Prior(Protocol):
    """D_p and the space it lives in."""

    name: str
    factor: int  # image pixels per latent pixel along a side
    channels: int  # of a latent
    spec: PriorSpec

    def check(self, prompt: str, negative: str, kind: Kind, size: int) -> None:
        """InputError where this cannot be prepared, or renders of this size not encoded; quick, so that it
        comes before a run begins."""

    def prepare(self, prompt: str, negative: str, kind: Kind, size: int) -> Any:
        """What `denoise` and `phi` need for this prompt; opaque to the caller. InputError for a bad prompt."""

    def shown(self, conditioning: Any, draw: DrawShape) -> Any:
        """The conditioning of a stage whose mesh stands still, for a prior that looks at the shape as well; as it is
        for all others."""

    def encode(self, image: Tensor) -> Tensor:
        """[B,H,W,3] in [0,1] to scaled latents [B,C,h,w], differentiable and deterministic."""

    def decode(self, x: Tensor) -> Tensor:
        """Latents to [B,H,W,3] in [0,1]."""

    def denoise(
        self,
        z: Tensor,
        level: NoiseLevel,
        camera: Camera,
        conditioning: Any,
        guidance_scale: float,
        guidance_rescale: float = 0.0,
    ) -> Tensor:
        """D_p(z) for z = x + sigma n [B,C,h,w], guided as denoiser.guided has it, without a gradient.

        Each view is seen by its camera.

        B is a whole number of rings of `frames` views, one after another.
        """

    def phi(self, conditioning: Any, rank: int, learning_rate: float, warmup: int, seed: int) -> Phi | None:
        """A fresh D_phi; None where D_phi(x) = x is right for this prior."""

    def footprint(self, size: int, savings: Savings, still: bool = False) -> float:
        """Gigabytes that its networks and their activations take at most, for renders of this size: an estimate.

        still  of a mesh that stands still
        """

    def save_memory(self, savings: Savings) -> None:
        """Applies until the end of the run."""

    def load(self) -> None:
        """Load what would otherwise be loaded when it is first needed; ModelError where that fails."""

    def release(self) -> None:
        """Free what takes memory, until it is needed again."""

    def take_notes(self) -> list[str]:
        """What the user should know since the last call, such as that CUDA graphs are not used."""

    def describe(self) -> dict[str, Any]:
        """What job.json says of it: name, folder, the hashes of its weights."""
