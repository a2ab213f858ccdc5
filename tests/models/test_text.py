"""Embeddings come out of the cache as they went in, and only for the encoder and the sentence they belong to."""

from __future__ import annotations

import os
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.diffusion.schedule import noise_levels
from backend.diffusion.view_words import VIEWS
from backend.errors import InputError
from backend.models import text
from backend.models.latent_prior import LatentPrior
from backend.models.model_folder import open_folder
from backend.scene.camera import orbit
from tests.tools.real_folders import build

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
    with pytest.raises(InputError, match="takes 300"):
        encode(base_folder, "a mug " * 80)
    assert loads == []


def states(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    """Of a text encoder alone, [N,77,E]."""
    _, encoder = text.load_text(open_folder(folder), CPU, "text_encoder")
    with torch.no_grad():
        return encoder(tokens).last_hidden_state


def test_a_weight_moves_a_word_away_from_no_words(base_folder: Path) -> None:
    tokenizer = text.load_tokenizer(open_folder(base_folder), "text_encoder")
    plain, nothing = states(base_folder, text.tokenize(tokenizer, ["a red mug", ""]))
    begin = len(tokenizer("a").input_ids) - 1  # after the first token and "a"
    end = len(tokenizer("a red").input_ids) - 1
    expected = plain.clone()
    expected[begin:end] += 0.5 * (plain - nothing)[begin:end]
    found = encode(base_folder, "a (red:1.5) mug")[0]
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, plain, atol=1e-4)
    assert torch.equal(encode(base_folder, "a (red:1.0) mug")[0], plain)  # the bytes of none
    louder = plain + 0.21 * (plain - nothing) * ((expected - plain) != 0)
    torch.testing.assert_close(encode(base_folder, "a ((red)) mug")[0], louder)
    softer = [encode(base_folder, f"a (red:{weight}) mug")[0] for weight in (0.9, 0.5, 0.1)]
    away = [float((one - plain).norm()) for one in softer]
    assert 0 < away[0] < away[1] < away[2]


def test_a_long_sentence_is_read_in_chunks_and_the_others_are_filled_up(base_folder: Path) -> None:
    tokenizer = text.load_tokenizer(open_folder(base_folder), "text_encoder")
    words = " ".join(["red mug with a blue handle"] * 40).split()
    while len(tokenizer(" ".join(words)).input_ids) - 2 > 140:
        words.pop()
    first = list(words)
    while len(tokenizer(" ".join(first)).input_ids) - 2 > 75:
        first.pop()
    found = encode(base_folder, " ".join(words), "blurry")
    second = " ".join(words[len(first) :])
    one, two, short, nothing = states(
        base_folder, text.tokenize(tokenizer, [" ".join(first), second, "blurry", ""])
    )
    assert found.shape[1] == 154
    torch.testing.assert_close(found[0, :77], one)
    inside = len(tokenizer(second).input_ids) - 1  # its end has the first chunk's state, as compel has it
    torch.testing.assert_close(found[0, 77 : 77 + inside], two[:inside])
    torch.testing.assert_close(found[1], torch.cat([short, nothing]))


def test_a_weighted_and_a_long_sentence_guide_sdxl(tmp_path: Path) -> None:
    prior = LatentPrior(build(tmp_path / "sdxl", "sdxl", "full"), CPU)
    camera = orbit(torch.zeros(1), torch.zeros(1), torch.ones(1), 50 * torch.ones(1), 64, 64)
    z, level = (
        torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
        noise_levels(0.5, 0.1, 2)[0],
    )
    answers = []
    for prompt in ("a red mug", "a (red:1.6) mug", "a red mug " * 30):
        said = prior.prepare(prompt, "blurry", "colour", 64)
        assert said.views.hidden.shape[1:] == said.negative.hidden.shape[1:] == said.phi.hidden.shape[1:]
        assert said.views.pooled is not None and said.views.pooled.shape == (len(VIEWS), 12)
        answers.append(prior.denoise(z, level, camera, said, 5.0))
    assert not torch.equal(answers[0], answers[1]) and not torch.equal(answers[0], answers[2])
    assert all(bool(torch.isfinite(answer).all()) for answer in answers)
