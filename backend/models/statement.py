"""What a prior may say of itself: how it was trained, so how it wants to be shown objects."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.diffusion.prior import Backgrounds, PoseRange
from backend.diffusion.view_words import COMPASS, VIEWS
from backend.errors import ModelError

TARGETS = ("latent", "pixel")
CAMERAS = ("words", "c2w")
MOST_FRAMES = 8
ANY_POSE, ANY_BACKGROUND = PoseRange(), Backgrounds()


@dataclass(frozen=True)
class Statement:
    """An optional dreamflow.json beside model_index.json; the defaults are Stable Diffusion's."""

    native_size: int  # pixels a side that it was trained at; smaller renders are enlarged to it
    poses: PoseRange = ANY_POSE
    backgrounds: Backgrounds = ANY_BACKGROUND
    guidance: float | None = None  # the scale that suits it; None: the preset's
    views: tuple[str, ...] = VIEWS  # the words for where a camera stands: VIEWS or COMPASS
    view_prompt: str = "{prompt}, {view} view"
    camera: str = "words"  # how it is told where the camera stands: by view_prompt, or by its matrix ("c2w")
    frames: int = 1  # views that it denoises jointly: a ring of equal steps round the object
    normal_prompt: str = "a normal map of {prompt}"
    normal_background: tuple[float, float, float] = (0.5, 0.5, 1.0)
    kinds: tuple[str, ...] | None = None  # of mini/grammar.py, all that it can draw; None: it reads any words
    target: str = "latent"  # where x_hat lies: "latent" as in the paper, or "pixel" (stages/apfo.py)
    lora: bool = True  # whether D_phi is learnt; False: D_phi(x) = x
    settings: dict[str, Any] = field(default_factory=dict)  # "stage.setting": value, over every preset's
    vae: str = ""  # a folder beside this one whose VAE it shares; empty: its own
    vae_scale: float = 1.0  # of that VAE's latents, times its own scaling_factor

    @property
    def view_words(self) -> tuple[str, ...]:
        """What view_prompt is filled with, one sentence each: one empty word where the matrix tells the camera."""
        return ("",) if self.camera == "c2w" else self.views


def make_statement(stated: dict[str, Any], native_size: int, path: Path) -> Statement:
    """The statement of the JSON object that `path` holds, where it leaves `native_size` out, this one.

    Lists become tuples; ModelError for an unknown field or a value of the wrong type.
    """
    values = {"native_size": native_size} | {name: _tuples(value) for name, value in stated.items()}
    try:
        if "poses" in values:
            values["poses"] = PoseRange(**values["poses"])
            for low, high in (
                getattr(values["poses"], name) for name in ("azimuth", "elevation", "distance", "fov")
            ):
                if not low <= high:
                    raise ValueError(f"a range from {low} to {high}")
        if "backgrounds" in values:
            values["backgrounds"] = Backgrounds(**values["backgrounds"])
        statement = Statement(**values)
        for template in (statement.view_prompt, statement.normal_prompt):
            template.format(prompt="", view="")
        if not isinstance(statement.native_size, int) or len(statement.normal_background) != 3:
            raise TypeError("native_size is a whole number, normal_background three numbers")
        if not isinstance(statement.guidance, int | float | None):
            raise TypeError("guidance is a number")
        if statement.target not in TARGETS or not isinstance(statement.lora, bool):
            raise TypeError("target is latent or pixel, lora true or false")
        if statement.views not in (VIEWS, COMPASS):
            raise TypeError(f"views are {', '.join(VIEWS)} or {', '.join(COMPASS)}")
        if statement.camera not in CAMERAS:
            raise TypeError(f"camera is {' or '.join(CAMERAS)}")
        if isinstance(statement.frames, bool) or statement.frames not in range(1, MOST_FRAMES + 1):
            raise TypeError(f"frames is a whole number from 1 to {MOST_FRAMES}")
        if not isinstance(statement.settings, dict):
            raise TypeError("settings is an object")
        if Path(statement.vae).name != statement.vae:
            raise ValueError("vae is the name of a folder beside this one")
        if not isinstance(statement.vae_scale, int | float) or not statement.vae_scale > 0:
            raise ValueError("vae_scale is a number above zero")
    except (TypeError, AttributeError, KeyError, ValueError, IndexError) as error:
        raise ModelError(f"{path} cannot be used ({error}).", "Correct or remove the file.") from error
    return statement


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return value
