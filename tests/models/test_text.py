"""Embeddings come out of the cache as they went in, and only for the encoder and the sentence they belong to."""

from __future__ import annotations

import os
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.errors import InputError
from backend.models import text
from backend.models.latent_prior import LatentPrior
from backend.models.model_folder import open_folder

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DREAMFLOW_CACHE", str(tmp_path / "é cache"))
    return tmp_path / "é cache" / "text"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref]:
    """The encoders that were loaded."""
    seen: list[weakref.ref] = []
    real = text.load_text

    def load(*args: Any) -> Any:
        tokenizer, encoder = real(*args)
        seen.append(weakref.ref(encoder))
        return tokenizer, encoder

    monkeypatch.setattr(text, "load_text", load)
    return seen


def encode(folder: Path, *sentences: str) -> torch.Tensor:
    return text.encode_sentences(open_folder(folder), sentences, CPU)["hidden"]


def test_the_encoder_runs_once_and_is_let_go_of(
    base_folder: Path, cache: Path, loads: list[weakref.ref]
) -> None:
    first = LatentPrior(base_folder, CPU).prepare("a red mug", "blurry", "colour", 64)
    assert len(loads) == 1 and loads[0]() is None
    assert len(list(cache.iterdir())) == 6  # four views, the negative, the plain prompt
    again = LatentPrior(base_folder, CPU).prepare("a red mug", "blurry", "colour", 64)
    assert len(loads) == 1
    for name in ("views", "negative", "phi", "shared"):
        assert torch.equal(getattr(first, name).hidden, getattr(again, name).hidden)


def test_neither_the_cache_nor_the_company_changes_a_bit(base_folder: Path, loads: list[weakref.ref]) -> None:
    alone = encode(base_folder, "a mug")
    assert torch.equal(encode(base_folder, "a cup", "a mug")[1:], alone) and len(loads) == 2
    assert not torch.equal(encode(base_folder, "a cup"), alone) and len(loads) == 2


def test_another_encoder_or_tokenizer_has_embeddings_of_its_own(
    base_folder: Path, v_folder: Path, tmp_path: Path, loads: list[weakref.ref]
) -> None:
    one = encode(base_folder, "a mug")
    assert not torch.equal(encode(v_folder, "a mug"), one) and len(loads) == 2
    other = shutil.copytree(base_folder, tmp_path / "other")
    encode(other, "a mug")
    assert len(loads) == 2  # a copy is the same model
    merges = other / "tokenizer" / "merges.txt"
    merges.write_text(merges.read_text("utf-8") + "#version: 0.2\n", "utf-8")  # the same words
    encode(other, "a mug")
    assert len(loads) == 3


def test_a_damaged_file_is_made_again(base_folder: Path, cache: Path, loads: list[weakref.ref]) -> None:
    first = encode(base_folder, "a mug")
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], b"\x80\x04 a pickle"):
        path.write_bytes(damaged)
        assert torch.equal(encode(base_folder, "a mug"), first)
        assert path.read_bytes() == whole
    assert len(loads) == 4


def test_a_cache_that_cannot_be_written_is_done_without(base_folder: Path, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    assert torch.equal(encode(base_folder, "a mug"), encode(base_folder, "a mug"))


def test_what_has_not_been_used_for_longest_goes(
    base_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "KEPT", 2)
    encode(base_folder, "one", "two")
    for path in cache.iterdir():
        os.utime(path, (1, 1))
    encode(base_folder, "two")  # read, so used
    encode(base_folder, "three")
    monkeypatch.setattr(text, "load_text", None)
    encode(base_folder, "two", "three")
    assert len(list(cache.iterdir())) == 2


def test_a_sentence_that_is_too_long_is_refused_before_the_encoder_is_loaded(
    base_folder: Path, loads: list[weakref.ref]
) -> None:
    with pytest.raises(InputError, match="takes 77"):
        encode(base_folder, "a mug " * 40)
    assert loads == []
