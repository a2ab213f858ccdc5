"""Where each model of the catalogue may come from, and where it lies on this machine.

Sources are tried in order: ids on the model hub ("owner/name" or "owner/name@revision") and folders in
diffusers' layout. A file of the user's own, models.toml, replaces them:

    [sd]
    sources = ["/models/sd-2.1-base", "my-group/my-mirror@v1"]

The file is $DREAMFLOW_MODELS_TOML, else models.toml in the user's configuration folder for dreamflow.
Fetched models are kept under HF_HOME; what other programs have put into the hub's cache there is used as well.
Nothing here touches the network or opens a weight.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PureWindowsPath

from huggingface_hub import constants, try_to_load_from_cache
from platformdirs import user_config_path

from backend.errors import InputError, ModelError
from backend.files import write_text
from backend.weights.catalogue import DEFAULTS, NAMES, Hub, Model
from backend.weights.layout import read_json
from backend.weights.tokens import check_tokenizer

RECORD = "fetched.json"  # written last, so a folder that has it was whole once
LARGEST = 1 << 40  # bytes: no file of a model has more, whatever a list or a record states
ACCEPTED = (".safetensors", ".json", ".txt")
HUB_ID = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w-][\w./-]*))?", re.ASCII)


class Refused(ModelError):
    """This source does not give the model; another may."""


def models_file() -> Path:
    """Where the user may name other sources; it need not be there."""
    stated = os.environ.get("DREAMFLOW_MODELS_TOML")
    return (
        Path(stated).expanduser()
        if stated
        else user_config_path("dreamflow", appauthor=False) / "models.toml"
    )


def known_models() -> dict[str, Model]:
    """The models by name, with the sources of models.toml; InputError where that file cannot be used."""
    path = models_file()
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if "DREAMFLOW_MODELS_TOML" in os.environ:
            raise _unusable(path, "there is no such file") from None
        tables = {}
    except (OSError, ValueError) as error:
        raise _unusable(path, error) from error
    models = {model.name: model for model in DEFAULTS}
    for name, table in tables.items():
        if name not in models:
            raise _unusable(path, f"got the table [{name}], expected one of {', '.join(NAMES)}")
        listed = table.get("sources") if isinstance(table, dict) and set(table) == {"sources"} else None
        if not isinstance(listed, list) or not listed or not all(isinstance(text, str) for text in listed):
            raise _unusable(path, f"expected sources = [...], and nothing else, in [{name}]")
        models[name] = replace(models[name], sources=tuple(_source(text, path) for text in listed))
    return models


def _source(text: str, path: Path) -> Hub | Path:
    folder = Path(text).expanduser()
    if folder.is_absolute():
        return folder
    match = HUB_ID.fullmatch(text)
    if match is None:
        raise _unusable(
            path, f"got the source {text!r}, expected owner/name, owner/name@revision or a whole path"
        )
    return Hub(match[1], match[2] or "main")


def _unusable(path: Path, why: object) -> InputError:
    return InputError(f"{path} cannot be used: {why}.", "Correct or remove the file.")


def model_named(name: str) -> Model:
    """InputError unless it is one of NAMES."""
    models = known_models()
    if name not in models:
        raise InputError(f"There is no model {name!r}.", f"Give one of {', '.join(models)}.")
    return models[name]


def store() -> Path:
    """The folder that holds a folder a fetched model."""
    return Path(constants.HF_HOME) / "dreamflow"


def home_of(hub: Hub) -> Path:
    """Where a model from this source is fetched to. Two revisions replace each other."""
    return store() / hub.id.replace("/", "--")


@dataclass(frozen=True)
class Record:
    """What was fetched: every file's size in bytes and its sha256."""

    id: str
    revision: str
    commit: str
    sizes: dict[str, int]
    sha256: dict[str, str]

    def write(self, folder: Path) -> None:
        write_text(folder / RECORD, json.dumps(asdict(self), indent=2) + "\n")


def read_record(folder: Path) -> Record | None:
    """None where there is none, or where it is damaged: the files are then compared with the hub's again."""
    try:
        values = read_json(folder / RECORD)
        record = Record(**values)
        stated = all(type(size) is int and 0 <= size <= LARGEST for size in record.sizes.values())
        names = set(record.sizes)
    except (ModelError, TypeError, AttributeError):
        return None
    if names != set(record.sha256) or not stated or any(not is_safe(name) for name in names):
        return None
    return record


