"""Sentences through a text encoder once: the embeddings are kept on disk, and the encoder is released.

A file an embedding, in the user's cache folder ($DREAMFLOW_CACHE, if that is set), named by the hash of all
that decides it: the encoder's weights and configuration, the tokenizer's files, torch's version, the kind of
device, and the sentence. Each sentence goes through alone, so that the others in the job do not change its
last bits. The cache is a convenience: what cannot be read or written is computed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import safetensors.torch
import torch
from platformdirs import user_cache_path
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPTokenizer

from backend.errors import DiskError, InputError
from backend.files import write_bytes
from backend.models.artist_lora import ArtistLora, add_loras
from backend.models.load import load_text, load_tokenizer
from backend.models.model_folder import ModelFolder, file_hash
from backend.models.single_file import MERGES
from dreamflow_blender.contract.language.notation import weighted

VERSION = 1  # of what is in a file, and of how compel weighs words: to be raised with compel
CHUNKS = 4  # of a sentence
KEPT = 500  # files; one of Stable Diffusion's has 0.3 MB

Embedding = dict[str, Tensor]  # rows of one: "hidden" [1,L,E], and for SDXL "pooled" [1,P]


@dataclass(frozen=True)
class TextInput:
    """How a pipeline's UNet is given a sentence, beside the hidden states of its encoders side by side.

    read      (encoder, tokens [1,L]) to what it takes of each encoder
    states    the same hidden states, as compel calls them
    time_ids  (side in pixels, aesthetic score) to SDXL's micro-conditioning; None: it takes none
    """

    read: Callable[[nn.Module, Tensor], Embedding]
    states: str = "LAST_HIDDEN_STATES_NORMALIZED"
    time_ids: Callable[[int, float], list[float]] | None = None


def read_text(encoder: nn.Module, tokens: Tensor) -> Embedding:
    """The last hidden states."""
    return {"hidden": encoder(tokens).last_hidden_state}


def read_sdxl_text(encoder: nn.Module, tokens: Tensor) -> Embedding:
    """The last but one hidden states, and of the encoder that has one the pooled projection."""
    output = encoder(tokens, output_hidden_states=True)
    hidden = {"hidden": output.hidden_states[-2]}
    return hidden | ({"pooled": output.text_embeds} if "text_embeds" in output else {})


SDXL_STATES = "PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED"
TEXT_INPUTS = {  # by pipeline; sizes are those at which an image is encoded, never cropped
    "StableDiffusionPipeline": TextInput(read_text),
    "MVDreamPipeline": TextInput(read_text),
    "StableDiffusionXLPipeline": TextInput(
        read_sdxl_text, SDXL_STATES, lambda side, _: [side, side, 0, 0, side, side]
    ),
    "StableDiffusionXLImg2ImgPipeline": TextInput(
        read_sdxl_text, SDXL_STATES, lambda side, score: [side, side, 0, 0, score]
    ),
}


def encode_sentences(
    model: ModelFolder, sentences: Sequence[str], device: torch.device, loras: Sequence[ArtistLora] = ()
) -> Embedding:
    """The rows of all sentences, float32, on `device`: every encoder's, one encoder in memory at a time.

    InputError for a sentence that is too long. ModelError where an encoder is needed and cannot be loaded.
    """
    found = [_encode(model, component, sentences, device, loras) for component in model.encoders]
    return found[-1] | {"hidden": torch.cat([rows["hidden"] for rows in found], -1)}


@torch.no_grad()
def _encode(
    model: ModelFolder,
    component: str,
    sentences: Sequence[str],
    device: torch.device,
    loras: Sequence[ArtistLora],
) -> Embedding:
    """Of one encoder."""
    known = _identity(model, component, device)
    changing = [lora for lora in loras if lora.weight and component in lora.parts]
    if changing:
        known += json.dumps([lora.describe() for lora in changing])
    paths = {
        text: _folder() / f"{sha256((known + text).encode()).hexdigest()}.safetensors" for text in sentences
    }
    rows = {text: found for text, path in paths.items() if (found := _read(path)) is not None}
    missing = [text for text in paths if text not in rows]
    if missing:
        tokenizer = load_tokenizer(model, component)
        check_length(tokenizer, missing)
        _, encoder = load_text(model, device, component)
        add_loras(changing, component, encoder)
        for text in missing:
            found = embed(TEXT_INPUTS[model.pipeline], tokenizer, encoder, text, device)
            rows[text] = {name: value.float().cpu() for name, value in found.items()}
        del encoder  # gigabytes, before anything else is loaded
        for text in missing:
            _keep(paths[text], rows[text])
    longest = max(rows[text]["hidden"].shape[1] for text in sentences)
    if any(rows[text]["hidden"].shape[1] < longest for text in sentences):
        nothing = _encode(model, component, [""], device, loras)["hidden"].cpu()
        for text in {*sentences}:  # as long as the longest, by chunks that say nothing
            short = rows[text]["hidden"]
            more = [nothing] * ((longest - short.shape[1]) // nothing.shape[1])
            rows[text] = rows[text] | {"hidden": torch.cat([short, *more], 1)}
    names = rows[sentences[0]]
    return {name: torch.cat([rows[text][name] for text in sentences]).to(device) for name in names}


def embed(
    how: TextInput, tokenizer: CLIPTokenizer, encoder: nn.Module, sentence: str, device: torch.device
) -> Embedding:
    """The rows of one sentence. What has weights, or more tokens than the encoder reads at once, goes through compel:
    "hidden" [1,n L,E] of n chunks, every token's state moved from that of no words by its weight; "pooled", of which
    there is no weighted one, is the first chunk's without weights.
    """
    parts = weighted(sentence)
    plain = " ".join(text.strip() for text, _ in parts) if len(parts) > 1 else parts[0][0]
    found = how.read(encoder, tokenize(tokenizer, [plain]).to(device))
    fits = len(tokenizer(plain, verbose=False).input_ids) <= tokenizer.model_max_length
    if fits and all(weight == 1 for _, weight in parts):
        return found
    from compel.embeddings_provider import EmbeddingsProvider, ReturnedEmbeddingsType, SplitLongTextMode

    # the tokenizer would warn of what compel asks it: more tokens than the encoder reads at once
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    provider = EmbeddingsProvider(
        tokenizer,
        encoder,
        truncate=False,
        returned_embeddings_type=ReturnedEmbeddingsType[how.states],
        split_long_text_mode=SplitLongTextMode.WORDS,
    )
    hidden = provider.get_embeddings_for_weighted_prompt_fragments(
        [[text for text, _ in parts]], [[weight for _, weight in parts]], device=device
    )
    return found | {"hidden": hidden}


def tokenize(tokenizer: CLIPTokenizer, sentences: Sequence[str]) -> Tensor:
    """[N, model_max_length] int64, filled up, and cut off where they are longer."""
    tokens: Tensor = tokenizer(
        list(sentences),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return tokens


def check_length(tokenizer: CLIPTokenizer, sentences: Sequence[str]) -> None:
    """InputError for a sentence with more than CHUNKS times the words that the encoder reads at once."""
    limit = CHUNKS * (tokenizer.model_max_length - 2)  # each chunk has its begin and its end
    for sentence in sentences:
        plain = "".join(text for text, _ in weighted(sentence))
        length = len(tokenizer(plain, verbose=False).input_ids) - 2
        if length > limit:
            raise InputError(
                f"The prompt has {length} tokens with its view words, the model takes {limit}: {sentence!r}.",
                "Shorten the prompt or the negative prompt.",
            )


def _folder() -> Path:
    stated = os.environ.get("DREAMFLOW_CACHE")
    root = Path(stated).expanduser() if stated else user_cache_path("dreamflow", appauthor=False)
    return root / "text"


def _identity(model: ModelFolder, encoder: str, device: torch.device) -> str:
    """Everything but the sentence that an embedding depends on."""
    tokenizer = encoder.replace("text_encoder", "tokenizer")
    words = [MERGES]
    if not model.family:
        words = sorted(path for path in (model.path / tokenizer).iterdir() if path.is_file())
    return json.dumps(
        {
            "version": VERSION,
            "torch": torch.__version__,
            "device": device.type,
            "pipeline": model.pipeline,
            "weights": [file_hash(path) for path in model.weights[encoder]],
            "encoder": model.configs[encoder],
            "tokenizer": {path.name: file_hash(path) for path in words},
        },
        sort_keys=True,
    )


def _read(path: Path) -> Embedding | None:
    """None where it is not there, or damaged."""
    try:
        rows = safetensors.torch.load(path.read_bytes())
    except (OSError, SafetensorError):
        return None
    with suppress(OSError):
        path.touch()  # used today; see _keep
    return rows if "hidden" in rows else None


def _keep(path: Path, rows: Embedding) -> None:
    """Writes it, and removes what has not been used for longest."""
    with suppress(OSError, DiskError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, safetensors.torch.save({name: row.contiguous() for name, row in rows.items()}))
        kept = sorted(path.parent.glob("*.safetensors"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in kept[KEPT:]:
            old.unlink(missing_ok=True)
