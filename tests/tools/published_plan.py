"""What the plan of a run says of the published models, without their weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from unittest.mock import patch

import torch

from backend.config import STAGES
from backend.diffusion.prior import PriorSpec
from backend.jobs.record import resolve_job
from backend.models import latent_prior, load, mvdream
from backend.models.latent_prior import LatentPrior
from backend.models.model_folder import ModelFolder
from backend.stages import memory
from backend.stages.memory import Plan
from dreamflow_blender.contract.protocol import Job
from tests.tools.published_configs import MODELS

# Published sizes, counted from their configurations on torch's meta device; MVDream's camera is two layers more
UNETS = {"sd21-base": 865_910_724, "sd21": 865_910_724, "refiner": 2_259_526_660, "mvdream": 867_572_164}
VAE = 83_653_863
NATIVE = {"sd21-base": 512, "sd21": 768, "refiner": 1024, "mvdream": 256}


class Published(LatentPrior):
    """A published model's plan, without its weights."""

    def __init__(self, kind: str, phi: str = "") -> None:
        self._model = self.folder(kind)
        self._phi_model = self.folder(phi) if phi else self._model
        self._controls, self._reference, self._sides = (), None, None
        self.spec, self.factor = self._model.spec, 8
        self._device = torch.device("cuda")

    def folder(self, kind: str) -> ModelFolder:
        files = MODELS["sd21-base" if kind == "mvdream" else kind].items()
        configs = {path.split("/")[0]: given for path, given in files if "/config.json" in path}
        stated = {name: mvdream.STATED[name] for name in ("frames", "settings") if kind == "mvdream"}
        return ModelFolder(Path(kind), "", configs, {}, "epsilon", PriorSpec(NATIVE[kind], **stated))


def plan_of(preset: str, gigabytes: float, prior: Published, others: Mapping[str, Published]) -> Plan:
    """For a card that computes in bfloat16 and has so much memory."""

    def counted(model: ModelFolder, component: str) -> int:
        return VAE if component == "vae" else UNETS[str(model.path)]

    settings = resolve_job(Job("1", "generate", "any", "unused", preset=preset), prior, others).preset
    with (  # benchmarks.memory runs without pytest
        patch.object(load, "parameters", counted),
        patch.object(latent_prior, "network_dtype", lambda device: torch.bfloat16),
        patch.object(memory, "capacity_gb", lambda device: gigabytes),
    ):
        return memory.make_plan(STAGES, settings, prior, others, torch.device("cuda"))
