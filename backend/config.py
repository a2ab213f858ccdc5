"""Every setting of a run, as frozen dataclasses: one a stage, and three presets.

`PAPER` is the paper's schedule and sizes (section 3.3, section D.1, and where it is silent the choices
that docs/decisions.md gives reasons for); `FAST` and `DRAFT` are ours. A prior brings its own camera
ranges, backgrounds and guidance, so a preset only says how much work is done.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backend.errors import InputError
from dreamflow_blender.contract.job import STAGES as STAGES
from dreamflow_blender.contract.settings import WORDS

UNLEARNT = ("sdedit", "sds")  # methods for which D_phi(x) = x
GRID_FEATURES = (1, 2, 4, 8)  # that the hash grid's kernels take, kernels.hashgrid.WIDTHS


@dataclass(frozen=True)
class StageSchedule:
    """What all stages have: which noise levels, at which size, how strongly guided."""

    start: float  # t_1 in [0, 1]
    end: float  # t_N, where the last step lands
    levels: int  # N
    views: int  # l, updates at each level
    size: int  # pixels a side of a render
    guidance_scale: float  # diffusers' convention, 1 + omega of the paper; a prior may state its own
    # 0 to 1: how far guidance leaves the standard deviation of D_p as it was without (denoiser.guided)
    guidance_rescale: float = 0.0
    decay_from: float = (
        1.0  # share of the stage after which learning rates fall linearly to a tenth; 1: never
    )
    target: str = "prior"  # of TARGETS: where x_hat lies
    weight: str = "kappa"  # of WEIGHTS; "constant" is there to be compared with
    method: str = "apfo"  # of METHODS; the others are those that the paper compares it with

    @property
    def iterations(self) -> int:
        return self.levels * self.views


@dataclass(frozen=True)
class LoRA:
    """D_phi, where the prior has one."""

    rank: int = 4
    learning_rate: float = 1e-4
    warmup: int = 500  # iterations; at most a tenth of the stage


@dataclass(frozen=True)
class NerfStage(StageSchedule):
    samples: int = 512  # a ray, along the box's diagonal
    budget: int = 2**21  # most samples of one render
    near: float = 0.1  # metres
    half: float = 1.0  # metres, half the box's side
    density_bias: float = 10.0  # section D.1
    grid_levels: int = 16
    grid_features: int = 4
    grid_log2_size: int = 19
    grid_finest: int = 2048  # cells a side of the finest level
    hidden: int = 64  # width of the heads' one hidden layer
    occupancy: int = 128  # cells a side
    occupancy_every: int = 16  # iterations
    grid_rate: float = 1e-2
    head_rate: float = 1e-3
    backdrop_rate: float = 1e-3
    orientation: float = 1e-2  # weight, on the sum over a view's rays
    orientation_points: int = 4096  # samples that estimate it
    entropy: float = 0.1  # weight of the opacity's entropy, summed over rays, only while there is fog
    entropy_from: float = 0.5  # share of the stage before which fog is let be
    normal_share: float = (
        0.0  # of the updates: they show normal maps instead of colours; a prior may state its own
    )
    phi: str = "prior"  # of PHIS: what D_phi is
    phi_level: str = "same"  # of PHI_LEVELS; "random" is there to be compared with
    lora: LoRA = field(default_factory=LoRA)


@dataclass(frozen=True)
class GeometryStage(StageSchedule):
    cells: int = 50  # body-centred cells along the longest side of the grid
    sdf_rate: float = 1e-2  # in cells an update
    offset_rate: float = 1e-2  # likewise
    consistency: float = 0.3  # weight of neighbouring faces' 1 - cos, summed as the loss is over pixels
    colour_grid_rate: float = 5e-3  # of the short fit that teaches the surface the field's colours
    colour_head_rate: float = 1e-3
    shows: str = "normals"  # of SHOWN; with "colours" the field learns them meanwhile, as in Magic3D
    laplacian: float = 1.0  # weight of the vertices' squared Laplacian in cells, summed


@dataclass(frozen=True)
class TextureStage(StageSchedule):
    grid_rate: float = 1e-2
    head_rate: float = 1e-3
    phi: str = "prior"  # of PHIS: what D_phi is
    phi_level: str = "same"  # of PHI_LEVELS; "random" is there to be compared with
    noise: str = "fresh"  # of NOISES; the others are there to be compared with
    lora: LoRA = field(default_factory=LoRA)


@dataclass(frozen=True)
class Delivery:
    max_faces: int | None = 40_000  # None: full detail
    texture_size: int = 2048  # pixels a side


@dataclass(frozen=True)
class Preset:
    nerf: NerfStage
    geometry: GeometryStage
    texture: TextureStage
    refine: TextureStage
    delivery: Delivery


PAPER = Preset(
    nerf=NerfStage(start=1.0, end=0.199, levels=800, views=5, size=256, guidance_scale=7.5),
    geometry=GeometryStage(start=0.8, end=0.4, levels=1000, views=5, size=512, guidance_scale=100.0),
    texture=TextureStage(start=0.5, end=0.1, levels=400, views=5, size=512, guidance_scale=7.5),
    refine=TextureStage(start=0.3, end=0.0, levels=30, views=10, size=1024, guidance_scale=5.0),
    delivery=Delivery(),
)

FAST = Preset(
    nerf=dataclasses.replace(PAPER.nerf, levels=300, samples=256, decay_from=0.8),
    geometry=dataclasses.replace(PAPER.geometry, levels=200, cells=40),
    texture=dataclasses.replace(PAPER.texture, levels=150, decay_from=0.8),
    refine=dataclasses.replace(PAPER.refine, levels=15),
    delivery=Delivery(),
)

DRAFT = Preset(
    nerf=NerfStage(
        start=1.0, end=0.05, levels=300, views=5, size=32, guidance_scale=7.5, decay_from=0.8,
        samples=64, budget=200_000, half=0.6,
        grid_levels=8, grid_features=2, grid_log2_size=14, grid_finest=128, hidden=16, occupancy=32,
        grid_rate=2e-2, head_rate=5e-3, orientation_points=256, entropy=0.3, entropy_from=0.3,
    ),
    geometry=GeometryStage(
        start=0.8, end=0.2, levels=60, views=5, size=128, guidance_scale=100.0, decay_from=0.7, cells=24,
    ),
    texture=TextureStage(
        start=0.5, end=0.05, levels=40, views=5, size=128, guidance_scale=7.5, decay_from=0.6,
        grid_rate=1e-2, head_rate=2e-3,
    ),
    refine=TextureStage(
        start=0.3, end=0.0, levels=12, views=5, size=256, guidance_scale=5.0, decay_from=0.3,
        grid_rate=2e-3, head_rate=5e-4,
    ),
    delivery=Delivery(max_faces=20_000, texture_size=1024),
)  # fmt: skip

PRESETS = {"paper": PAPER, "fast": FAST, "draft": DRAFT}


RECIPES: dict[str, dict[str, Any]] = {  # "stage.setting" -> value, of the job's recipe; RECIPES of a job has its stages
    "dreamflow": {},
    # Lin et al. 2023: SDS; the mesh's shape and colours at once, from pictures, with no stage of normal maps
    "magic3d": {"nerf.method": "sds", "geometry.method": "sds", "geometry.shows": "colours"},
    # Chen et al. 2023: SDS; a ball that normal maps alone make an object of, then its colours from nothing
    "fantasia3d": {
        "geometry.method": "sds", "geometry.start": 1.0, "geometry.sdf_rate": 0.05, "geometry.offset_rate": 0.05,
        "texture.method": "sds", "texture.start": 1.0,
    },
    # Wang et al. 2023: VSD, then SDS on normal maps, then VSD
    "prolificdreamer": {"nerf.method": "vsd", "geometry.method": "sds", "texture.method": "vsd"},
}  # fmt: skip

# of a scene round the cameras (section C): the density bias inside out, and cells for things in a whole box
SCENE: dict[str, Any] = {"nerf.density_bias": -10.0, "geometry.cells": 64}

# what may change a preset's settings; a later one wins
LAYERS = ("recipe", "scene", "prior", "texturer", "refiner", "anew", "strength", "job")
Layers = Mapping[str, Mapping[str, Any]]  # of LAYERS: "stage.setting" -> value


@dataclass(frozen=True)
class Resolved:
    """A run's settings, and for each that is not left to the preset the layer that set it."""

    preset: Preset
    set_by: dict[str, str]  # "stage.setting" -> one of LAYERS


