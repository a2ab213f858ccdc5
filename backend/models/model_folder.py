"""Weights on this machine: folders in diffusers' layout, checked before a weight is read.

Only safetensors and JSON / text are opened. A folder that offers pickles instead is refused unopened.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from backend.diffusion.convention import Prediction
from backend.diffusion.prior import PriorSpec
from backend.errors import ModelError
from backend.models import mvdream
from backend.models.fit import (
    OTHERS,
    check_counts,
    check_fit,
    check_plain,
    check_scheduler,
    distilled_note,
    distilled_sign,
    encoders_of,
)
from backend.models.prior_spec import make_spec
from backend.weights.layout import COMPONENTS, WEIGHT_STEMS, config_file, read_json
from backend.weights.tokens import check_tokenizer

SDXL = "StableDiffusionXLPipeline"  # the base model
A_FOLDER = "Give the path of a folder in diffusers' layout, the one that holds model_index.json."
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
WHOLE = (
    "F64",
    "F32",
    "F16",
    "BF16",
    "I64",
    "I32",
)  # safetensors' names; integers: positions in old text encoders


@dataclass(frozen=True)
class ModelFolder:
    """A folder in diffusers' layout, or one file, that passed every check that needs no weight."""

    path: Path
    pipeline: str  # a key of COMPONENTS
    configs: dict[str, dict[str, Any]]  # component to its configuration
    weights: dict[str, tuple[Path, ...]]  # component to its safetensors files
    prediction: Prediction
    spec: PriorSpec
    empty_is_zeros: bool = False  # an empty negative prompt is embedded as zeros, not as an empty sentence
    notes: tuple[str, ...] = ()  # what the user should know of it
    picture_words: int = 0  # that it makes of a picture: an ImageDream (imagedream.py)
    family: str = ""  # of a model in one file (single_file.py): which of published.json; `path` is that file

    @property
    def encoders(self) -> list[str]:
        """Its text encoders, in the order in which their hidden states are joined."""
        return encoders_of(self.configs)

    @property
    def factor(self) -> int:
        """Image pixels per latent pixel along a side."""
        return latent_factor(self.configs)

    def home(self, component: str) -> Path:
        """The folder that holds the component's folder: this one, but for a VAE that is shared."""
        shared = component == "vae" and self.spec.vae
        return self.path.parent / self.spec.vae if shared else self.path


def open_folder(name_or_folder: str | Path) -> ModelFolder:
    """Find and check a model folder. Raises ModelError, which names what is missing, damaged or does not fit."""
    path = local_path(name_or_folder)
    try:
        return _open_folder(path)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror}).", "Make it readable, or use another folder."
        ) from error


def local_path(name_or_folder: str | Path) -> Path:
    """Where a model would be; ModelError for what no path can be."""
    path = Path(name_or_folder)
    try:
        path = path.expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:  # too long a name; ~ of an unknown user
        raise ModelError(f"{str(path)[:80]!r} cannot be a model's folder ({error}).", A_FOLDER) from error
    return path


def _open_folder(path: Path) -> ModelFolder:
    refuse_pickles(path, path / "model_index.json")
    refuse_single_files(path)
    if path.is_file():
        raise ModelError(f"{path} is a single file, expected a folder.", A_FOLDER)
    if not path.is_dir():
        raise ModelError(f"The model {str(path)!r} is not on this machine.", A_FOLDER)
    index = read_json(path / "model_index.json")
    pipeline = index.get("_class_name")
    # of one's own: [file, class]
    pipeline = str(pipeline[-1] if isinstance(pipeline, list) and pipeline else pipeline)
    if pipeline not in COMPONENTS:
        why = f" ({OTHERS[pipeline]})" if pipeline in OTHERS else ""
        raise ModelError(
            f"{path} holds a {pipeline}{why}, expected one of {', '.join(COMPONENTS)}.",
            "Use Stable Diffusion 1 or 2, SDXL, MVDream or the SDXL refiner.",
        )
    stated, rings = path / "dreamflow.json", pipeline == mvdream.PIPELINE
    usual = mvdream.STATED if rings else {"refiner": "sdxl-refiner"} if pipeline == SDXL else {}
    spec = make_spec(usual | (read_json(stated) if stated.is_file() else {}), stated)
    configs, weights = {}, {}
    components = COMPONENTS[pipeline]
    if rings and isinstance(index.get(mvdream.CAMERA), list):
        components = components | {mvdream.CAMERA: "CameraMatrixEmbedding"}
    if rings and isinstance(index.get("image_encoder"), list) and index["image_encoder"][-1] is not None:
        components = components | {"image_encoder": "CLIPVisionModel"}
    for component, expected in components.items():
        library_and_class = index.get(component)
        got = library_and_class[-1] if isinstance(library_and_class, list) and library_and_class else None
        if expected is not None and got not in (expected, f"{expected}Fast"):
            raise ModelError(
                f"{path}: {component} is of class {got}, expected {expected}.",
                "Use another folder as the model.",
            )
        home = path.parent / spec.vae if component == "vae" and spec.vae else path
        if not (home / component).is_dir():
            raise ModelError(f"{home} has no folder {component}.", "Copy the model again, whole.")
        configs[component] = read_json(home / config_file(component))
        check_plain(home, component, configs[component])
        if component in WEIGHT_STEMS:
            check_counts(home / component, configs[component])
        if component in WEIGHT_STEMS:
            weights[component] = find_weights(home / component, WEIGHT_STEMS[component])
    words = mvdream.picture_words(path, index, configs["unet"]) if rings else 0
    if rings:
        configs["unet"] = mvdream.unet_config(path, index, configs["unet"])
    if spec.prediction:
        configs["scheduler"]["prediction_type"] = spec.prediction
    prediction = check_scheduler(path, configs["scheduler"])
    check_fit(path, configs, spec)
    notes = []
    if (sign := distilled_sign(configs["scheduler"])) and spec.guidance is None:
        notes.append(distilled_note(path, sign))
        spec = replace(spec, guidance=1.0)
    for encoder in encoders_of(configs):
        check_tokenizer(path / encoder.replace("text_encoder", "tokenizer"), configs[encoder])
    if not spec.native_size:
        native_size = configs["unet"]["sample_size"] * latent_factor(configs)
        spec = replace(spec, native_size=native_size)
    zeros = pipeline == SDXL and index.get("force_zeros_for_empty_prompt", True) is True
    return ModelFolder(path, pipeline, configs, weights, prediction, spec, zeros, tuple(notes), words)


