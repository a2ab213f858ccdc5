"""dreamflow.json beside a model: what it states of itself, read into a PriorSpec."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from backend.diffusion.prior import Backgrounds, PoseRange, PriorSpec
from backend.diffusion.view_words import COMPASS, VIEWS
from backend.errors import ModelError
from backend.weights.layout import read_json

TARGETS = ("latent", "pixel")
CAMERAS = ("words", "c2w")
MOST_FRAMES = 8
MOST_TEMPLATE = 500


def make_spec(stated: dict[str, Any], path: Path) -> PriorSpec:
    """The spec in the JSON object that `path` holds; where it leaves `native_size` out, 0.

    Lists become tuples; ModelError for an unknown field or a value of the wrong type.
    """
    values = {"native_size": 0} | {name: _tuples(value) for name, value in stated.items()}
    try:
        if isinstance(values.get("kinds"), str):  # those of the folder of this name beside this one
            values["kinds"] = _tuples(
                read_json(path.parents[1] / Path(values["kinds"]).name / path.name)["kinds"]
            )
        if "poses" in values:
            values["poses"] = PoseRange(**values["poses"])
            for low, high in (
                getattr(values["poses"], name) for name in ("azimuth", "elevation", "distance", "fov")
            ):
                if not low <= high:
                    raise ValueError(f"a range from {low} to {high}")
        if "backgrounds" in values:
            values["backgrounds"] = Backgrounds(**values["backgrounds"])
        spec = PriorSpec(**values)
        for template in (spec.view_prompt, spec.normal_prompt):
            check_template(template)
        if not isinstance(spec.native_size, int) or len(spec.normal_background) != 3:
            raise TypeError("native_size is a whole number, normal_background three numbers")
        if not isinstance(spec.guidance, int | float | None):
            raise TypeError("guidance is a number")
        if spec.target not in TARGETS or not isinstance(spec.lora, bool):
            raise TypeError("target is latent or pixel, lora true or false")
        if spec.views not in (VIEWS, COMPASS):
            raise TypeError(f"views are {', '.join(VIEWS)} or {', '.join(COMPASS)}")
        if spec.camera not in CAMERAS:
            raise TypeError(f"camera is {' or '.join(CAMERAS)}")
        if isinstance(spec.frames, bool) or spec.frames not in range(1, MOST_FRAMES + 1):
            raise TypeError(f"frames is a whole number from 1 to {MOST_FRAMES}")
        if spec.still is not None:
            raise TypeError("still is no model's own")
        if not isinstance(spec.settings, dict):
            raise TypeError("settings is an object")
        if spec.prediction not in ("", "epsilon", "v_prediction"):
            raise ValueError("prediction is epsilon or v_prediction")
        if spec.refiner not in ("", "sdxl-refiner"):
            raise ValueError("refiner is sdxl-refiner or empty")
        if Path(spec.vae).name != spec.vae:
            raise ValueError("vae is the name of a folder beside this one")
        if not isinstance(spec.vae_scale, int | float) or not spec.vae_scale > 0:
            raise ValueError("vae_scale is a number above zero")
    except (TypeError, AttributeError, KeyError, ValueError, IndexError, RecursionError) as error:
        raise ModelError(f"{path} cannot be used ({error}).", "Correct or remove the file.") from error
    return spec


def check_template(template: Any) -> None:
    """ValueError unless it is a short text whose braces are {prompt} and {view}: foreign text is no format string."""
    if (
        not isinstance(template, str)
        or len(template) > MOST_TEMPLATE
        or set(fill(template, "", "")) & set("{}")
    ):
        raise ValueError(
            f"{template!r:.60} is no text of at most {MOST_TEMPLATE} letters with {{prompt}} and {{view}}"
        )


def fill(template: str, prompt: str, view: str) -> str:
    """The sentence that a template makes."""
    words = {"{prompt}": prompt, "{view}": view}
    return re.sub("|".join(map(re.escape, words)), lambda found: words[found[0]], template)


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return value
