"""Lists of prompts as spreadsheets and editors save them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreamflow_blender.contract.prompts import BadPrompts, Line, read_prompts

MUG = [Line(2, "a red mug", {"seed": 1, "height": 0.5})]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"prompt,seed,height\r\na red mug,1,0.5\r\n", MUG),
        ("prompt;seed;height\r\na red mug;1;0,5\r\n".encode("utf-8-sig"), MUG),  # Excel in most of Europe
        ("prompt\tseed\theight\r\na red mug\t1\t0,5\r\n".encode("utf-16"), MUG),  # Excel's "Unicode text"
        (b"prompt;height\na red mug;0.5\n", [Line(2, "a red mug", {"height": 0.5})]),
        (b"sep=;\r\nprompt;seed\r\na red mug;1\r\n", [Line(3, "a red mug", {"seed": 1})]),
        (
            b'prompt,seed\n"a red mug, from the front",1,,\n',
            [Line(2, "a red mug, from the front", {"seed": 1})],
        ),
        (b"prompt;negative\na red mug;a, b\n", [Line(2, "a red mug", {"negative": "a, b"})]),
    ],
    ids=["commas", "semicolons", "tabs", "points", "sep", "quoted", "text with commas"],
)
def test_cells_are_parted_as_the_header_is(tmp_path: Path, content: bytes, expected: list[Line]) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    assert read_prompts(tmp_path / "list.csv") == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"prompt,height\na red mug,0,5\n", "Line 2 has 3 cells, the header 2"),
        ("Café".encode("cp1252"), "not UTF-8"),
        (b"seed;preset\n1;draft\n", "has to be prompt"),
        (b"prompt,seed\na mug,1.0\n", "Line 2: seed: expected a whole number, got '1.0'"),
        (b"prompt,faces\na mug,many\n", "faces: expected a whole number, got 'many'"),
        (b"prompt;height\na mug;nan\n", "height: expected a number, got 'nan'"),
        (b"prompt,nerf.phi\na mug,lorra\n", "nerf.phi: expected one of prior, lora, none, got 'lorra'"),
        (b"prompt,nerf.levels\na mug," + b"[" * 100_000, r"nerf.levels: expected a number, got '\[\[\["),
        (b"prompt\n" + b"a" * 200_000, "cannot be read as a CSV: field larger"),
        (b"prompt\na mug\ra \rb", "cannot be read as a CSV: new-line"),
        (b"prompt,nerf.levels\na mug,many\n", "nerf.levels: expected a number, got 'many'"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(BadPrompts, match=words):
        read_prompts(tmp_path / "list.csv")
