"""CLIP R-precision (the paper's section D.4): does a network that knows no object of ours find its prompt again?

120 albedo renders a result, at even azimuths, elevation 15 degrees, distance 1.2. A render is a hit where its own
prompt has the highest cosine of all prompts (R = 1); the mean over a result's renders, then over results. The paper
states neither the field of view nor the background: ours are FOV and BACKGROUND.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from platformdirs import user_cache_path
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional

from backend.errors import InputError, ModelError
from backend.files import disk_errors, write_bytes
from backend.results.look import render_textured
from backend.scene.camera import orbit
from backend.scene.mesh import Mesh
from backend.weights.sources import HUB_ID
from backend.weights.transport import open_transport

VIEWS, ELEVATION, DISTANCE = 120, 15.0, 1.2  # degrees, metres
FOV = 50.0  # degrees: a ball of radius 0.5 just fits
BACKGROUND = 1.0  # white
SIZE = 256  # pixels a side, made smaller for the network
BATCH = 12  # views at a time
FILES = ("*.json", "merges.txt", "model.safetensors")
# OpenAI's, of RGB in [0,1]
MEAN, STD = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def render_views(mesh: Mesh, albedo: Tensor) -> Tensor:
    """[VIEWS,SIZE,SIZE,3]: a result all round, its colours alone. albedo [S,S,3] in [0,1]."""
    azimuth, same = torch.arange(VIEWS) * (360.0 / VIEWS), torch.ones(VIEWS)
    camera = orbit(azimuth, ELEVATION * same, DISTANCE * same, FOV * same, SIZE, SIZE)
    white = torch.full((3,), BACKGROUND)
    parts = [render_textured(mesh, albedo, camera[i : i + BATCH], white)[0] for i in range(0, VIEWS, BATCH)]
    return torch.cat(parts)


class Clip:
    """A CLIP model in transformers' layout, safetensors alone: a folder, or a name on the hub. Raises ModelError."""

    def __init__(self, model: str) -> None:
        from transformers import CLIPModel, CLIPTokenizer

        folder = Path(model) if Path(model).is_dir() else _fetched(model)
        try:
            self._model: Any = CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
            self._tokenizer: Any = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ModelError(
                f"{folder} holds no CLIP model that can be read: {str(error).splitlines()[0]}",
                "Give a folder with config.json, model.safetensors and a tokenizer, such as CLIP ViT-L/14's.",
            ) from error
        self._model.eval()
        self._mean, self._std = pixel_statistics(folder / "preprocessor_config.json")
        self._key = hashlib.sha256()
        for tensor in (*self._model.state_dict().values(), self._mean, self._std):
            self._key.update(tensor.contiguous().numpy().data)

    def results(self, mesh: Mesh, albedo: Tensor) -> Tensor:
        """Unit vectors [VIEWS,D] of a result's views; the same network is asked once about the same result."""
        key = self._key.copy()
        for array in (mesh.v_pos, mesh.t_pos_idx, mesh.v_tex, mesh.t_tex_idx, albedo):
            assert array is not None
            key.update(array.contiguous().numpy().data)
        key.update(repr((VIEWS, ELEVATION, DISTANCE, FOV, BACKGROUND, SIZE)).encode())
        kept = user_cache_path("dreamflow", appauthor=False) / "clip" / f"{key.hexdigest()}.safetensors"
        if kept.is_file():
            return load_file(kept)["views"]
        found = self.images(render_views(mesh, albedo))
        with disk_errors(kept):
            kept.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(kept, save({"views": found}))
        return found

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """[B,H,W,3] in [0,1] to unit vectors [B,D]."""
        side = self._model.config.vision_config.image_size
        pixels = functional.interpolate(
            images.permute(0, 3, 1, 2), (side, side), mode="bicubic", antialias=True, align_corners=False
        )
        pixels = (pixels.clamp(0, 1) - self._mean) / self._std
        found = [self._model.vision_model(pixel_values=part).pooler_output for part in pixels.split(BATCH)]
        return functional.normalize(self._model.visual_projection(torch.cat(found)), dim=1)

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors [P,D]. Raises InputError for a prompt longer than the network reads."""
        longest, found = self._model.config.text_config.max_position_embeddings, []
        for prompt in prompts:
            tokens = self._tokenizer(prompt, return_tensors="pt")
            if tokens["input_ids"].shape[1] > longest:
                raise InputError(
                    f"{prompt[:40]!r} is too long: CLIP reads {longest} tokens, got {tokens['input_ids'].shape[1]}.",
                    "Leave it out of the prompts.",
                )
            output = self._model.text_model(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            )
            found.append(output.pooler_output)
        return functional.normalize(self._model.text_projection(torch.cat(found)), dim=1)


def _fetched(model: str) -> Path:
    """The folder in the hub's cache of a model by its name, fetched where it is not there. Raises ModelError."""
    if HUB_ID.fullmatch(model) is None:
        raise ModelError(
            f"There is no folder {model}.", "Give a CLIP model's folder, or its name on the hub."
        )
    open_transport()
    try:
        return Path(snapshot_download(model, allow_patterns=list(FILES)))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise ModelError(
            f"{model} could not be fetched: {str(error).splitlines()[0]}", "Give the folder of a copy."
        ) from error


def pixel_statistics(path: Path) -> tuple[Tensor, Tensor]:
    """Mean and deviation [3,1,1] of a preprocessor_config.json; OpenAI's where there is no such file."""
    stated: dict[str, Any] = {}
    if path.is_file():
        with disk_errors(path):
            stated = json.loads(path.read_text(encoding="utf-8"))
    mean, std = stated.get("image_mean", MEAN), stated.get("image_std", STD)
    return torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)


def r_precision(images: Tensor, texts: Tensor, own: int) -> float:
    """The share of images [B,D] whose highest cosine with the texts [P,D] is row `own`; unit vectors."""
    return float(((images @ texts.T).argmax(1) == own).double().mean())


def bootstrap(values: Sequence[float], draws: int = 10_000) -> tuple[float, float]:
    """The 95 % interval of the mean: results drawn again with replacement; the same values give the same interval."""
    found = torch.tensor(values, dtype=torch.float64)
    index = torch.randint(len(values), (draws, len(values)), generator=torch.Generator().manual_seed(0))
    low, high = found[index].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