def resolve(name: str, layers: Layers | None = None) -> Resolved:
    """The preset of this name with the layers over it, in the order of LAYERS.

    Raises InputError for an unknown preset, stage or setting, or a value that is not of its type or out of bounds.
    """
    if name not in PRESETS:
        raise InputError(f"There is no preset {name!r}.", f"Choose one of {', '.join(PRESETS)}.")
    preset, set_by = PRESETS[name], dict[str, str]()
    given = layers or {}
    assert set(given) <= set(LAYERS), f"layers are {LAYERS}, got {list(given)}"
    for layer in LAYERS:
        for key, value in given.get(layer, {}).items():
            preset = _with(preset, key, value)
            set_by[key] = layer
    _check(preset)
    return Resolved(preset, set_by)


def preset_of(stored: Mapping[str, Any]) -> Preset:
    """The preset that `dataclasses.asdict` and JSON made `stored` of.

    Raises InputError where a setting is missing, unknown or not of its type: another version has written it.
    """
    preset: Preset = _filled(PAPER, stored, "")
    _check(preset)
    return preset


def _filled(like: Any, stored: object, name: str) -> Any:
    """A dataclass as `like`, with all of its fields from `stored`."""
    fields = vars(like)
    if not isinstance(stored, Mapping) or set(stored) != set(fields):
        raise InputError(
            f"The job's settings{name and ' of '}{name} are those of another version of DreamFlow.",
            "Resume the job with the version that began it, which job.json names, or start it again.",
        )
    values = {}
    for key, current in fields.items():
        full = f"{name}.{key}".strip(".")
        read = _filled if dataclasses.is_dataclass(current) else _typed
        values[key] = read(current, stored[key], full)
    return dataclasses.replace(like, **values)