def find(model: Model) -> Path | None:
    """The first source that is whole on this machine, by names and sizes; no network, no hash."""
    for source in model.sources:
        if isinstance(source, Path):
            if (source / model.marker).is_file():
                return source  # the user's own: open_folder says what it may lack
        elif is_fetched(model, source):
            return home_of(source)
        elif cached := _in_hub_cache(model, source):
            return cached
    return None


def find_to_verify(model: Model) -> Path | None:
    """As `find`, but a fetched folder counts even where it has been damaged since."""
    homes = [home_of(source) for source in model.sources if isinstance(source, Hub)]
    return find(model) or next((home for home in homes if read_record(home)), None)


def is_fetched(model: Model, source: Hub) -> bool:
    """Whether this revision was fetched, every file still has its size, and its sentences are filled up rightly."""
    return shortfall(model, source) == ""


def shortfall(model: Model, source: Hub) -> str | None:
    """What keeps a fetched folder from being used, "" if nothing; None where this revision was not fetched."""
    folder = home_of(source)
    record = read_record(folder)
    if record is None or (record.id, record.revision) != (source.id, source.revision):
        return None
    try:
        used = files_used(model, record.sizes)
    except Refused as error:
        return error.message
    for name in used:
        if _size(folder / name) != record.sizes[name]:
            return f"{name} is missing or has another size"
    return tokenizer_problem(model, folder)


def tokenizer_problem(model: Model, folder: Path) -> str:
    """What is wrong with how a model's folder fills sentences up, "" if nothing."""
    for tokenizer in (name.split("/")[0] for name in model.files if name.endswith("tokenizer_config.json")):
        config = folder / tokenizer.replace("tokenizer", "text_encoder") / "config.json"
        try:
            check_tokenizer(folder / tokenizer, read_json(config))
        except ModelError as error:
            return error.message.rstrip(".")
    return ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _in_hub_cache(model: Model, source: Hub) -> Path | None:
    marker = try_to_load_from_cache(source.id, model.marker, revision=source.revision)
    if not isinstance(marker, str):
        return None
    folder = Path(marker).parents[model.marker.count("/")]
    try:
        files_used(
            model, [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
        )
    except Refused:
        return None
    return None if tokenizer_problem(model, folder) else folder


def find_if_fetched(name: str) -> Path | None:
    """The folder of a model that can be done without, None where it was never fetched.

    ModelError where it was but is not whole: going on without it would change results.
    """
    model = model_named(name)
    folder = find(model)
    if folder is None:
        for source in model.sources:
            if isinstance(source, Hub) and (reason := shortfall(model, source)):
                raise ModelError(
                    f"{model.title} was fetched but cannot be used: {reason}.",
                    f"Fetch what is missing, the rest is kept: python -m backend models fetch {name}",
                )
    return folder


def require(name: str) -> Path:
    """The model's folder. ModelError, with the command that fetches it, where it is not on this machine."""
    model = model_named(name)
    folder = find_if_fetched(name)
    if folder is None:
        raise ModelError(
            f"{model.title} is not on this machine.",
            f"Fetch it (about {model.approximate_size / 1e9:.1f} GB): python -m backend models fetch {name}",
        )
    return folder


def files_used(model: Model, offered: Collection[str]) -> list[str]:
    """Of the offered paths, those that we use: fp16 before full precision, never both, never an EMA's other half.

    Refused names what is missing.
    """
    lacking = [name for name in model.files if name not in offered]
    chosen = [name for name in (*model.files, *model.extras) if name in offered]
    for stem in model.weights:
        for end in (".fp16.safetensors", ".safetensors"):
            if stem + end in offered:
                chosen.append(stem + end)
                break
        else:
            lacking.append(f"{stem}.safetensors")
    if lacking:
        raise Refused(f"it lacks {', '.join(lacking)}", "Use another source.")
    return chosen


def is_safe(name: str) -> bool:
    """Whether a path that a hub lists stays inside its folder on every system."""
    parts = name.split("/")
    printable = name.isprintable() and not set(name) & set('\\:*?"<>|')
    return (
        printable and not any(part in ("", ".", "..") for part in parts) and not PureWindowsPath(name).drive
    )
