"""What people type for a setting, and what comes of it."""

from __future__ import annotations

import pytest

from dreamflow_blender.contract.settings import read_setting


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("nerf.levels=400", "nerf.levels", 400),
        (" nerf.rate = 1e-3 ", "nerf.rate", 1e-3),
        ("delivery.max_faces=null", "delivery.max_faces", None),
        ("nerf.phi=lora", "nerf.phi", "lora"),
        ('nerf.phi="lora"', "nerf.phi", "lora"),
        ("texture.target=pixel", "texture.target", "pixel"),
    ],
)
def test_numbers_are_json_and_words_need_no_quotes(text: str, name: str, value: object) -> None:
    assert read_setting(text) == (name, value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nerf.levels", "expected STAGE.SETTING=NUMBER, got 'nerf.levels'"),
        ("nerf.levels=many", "expected STAGE.SETTING=NUMBER, got 'nerf.levels=many'"),
        ("nerf.levels=lora", "expected STAGE.SETTING=NUMBER"),
        ("nerf.phi=lorra", "nerf.phi needs one of prior, lora, none, got 'nerf.phi=lorra'"),
        ("", "expected STAGE.SETTING=NUMBER"),
    ],
)
def test_what_is_neither_is_refused_with_what_was_expected(text: str, told: str) -> None:
    with pytest.raises(ValueError) as error:
        read_setting(text)
    assert told in str(error.value)
