"""From the names a user gives (--prior, --texturer, --refiner) to Priors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch

from backend.diffusion.prior import Prior, within
from backend.errors import InputError, ModelError
from dreamflow_blender.contract.protocol import Job

# Imports are inside, because diffusers takes seconds to import and the exact prior does without it.

BUILT_IN = {"mini": "base", "mini-refiner": "refiner"}  # name: folder in backend/mini
EXACT = ("exact", "exact-compass")  # without networks


def built_in(name: str) -> Path:
    """The folder of a key of BUILT_IN."""
    return Path(__file__).parents[1] / "mini" / BUILT_IN[name]


def built_in_control() -> Path:
    """The folder of the ControlNet that belongs to "mini"; `--control mini` takes it. An edition may lack it."""
    return built_in("mini").with_name("control")


def _control_of(text: str) -> str:
    """mini or mini:WEIGHT to its folder's; all else as it is. ModelError where this edition lacks it."""
    name, colon, weight = text.partition(":")
    if name != "mini":
        return text
    if not built_in_control().is_dir():
        raise ModelError("This edition's built-in model has no ControlNet.", "Leave --control mini out.")
    return f"{built_in_control()}{colon}{weight}"


@lru_cache(maxsize=8)
def canonical_prompt(prompt: str, negative: str, kinds: tuple[str, ...]) -> str:
    """As objects.grammar.canonical_prompt; a job asks for the same one for every stage. Raises InputError."""
    from backend.objects import grammar

    return grammar.canonical_prompt(prompt, negative, kinds)


def default_refiner(prior: str, stated: str = "") -> str:
    """The refiner that belongs to a prior: the built-in one has its own, Stable Diffusion's, MVDream's and SDXL's is
    the SDXL refiner where it has been fetched, all others refine themselves (""). ModelError where it is not whole.

    stated  the prior's PriorSpec.refiner
    """
    if prior == "mini":
        return "mini-refiner" if built_in("mini-refiner").exists() else ""
    if prior not in ("sd", "mvdream") and not stated:
        return ""
    from backend.weights.sources import find_if_fetched

    return "sdxl-refiner" if find_if_fetched("sdxl-refiner") else ""


def default_texturer(prior: str) -> str:
    """The model that textures in a prior's place: Stable Diffusion in MVDream's, whose pictures are a quarter as
    large, where it has been fetched; "" in no other's. ModelError where it is not whole."""
    from backend.weights.sources import find_if_fetched

    return "sd" if prior == "mvdream" and find_if_fetched("sd") else ""


def open_others(job: Job, prior: Prior, device: torch.device) -> dict[str, Prior]:
    """By stage, who does it in the prior's place. A job that textures with another model and has no refiner refines
    with that one as well. Raises ModelError and InputError.

    Without a word a job with additions of the prior's own network has no others: those stages need them too. The
    built-in one draws too small for that.
    """
    if job.texturer and (job.control or job.image_adapter):
        raise InputError(
            "A ControlNet and an image-adapter are for the prior while it textures, and --texturer takes its place.",
            "Leave one of them out.",
        )
    own = job.prior != "mini" and (job.lora or job.control or job.image_adapter)
    texturer = job.texturer or ("" if own else default_texturer(job.prior))
    refiner = job.refiner or ("" if own else default_refiner(job.prior, prior.spec.refiner)) or texturer
    phi = job.phi if job.phi in ("shared", "none") else None
    opened: dict[str, Prior] = {job.prior: prior}
    for name, its_phi in ((texturer, phi), (refiner, None)):
        if name and name not in opened:
            opened[name] = open_prior(name, device, its_phi)
    named = {"texture": texturer, "refine": refiner}
    return {stage: opened[name] for stage, name in named.items() if name not in ("", job.prior)}


def open_prior(
    name_or_folder: str | Path,
    device: torch.device | str,
    phi_folder: str | Path | None = None,
    loras: Sequence[str] = (),
    controls: Sequence[str] = (),
    image: str = "",
    image_adapter: str = "",
    scene: bool = False,
) -> Prior:
    """The prior "exact" or "exact-compass", the built-in "mini" and "mini-refiner", a model that `python -m backend
    models` lists, or a folder in diffusers' layout.

    phi_folder is Stable Diffusion's own model for D_phi, by name or folder; "shared" shares the prior's network,
    and so do None and "none", except that with None "sd" takes "sd-phi" where it has been fetched. loras are FILE or
    FILE:WEIGHT (models/artist_lora.py), controls FOLDER or FOLDER:WEIGHT (models/control.py) or "mini", image FILE or
    FILE:WEIGHT (models/reference.py). scene: its cameras stand in what they look at. Raises ModelError and InputError.
    """
    if str(name_or_folder) in EXACT:
        from backend.diffusion.view_words import COMPASS, VIEWS
        from backend.objects.exact_prior import ExactPrior
        from backend.objects.room import RoomPrior

        if loras or controls or image:
            raise InputError(
                "The exact prior has no network for a LoRA, a ControlNet or an image.",
                "Leave --lora, --control and --image out, or take a model.",
            )
        if scene:
            return RoomPrior(torch.device(device))
        words = COMPASS if str(name_or_folder) == "exact-compass" else VIEWS
        return ExactPrior(torch.device(device), words=words)
    from backend.models.model_folder import local_path
    from backend.weights.catalogue import PRIORS
    from backend.weights.sources import find_if_fetched, require

    if str(name_or_folder) == "sd" and phi_folder is None:
        phi_folder = find_if_fetched("sd-phi")
    elif str(phi_folder) in ("shared", "none"):
        phi_folder = None
    elif str(phi_folder) in PRIORS:
        phi_folder = require(str(phi_folder))
    if str(name_or_folder) in BUILT_IN:
        name_or_folder = built_in(str(name_or_folder))
    elif str(name_or_folder) in PRIORS:
        name_or_folder = require(str(name_or_folder))
    if not local_path(name_or_folder).exists():
        raise ModelError(
            f"There is no prior {str(name_or_folder)!r} on this machine.",
            f"Give 'mini', 'exact', 'exact-compass', one of {', '.join(PRIORS)} once `python -m backend models fetch`"
            " has brought it, or the path of a model's .safetensors file, or of a folder in diffusers' layout, the"
            " one that holds model_index.json (Stable Diffusion 1 or 2, SDXL, MVDream, or the SDXL refiner).",
        )
    from backend.models.latent_prior import LatentPrior

    shows = [_control_of(text) for text in controls]
    prior = LatentPrior(
        name_or_folder, device, phi_folder, canonical_prompt, loras, shows, image, image_adapter
    )
    if scene:
        prior.spec = within(prior.spec)
    return prior
