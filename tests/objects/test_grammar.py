"""The prompts that procedural objects understand, and what is said of all others."""

import pytest

from backend.diffusion.view_words import VIEWS
from backend.errors import InputError
from backend.objects.grammar import parse_object
from backend.objects.kinds import COLOURS
from backend.objects.shapes import KINDS
from dreamflow_blender.contract.language.reading import Description, describe, read
from dreamflow_blender.contract.language.unknown import NotUnderstood
from dreamflow_blender.contract.language.vocabulary import MADE


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_over_all_colours_parts_and_views(kind: str):
    colours = list(COLOURS)
    for i, colour in enumerate([None, *colours]):
        for j, part in enumerate([None, *MADE[kind].parts]):
            parts = {} if part is None else {part: colours[(i + j) % len(colours)]}
            for view in (None, *VIEWS):
                said = Description(kind, colour, parts, view == "back", view)
                assert read(describe(said)) == said
    every = Description(kind, "red", dict.fromkeys(MADE[kind].parts, "blue"))
    assert read(describe(every)) == every


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a red mug", Description("mug", "red")),
        ("  A   Red MUG. ", Description("mug", "red")),
        ("mug", Description("mug")),
        ("an orange fish", Description("fish", "orange")),
        ("the duck", Description("duck")),
        ("a photo of a duck", Description("duck")),
        ("a 3D model of a cyan car, side view", Description("car", "cyan", view="side")),
        ("a normal map of a red mug ,overhead view.", Description("mug", "red", {}, True, "overhead")),
        ("a red mug, front", Description("mug", "red", view="front")),
        ("a blue chair with yellow legs", Description("chair", "blue", {"legs": "yellow"})),
        ("a blue chair with a yellow leg", Description("chair", "blue", {"legs": "yellow"})),
        (
            "a duck with a red beak and green eyes",
            Description("duck", None, {"beak": "red", "eyes": "green"}),
        ),
        ("a mushroom with a blue cap", Description("mushroom", "blue")),
    ],
)
def test_prompts(prompt: str, said: Description):
    assert read(prompt) == said


def test_what_describe_writes():
    said = Description("car", "orange", {"wheels": "blue", "roof": "orange"}, True, "side")
    assert describe(said) == "a normal map of an orange car with blue wheels and an orange roof, side view"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red mog", "mug"),
        ("a rd mug", "red"),
        ("a gren duck", "green"),
        ("a red zyx", "Known: ball, cube"),
        ("a red duck with a yellow beek", "beak"),
        ("a red duck with yelow eyes", "yellow"),
        ("a red duck with a red hat", "part of a duck"),
        ("a red duck with yellow qqq", "Known: duck, beak, eyes, wings"),
        ("a red duck, leftish", "no known word"),
        ("a red duck swimming", "no known word"),
        ("a red", "names no object"),
        ("", "names no object"),
        ("a duck with red eyes and blue eyes", "two colours"),
        ("a red mushroom with a blue cap", "two colours"),
    ],
)
def test_errors_name_what_is_near(prompt: str, expected: str):
    with pytest.raises(NotUnderstood, match=expected):
        read(prompt)


@pytest.mark.parametrize(
    "prompt", ["a red corgi", "a red duck swimming", "a duck with a hat", "a red duck, leftish"]
)
def test_errors_say_how_to_use_any_prompt(prompt: str):
    with pytest.raises(InputError, match=r"--prior.*Stable Diffusion"):
        parse_object(prompt)