def latent_factor(configs: dict[str, dict[str, Any]]) -> int:
    """Image pixels per latent pixel along a side: the VAE halves between its blocks."""
    return int(2 ** (len(configs["vae"]["block_out_channels"]) - 1))


def find_weights(folder: Path, stem: str) -> tuple[Path, ...]:
    """A component's safetensors files, full precision before fp16; each header matches its file's length.

    Where there are both shards and one file, it is what the library loads: diffusers the shards, transformers the file.
    """
    shards_first = stem == WEIGHT_STEMS["unet"]
    for end, index_end in ((".safetensors", ""), (".fp16.safetensors", ".fp16")):
        index = folder / f"{stem}.safetensors.index{index_end}.json"
        if (folder / f"{stem}{end}").is_file() and not (shards_first and index.is_file()):
            files = [folder / f"{stem}{end}"]
        elif index.is_file():
            names = weight_files(read_json(index).get("weight_map"))
            if not names or any(name != Path(name).name for name in names):
                raise ModelError(f"{index} names no files of its own folder.", "Copy the model again.")
            files = [folder / name for name in names]
        else:
            continue
        for file in files:
            try:
                with safe_open(file, "pt") as opened:
                    kinds = {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118  no mapping
            except (OSError, SafetensorError) as error:
                raise ModelError(
                    f"{file} is missing, truncated or damaged ({error}).", "Copy or download this file again."
                ) from error
            if odd := kinds.difference(WHOLE):
                raise ModelError(
                    f"{file} holds numbers of type {', '.join(sorted(odd))}, expected float16, bfloat16 or float32.",
                    "Use the model's weights in half or full precision.",
                )
        return tuple(files)
    refuse_pickles(folder, folder / f"{stem}.safetensors")
    raise ModelError(f"{folder / stem}.safetensors is missing.", "Copy the model again, whole.")


def weight_files(weight_map: Any) -> list[str]:
    """The names in an index of shards; empty where it is none."""
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    return sorted(set(names)) if all(isinstance(name, str) for name in names) else []


def refuse_pickles(path: Path, expected: Path) -> None:
    """ModelError where `path`, a folder or a file, offers pickles instead of `expected`. Opens nothing."""
    if expected.is_file():
        return
    files = [path] if path.is_file() else list(path.iterdir()) if path.is_dir() else []
    pickles = sorted(file.name for file in files if file.suffix.lower() in PICKLES)
    if pickles:
        raise ModelError(
            f"{path} holds weights only as {', '.join(pickles)}, which can run code when opened.",
            f"Get the model's safetensors files, in diffusers' layout: {expected.name} belongs there.",
        )


def refuse_single_files(path: Path) -> None:
    """ModelError where a folder offers a checkpoint in one file, or a LoRA alone, instead of diffusers' layout."""
    if (path / "model_index.json").is_file() or not path.is_dir():
        return
    single = sorted(file.name for file in path.iterdir() if file.suffix.lower() == ".safetensors")
    if single:
        raise ModelError(
            f"{path} holds {', '.join(single)} without model_index.json, expected a model in diffusers' layout.",
            "Get the model in diffusers' layout; a LoRA has to be merged into a whole model first.",
        )


def describe(model: ModelFolder) -> dict[str, Any]:
    """Folder, class and the sha256 of every weight file in use, for job.json."""
    files = {
        file.name if model.family else file.relative_to(model.home(component)).as_posix(): file
        for component, parts in model.weights.items()
        for file in parts
    }
    return {
        "folder": str(model.path),
        "pipeline": model.pipeline,
        "prediction": model.prediction,
        "sha256": {name: file_hash(file) for name, file in files.items()},
    }


def file_hash(path: Path) -> str:
    """sha256 of a file, remembered while its size and time stay the same."""
    status = path.stat()
    return _hash(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _hash(path: Path, _size: int, _mtime: int) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