def setting_names() -> list[str]:
    """All that may be set, as "stage.setting"."""
    stages = vars(PAPER).items()
    return [f"{stage}.{name}" for stage, found in stages for name in vars(found) if name != "lora"]


def _with(preset: Preset, key: str, value: Any) -> Preset:
    """With one setting replaced. Raises InputError where there is none, or where it is of another type."""
    stage_name, _, setting = key.partition(".")
    stage = vars(preset).get(stage_name)
    if stage is None or setting not in vars(stage):
        near = difflib.get_close_matches(key, setting_names(), 3, 0.5)
        raise InputError(
            f"There is no setting {key!r}.",
            f"Did you mean {' or '.join(near)}? " * bool(near) + "`python -m backend settings` lists all.",
        )
    value = _typed(vars(stage)[setting], value, key)
    return dataclasses.replace(preset, **{stage_name: dataclasses.replace(stage, **{setting: value})})


def _typed(current: object, value: Any, key: str) -> Any:
    """The value, which is of `current`'s type; a whole number may stand for a number. Raises InputError."""
    if isinstance(current, float) and isinstance(value, int) and abs(value) < 2**63:
        value = value if isinstance(value, bool) else float(value)
    kind = int if key == "delivery.max_faces" else type(current)  # it is None for full detail
    if type(value) is not kind and not (key == "delivery.max_faces" and value is None):
        words = ", ".join(WORDS.get(key.rpartition(".")[2], ()))
        needed = {int: "a whole number", float: "a number", str: f"one of {words}"}.get(
            kind, f"a {kind.__name__}"
        )
        raise InputError(f"{key} needs {needed}, got {str(value)[:80]!r}.", "Correct the setting.")
    return value


BOUNDS: dict[str, tuple[float, float]] = {  # of settings by name; for those not here see _check
    "levels": (1, 100_000),
    "views": (1, 1000),
    "size": (1, 4096),
    "start": (0, 1),
    "end": (0, 1),
    "guidance_scale": (0, 1000),
    "guidance_rescale": (0, 1),
    "decay_from": (0, 1),
    "samples": (1, 4096),
    "budget": (1, 2**26),
    "half": (0.5, 10),  # the object's radius and above
    "density_bias": (-1000, 1000),
    "grid_levels": (1, 32),
    "grid_log2_size": (4, 24),
    "grid_finest": (16, 2**20),
    "hidden": (1, 1024),
    "occupancy": (2, 512),
    "entropy_from": (0, 1),
    "normal_share": (0, 1),
    "cells": (2, 256),
    "texture_size": (64, 8192),
    "max_faces": (4, 10**7),
}


def _check(preset: Preset) -> None:
    """InputError for a number that no run can take: out of BOUNDS, or else a count below 1, a rate or weight
    below 0 or above a million, or anything that is not finite."""
    for stage_name in (f.name for f in dataclasses.fields(preset)):
        stage = getattr(preset, stage_name)
        for name, value in vars(stage).items():
            if not isinstance(value, int | float):
                continue
            low, high = BOUNDS.get(name, (1 if isinstance(value, int) else 0, 10**6))
            if not low <= value <= high:
                got = f"{value:,}" if abs(value) < 2**63 else "a number beyond all bounds"
                raise InputError(
                    f"{stage_name}.{name} must be {low:,} to {high:,}, got {got}.", "Correct the setting."
                )
        for name, choices in WORDS.items():
            if getattr(stage, name, choices[0]) not in choices:
                raise InputError(
                    f"{stage_name}.{name} is {getattr(stage, name)!r}, expected {', '.join(choices)}.",
                    "Correct the setting.",
                )
        if getattr(stage, "phi", "") == "lora" and stage.method in UNLEARNT:
            raise InputError(
                f"{stage_name}.phi is 'lora', but {stage.method} learns no D_phi.",
                "Leave one of the two out.",
            )
        if isinstance(stage, StageSchedule) and stage.start <= stage.end:
            raise InputError(
                f"{stage_name} walks from start down to end, got {stage.start} and {stage.end}: expected"
                " start > end.",
                "Correct the two.",
            )
    if preset.nerf.grid_features not in GRID_FEATURES:
        raise InputError(
            f"nerf.grid_features must be one of {', '.join(map(str, GRID_FEATURES))},"
            f" got {preset.nerf.grid_features}.",
            "Correct the setting.",
        )
