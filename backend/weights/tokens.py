"""With which token a sentence is filled up to the encoder's length: read as transformers reads it, and checked.

Every encoder was trained with one, and reads all 77 places, so another one changes every image without an error.
OpenAI's CLIP (Stable Diffusion 1, activation quick_gelu) repeats the end of the text; OpenCLIP (Stable Diffusion 2
and SDXL's second encoder, activation gelu) takes id 0, "!" (Stability-AI/stablediffusion#28, huggingface/diffusers
#2201). The pad_token_id in the published encoders' configurations is neither: no code of theirs reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backend.errors import ModelError
from backend.weights.layout import MOST_JSON, VOCABULARY, read_json
from dreamflow_blender.contract.files import read_linked

END = "<|endoftext|>"
FILLERS = {"gelu": "!", "quick_gelu": END}
CLIP_VOCABULARY = 49408


def check_tokenizer(folder: Path, text_config: dict[str, Any]) -> None:
    """ModelError unless a tokenizer's folder is whole and fills sentences up as its text encoder was trained.

    Encoders with a vocabulary of their own, the built-in ones, may fill up with what they like.
    """
    lacking = [name for name in VOCABULARY if not (folder / name).is_file()]
    if lacking and not (folder / "tokenizer.json").is_file():
        raise ModelError(f"{folder} lacks {' and '.join(lacking)}.", "Copy the model again, whole.")
    expected = expected_filler(text_config)
    got = filler(folder)
    if expected is not None and got != expected:
        extra = folder / "special_tokens_map.json"
        lost = "" if extra.is_file() else f" {extra.name}, which says so for published models, is missing."
        raise ModelError(
            f"{folder} fills sentences up with {got!r}, but its text encoder was trained with {expected!r}.{lost}",
            f"Copy {folder.name}/ of the original model again, whole.",
        )


def expected_filler(text_config: dict[str, Any]) -> str | None:
    """What a published CLIP text encoder was trained with; None for one with a vocabulary of its own.

    `text_config` is its config.json; what that leaves out has transformers' defaults, which are OpenAI's.
    """
    own = text_config.get("vocab_size", CLIP_VOCABULARY) != CLIP_VOCABULARY
    if own and text_config.get("eos_token_id") != 2:  # the 2 is in all conversions of CLIP, and wrong
        return None
    return FILLERS.get(str(text_config.get("hidden_act", "quick_gelu")))


def filler(folder: Path) -> str:
    """The pad token of a tokenizer's folder: special_tokens_map.json wins over tokenizer_config.json, unless the
    latter lists added tokens, as transformers has written it since 2023. ModelError for a damaged file."""
    config = read_json(folder / "tokenizer_config.json")
    extra = folder / "special_tokens_map.json"
    if "added_tokens_decoder" not in config and extra.is_file():
        config = config | read_json(extra)
    token = config.get("pad_token", END)
    return str(token.get("content") if isinstance(token, dict) else token)


def check_vocabulary(folder: Path) -> None:
    """ModelError unless both parts and the result of every merge are tokens; the tokenizers library would stop at them
    with an error of no class of its own. Takes a tenth of a second, so it is not part of opening a folder."""
    if (folder / "tokenizer.json").is_file():
        read_json(folder / "tokenizer.json")
        return  # read instead of both
    vocabulary = read_json(folder / "vocab.json")
    path = folder / "merges.txt"
    try:
        lines = read_linked(path, MOST_JSON).decode("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}).", "Copy the model again.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#version"):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not {*parts, "".join(parts)} <= vocabulary.keys():
            raise ModelError(
                f"{path}, line {number}: {line[:40]!r} does not join two tokens of vocab.json to a third.",
                "Copy the model again.",
            )
