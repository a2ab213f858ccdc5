"""Every string of the interface stands in every language, with the same places, and nothing else does."""

import json
import re
import string
from pathlib import Path

import pytest

from tests.tools.interface_strings import strings

FOLDER = Path(__file__).parents[2] / "dreamflow_blender" / "translations"
FILES = sorted(FOLDER.glob("*.json"))


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_the_five_languages():
    assert [file.stem for file in FILES] == ["de", "es", "fr", "ja", "zh"]


def test_strings_of_every_kind_are_collected():
    """A label, a description, an enum's item, a button's text, a poll's reason, a report with places, a placeholder."""
    assert {
        "Generate", "Pick a random seed", "A first look within minutes", "Add to queue", "No job is running",
        "{name}: {count} faces", "in Blender's user folder", "Discard this job?", "Learning the colours",
    } <= strings()  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_complete_and_with_the_same_places(file):
    table = json.loads(file.read_text(encoding="utf-8"))
    known = strings()
    assert sorted(known - set(table)) == [], f"{file.name} lacks these"
    assert sorted(set(table) - known) == [], f"{file.name} has these, which the interface does not show"
    assert [english for english, own in table.items() if not own.strip()] == []
    assert {english: own for english, own in table.items() if places(english) != places(own)} == {}
    for english, own in table.items():  # what is typed as it stands
        typed = re.findall(r"--[a-z-]+|\w+\.\w+=\d+|https?://\S+?(?=[;；。 ]|$)", english)
        assert [word for word in typed if word not in own] == []
    same = {english for english, own in table.items() if english == own and " " in english}
    assert same <= {"Apple GPU"}, "these are still English"
