"""What a comparison has beside each other, by name: methods, recipes, noises, and the paper's open knobs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from backend import config
from dreamflow_blender.contract.job import RECIPES
from dreamflow_blender.contract.settings import METHODS, NOISES


@dataclass(frozen=True)
class Row:
    """settings: "stage.setting" -> value, over those that all rows share; stages, recipe: of its jobs."""

    settings: dict[str, Any] = field(default_factory=dict)
    stages: tuple[str, ...] = ("nerf",)
    recipe: str = "dreamflow"

    def __str__(self) -> str:
        settings = config.RECIPES[self.recipe] | self.settings
        return " ".join([",".join(self.stages), *(f"{name}={value}" for name, value in settings.items())])


NOISE, ABLATION = "noise-", "apfo-"  # what the names of these rows begin with
ABLATIONS: dict[str, dict[str, Any]] = {
    "phi": {"nerf.phi": "lora"},  # D_phi learnt at the update's own level (Algorithm 1, line 7)
    "phi-random": {"nerf.phi": "lora", "nerf.phi_level": "random"},  # at a random one, as VSD has it
    "no-phi": {"nerf.phi": "none"},
    "views-1": {"nerf.views": 1},
    "views-5": {"nerf.views": 5},
    "views-10": {"nerf.views": 10},
    "constant": {"nerf.weight": "constant"},  # in place of kappa
    "guidance-1": {"nerf.guidance_scale": 1.0},
    "guidance-7.5": {"nerf.guidance_scale": 7.5},
    "guidance-20": {"nerf.guidance_scale": 20.0},
    "rescale": {"nerf.guidance_scale": 7.5, "nerf.guidance_rescale": 0.7},
}
ROWS: dict[str, Row] = {
    **{method: Row({"nerf.method": method}) for method in METHODS},
    **{recipe: Row({}, stages, recipe) for recipe, stages in RECIPES.items()},
    **{NOISE + noise: Row({"texture.noise": noise}, ("nerf", "texture")) for noise in NOISES},
    **{ABLATION + name: Row(settings) for name, settings in ABLATIONS.items()},
}
