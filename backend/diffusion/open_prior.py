"""From the name a user gives (--prior, --refiner) to a Prior."""

from __future__ import annotations

from pathlib import Path

import torch

from backend.diffusion.prior import Prior
from backend.errors import ModelError

# Imports are inside, because diffusers takes seconds to import and the exact prior does without it.


def open_prior(
    name_or_folder: str | Path, device: torch.device | str, phi_folder: str | Path | None = None
) -> Prior:
    """The prior "exact", or a model folder in diffusers' layout, chosen by its model_index.json.

    phi_folder is Stable Diffusion's own model for D_phi; None shares the network. Raises ModelError.
    """
    if str(name_or_folder) == "exact":
        from backend.diffusion.exact import ExactPrior

        return ExactPrior(torch.device(device))
    from backend.diffusion.models import local_path, open_folder

    if not local_path(name_or_folder).exists():
        raise ModelError(
            f"There is no prior {str(name_or_folder)!r} on this machine.",
            "Give 'exact', or the path of a folder in diffusers' layout, the one that holds model_index.json"
            " (Stable Diffusion 2.1, 2.1-base, or the SDXL refiner).",
        )
    from backend.diffusion.sdxl_refiner import SDXLRefinerPrior
    from backend.diffusion.stable_diffusion import StableDiffusionPrior

    if open_folder(name_or_folder).pipeline == "StableDiffusionXLImg2ImgPipeline":
        return SDXLRefinerPrior(name_or_folder, device)
    return StableDiffusionPrior(name_or_folder, device, phi_folder)
