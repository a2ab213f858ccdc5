"""benchmarks/card.py from its first line to its last, on a pretended card with tiny sizes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import card as script
from benchmarks.card_parts import Day, Say, Wrong
from benchmarks.card_runs import PARTS
from tests.card import accelerators
from tests.card.pretended import PretendedCard

pytestmark = pytest.mark.skipif(
    torch.backends.cuda.is_built(), reason="this torch has CUDA: run the script itself"
)


@pytest.fixture
def card() -> Iterator[PretendedCard]:
    with PretendedCard() as made:
        yield made


@pytest.mark.slow  # minutes of one core; .ci/run has a step for it
@pytest.mark.timeout(1200)
def test_every_part_passes(
    card: PretendedCard, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nvdiffrast and tiny-cuda-nn, which are stood in for as well."""
    accelerators.install_nvdiffrast(monkeypatch)
    accelerators.install_tinycudann(monkeypatch)
    assert script.main(["--tiny", "--output", str(tmp_path / "card.md")]) == 0, capsys.readouterr().out
    said = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert f"{len(PARTS)} of {len(PARTS)} parts passed" in said and "rehearsal" in said
    for part in PARTS:
        assert f"## {part}: passed" in said
    assert said.count("compared above") == 2 and "tcnn, to table" in said and "nvdiffrast, gradient" in said
    assert "nerf, graphs" in said and "refine, plain" in said and card.replays > 0


def test_a_part_that_fails_is_written_down_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(day: Day, say: Say) -> None:
        say("so far")
        raise Wrong("the card gave something else")

    done: list[str] = []
    parts = {"The machine": (0.1, lambda day, say: done.append("machine")), "One": (0.1, wrong), "Two": (9.0, wrong),
             "Three": (0.1, lambda day, say: done.append("three"))}  # fmt: skip
    monkeypatch.setattr(script, "PARTS", parts)
    output = tmp_path / "card.md"
    assert script.main(["--minutes", "2", "--output", str(output)]) == 1
    said = output.read_text(encoding="utf-8")
    assert (
        "## One: failed" in said and "- so far\n- Wrong: the card gave something else\n- at test_card" in said
    )
    assert (
        "## Two: not begun: out of time" in said
        and "## Three: passed" in said
        and done == ["machine", "three"]
    )
    assert "2 of 4 parts passed" in said
