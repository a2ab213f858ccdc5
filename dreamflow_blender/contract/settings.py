"""Settings over a preset's as people type them: "nerf.levels=400", "nerf.phi=lora". Standard library only."""

from __future__ import annotations

import json
from typing import Any

TARGETS = (
    "prior",
    "latent",
    "pixel",
)  # as the prior states; as in the paper; between pictures (stages/apfo.py)
PHIS = ("prior", "lora", "none")  # as the prior states; D_phi learnt (Algorithm 1, line 7); D_phi(x) = x
METHODS = ("apfo", "sdedit", "sds", "vsd", "vsd-linear", "dreamtime")  # stages/methods.py
WEIGHTS = ("kappa", "constant")  # a level's step: as Eq. 12 has it, or the same one at every level
PHI_LEVELS = ("same", "random")  # where D_phi learns: at the update's own level (line 7), or as VSD has it
NOISES = ("fresh", "carried", "surface")  # of an update, diffusion/noise.py
SHOWN = ("normals", "colours")  # what moves the shape in stage 2a
WORDS = {
    "target": TARGETS,
    "phi": PHIS,
    "method": METHODS,
    "weight": WEIGHTS,
    "phi_level": PHI_LEVELS,
    "noise": NOISES,
    "shows": SHOWN,
}  # the settings that are words


def read_value(name: str, text: str) -> Any:
    """The value of the setting "stage.name": one of its words, or JSON. Raises ValueError with what was expected."""
    words = WORDS.get(name.rpartition(".")[2], ())
    try:
        return text if text in words else json.loads(text)
    except (ValueError, RecursionError) as error:  # the latter: brackets in brackets
        expected = f"one of {', '.join(words)}" if words else "a number"
        raise ValueError(f"expected {expected}, got {text[:40]!r}") from error


def read_setting(text: str) -> tuple[str, Any]:
    """ "STAGE.SETTING=VALUE" as its name and its value. Raises ValueError with what was expected."""
    name, equals, value = (part.strip() for part in text.partition("="))
    words = WORDS.get(name.rpartition(".")[2])
    expected = f"{name} needs one of {', '.join(words)}" if words else "expected STAGE.SETTING=NUMBER"
    try:
        if not equals:
            raise ValueError(text)
        return name, read_value(name, value)
    except ValueError as error:
        raise ValueError(f"{expected}, got {text[:60]!r}") from error
