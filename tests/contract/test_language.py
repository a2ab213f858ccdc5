"""What people write, and what the built-in models read in it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from backend.diffusion.view_words import COMPASS, VIEWS
from backend.objects import kinds
from backend.objects.shapes import KINDS
from dreamflow_blender.contract.language import reading, trigger, vocabulary
from dreamflow_blender.contract.language.notation import refuse_for, refuse_notation, weighted
from dreamflow_blender.contract.language.reading import describe, read_object
from dreamflow_blender.contract.language.unknown import NotUnderstood

TEN = ("ball", "mushroom", "duck", "mug", "rocket", "bottle", "donut", "tree", "cone", "teapot")


@pytest.mark.parametrize(
    ("prompt", "plain", "left_out"),
    [
        ("A Red Mug", "a red mug", ""),
        ("mug", "a red mug", ""),
        ("a mug, red", "a red mug", ""),
        ("a big red mug", "a red mug", "big"),
        ("a red coffee mug", "a red mug", ""),
        ("a red cup", "a red mug", ""),
        ("a red mug on a table", "a red mug", "on a table"),
        ("two red mugs", "a red mug", "two"),
        ("a dark red mug", "a red mug", ""),
        ("a red and white mushroom", "a red mushroom", "white"),
        ("a mushroom with red cap", "a red mushroom", ""),
        ("a low poly christmas tree", "a green tree", "low poly"),
        ("a yellow rubber duck", "a yellow duck", ""),
        ("a toy rocket ship", "a white rocket", "toy"),
        ("a teapot made of copper", "an orange teapot", ""),
        ("a teapot made from wood", "a brown teapot", ""),
        ("a donut with pink icing", "a pink donut", ""),
        ("a light blue doughnut with gray sprinkles", "a cyan donut with grey sprinkles", ""),
        ("a mug with a handle", "a red mug", "handle"),
        ("a silver rocket, highly detailed, 4k", "a grey rocket", "highly detailed 4k"),
        ("a (red:1.3) mug!!! <lora:glaze:0.8> 🍄", "a red mug", ""),
        ("a bottle of wine in a forest", "a green bottle", "wine in a forest"),
        ("a photo of a gold teapot with a black knob", "a yellow teapot with a black knob", ""),
    ],
)
def test_ordinary_english_is_reduced(prompt: str, plain: str, left_out: str) -> None:
    described = read_object(prompt, "", TEN)
    assert (describe(described), " ".join(described.left_out)) == (plain, left_out)
    assert all(word in reading.note(prompt, described) for word in described.left_out)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a wooden chair", "'chair' is no known kind of object.*Known: ball, mushroom"),
        ("a corgi", "'corgi' is no known kind of object. Nearest known: duck"),
        ("a glass vase", "Nearest known: mug, bottle, teapot"),
        ("a spaceship flying", "'flying' is no known word"),
        ("a tree house", "two things"),
        ("a red mug and a blue ball", "two things"),
        ("赤いマグカップ", "English only"),
        ("eine rote Tasse", "English only"),
        ("a reed mug", "Nearest known: red\\."),
        ("a mug without a handle", "cannot leave anything out"),
        ("a mug that is not blue", "cannot leave anything out"),
        ("in a forest", "no object"),
    ],
)
def test_what_is_refused_is_helped(prompt: str, expected: str) -> None:
    with pytest.raises(NotUnderstood, match=expected):
        read_object(prompt, "", TEN)


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        ("a metal mug", "a grey mug"), ("a blue metal mug", "a blue mug"), ("a metal sofa", "a metal sofa"),
        ("a wooden table", "a wooden table"), ("a table made of wood", "a wooden table"),
    ],
)  # fmt: skip
def test_a_material_is_kept_where_real_ones_were_shown(prompt: str, plain: str) -> None:
    assert describe(read_object(prompt, "", (*TEN, "table", "sofa"))) == plain


def test_a_negative_prompt_is_refused() -> None:
    with pytest.raises(NotUnderstood, match="negative"):
        read_object("a red mug", "blurry", TEN)


def test_the_note_is_silent_where_all_was_read() -> None:
    for prompt in ("a red mug", "The RED mug.", "a donut with white sprinkles"):
        assert reading.note(prompt, reading.read(prompt)) == ""
    assert reading.note("a cup", read_object("a cup", "", TEN)) == "Read as “a red mug”."
    for weighted_words in ("a ((red)) mug", "a [red] mug"):  # no weight is taken in silence
        assert reading.note(weighted_words, reading.read(weighted_words)) == "Read as “a red mug”."


@pytest.mark.parametrize(
    ("prompt", "word", "expected"),
    [
        ("a red mug", {"kind": "duck"}, "a red duck"),
        ("a big red mug", {"colour": "blue"}, "a blue mug"),
        ("a chair", {"kind": "tree"}, "a tree"),
        ("", {"colour": "pink"}, "a pink ball"),
        ("a mug with a blue handle", {"colour": "green"}, "a green mug with a blue handle"),
    ],
)
def test_the_menus_put_their_word_in(prompt: str, word: dict[str, str], expected: str) -> None:
    assert reading.put_word(prompt, TEN, **word) == expected


def test_one_table_for_both_programs() -> None:
    """The shapes and the words agree, and every synonym leads to a word of the models."""
    for name, kind in KINDS.items():
        thing = vocabulary.MADE[name]
        assert {part for part, _ in [*kind.solids, *kind.paint]} == {thing.body, *thing.parts}
        assert set(kind.own) <= set(thing.parts)
    assert tuple(KINDS) == tuple(vocabulary.MADE) and tuple(kinds.COLOURS) == vocabulary.COLOURS
    assert set(vocabulary.VIEWS) == {*VIEWS, *COMPASS}
    assert set(vocabulary.THING_WORDS.values()) == set(vocabulary.THINGS)
    assert set(vocabulary.COLOUR_WORDS.values()) == set(vocabulary.COLOURS)
    assert not set(vocabulary.THING_WORDS) & set(vocabulary.COLOUR_WORDS)
    assert all(set(near) <= set(vocabulary.THINGS) for _, near in vocabulary.OTHER_THINGS.values())


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a red mug", [("a red mug", 1)]), ("a (red:1.3) mug", [("a ", 1), ("red", 1.3), (" mug", 1)]),
        ("(area51 : .5)", [("area51", 0.5)]), ("((red)) mug", [("red", 1.21), (" mug", 1)]),
        ("[red] mug", [("red", 1 / 1.1), (" mug", 1)]), ("[[red]]", [("red", 1 / 1.21)]),
        ("(red) mug", [("(red) mug", 1)]),
        ("(red:3) mug", [("(red:3) mug", 1)]), ("((red) mug", [("((red) mug", 1)]), ("", [("", 1)]),
    ],
)  # fmt: skip
def test_weights_are_read_as_artists_write_them(prompt: str, parts: list[tuple[str, float]]) -> None:
    found = weighted(prompt)
    assert [text for text, _ in found] == [text for text, _ in parts]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in parts])


@pytest.mark.parametrize(
    ("notation", "todo"),
    [
        ("(red:3)", "from 0 to 2"), ("(red:-1)", "from 0"), ("((red)", "alone"), ("(red)++", "alone"),
        ("(red)1.3", "alone"), ("((red:1.2) dot)", "alone"), ("[red:blue:8]", "alone"),
        ("[red|blue]", "alone"), ("red::2", "alone"), ("red::", "alone"),
        ("<lora:glaze:0.8>", "--lora FILE:WEIGHT"), ("<lyco:glaze>", "--lora"), ("embedding:shiny", "only LoRAs"),
        ("--ar 16:9", "all views are square"), ("--tile", "square"), ("—ar 1:1", "square"),
        ("{red|blue}", "list of prompts"), ("__colour__", "list"), ("BREAK", "one sentence"), ("AND", "one sentence"),
        (r"\(", "Write the bracket alone"),
    ],
)  # fmt: skip
def test_notation_of_other_programs_is_refused_with_what_to_write(notation: str, todo: str) -> None:
    for prompt, negative in ((f"a {notation} mug", ""), ("a mug", f"ugly {notation}")):
        with pytest.raises(NotUnderstood) as caught:
            refuse_notation(prompt, negative)
        assert notation in caught.value.message and todo in caught.value.todo


@pytest.mark.parametrize(
    "prompt",
    [
        "a red mug", "a clock (at 12:30)", "a mug, 16:9", "a half-open box", "a mug (new)", "a mug - red", "8k, v2.0",
        "a model car (scale 1:43)", "a mug (red) and (blue)", "A MUG AND A SPOON", "a mug -- red", "<3", "a mug :)",
        "a coffee break mug and a spoon",
    ],
)  # fmt: skip
def test_ordinary_sentences_are_not_taken_for_notation(prompt: str) -> None:
    refuse_notation(prompt)


def test_the_built_in_priors_and_folders_with_kinds_read_notation_themselves(tmp_path: Path) -> None:
    (tmp_path / "dreamflow.json").write_text('{"kinds": ["mug"]}')
    refuse_for(("mini", "mini-refiner", "exact", "", str(tmp_path)), "a (red:1.3) mug")
    for prior in ("sd", "sdxl-refiner", str(tmp_path / "other")):
        with pytest.raises(NotUnderstood, match="is a weight"):
            refuse_for(("mini", prior), "a mug::2")


@pytest.mark.parametrize("odd", ["pipe", "nested", "~nobody-of-this-name/model"])
def test_an_odd_folder_takes_any_words_and_stops_nothing(odd: str, tmp_path: Path) -> None:
    if odd == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("no pipes here")
        os.mkfifo(tmp_path / "dreamflow.json")
    elif odd == "nested":
        (tmp_path / "dreamflow.json").write_text("[" * 100_000)
    with pytest.raises(NotUnderstood, match="is a weight"):
        refuse_for((odd if "~" in odd else str(tmp_path),), "a mug::2")


def test_the_words_of_a_lora_are_read_without_torch_and_never_more_than_a_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "glaze.safetensors"
    tags = '{"10_a": {" pot": 30, "mug": 2}, "5_b": {"clay": 9, "mug": 40}}'
    save_file({"x": np.zeros(3, np.float32)}, path, {"ss_tag_frequency": tags, "author": "é"})
    metadata = trigger.read_metadata(path)
    assert metadata == {"ss_tag_frequency": tags, "author": "é"}
    assert trigger.trigger_words(metadata) == ("mug", "pot", "clay")
    assert trigger.trigger_words(metadata | {"modelspec.trigger_phrase": " blue glaze "}) == ("blue glaze",)
    for odd in ("[1]", "{", '{"a": {"b": Infinity}}', '{"a": 1}', "[" * 10_000):
        assert trigger.trigger_words({"ss_tag_frequency": odd}) == ()
    save_file({"x": np.zeros(3, np.float32)}, path)
    assert trigger.read_metadata(path) == {}
    for damaged in (b"", b"\x02\0\0", b"\xff" * 8, (1 << 30).to_bytes(8, "little"), b"\x02\0\0\0\0\0\0\0{"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError):
            trigger.read_metadata(path)
    monkeypatch.setattr(trigger, "MOST_HEADER", 10)
    save_file({"x": np.zeros(3, np.float32)}, path)
    with pytest.raises(ValueError, match=r"no \.safetensors file"):
        trigger.read_metadata(path)
