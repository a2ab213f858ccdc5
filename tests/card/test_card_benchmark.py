"""benchmarks/card.py from its first line to its last, on a pretended card with tiny sizes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from backend.objects import exact_prior
from backend.results import deliver
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


SAID = {  # words of a part's findings
    "Hash grid": ("tcnn, to table", "warp, to points"),
    "Silhouettes": ("nvdiffrast, gradient", "torch, mask"),
    "Stages at full size": ("nerf, graphs", "nerf, plain", "refine, graphs", "refine, plain"),
    "Accelerators": ("tcnn: compared above", "nvdiffrast: compared above"),
    "A draft": ("whole: ", "resumed: "),
}


@pytest.mark.slow  # minutes of one core in all; .ci/run has a step for them
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", PARTS)
def test_every_part_passes(
    card: PretendedCard,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    part: str,
) -> None:
    """With nvdiffrast and tiny-cuda-nn, which are stood in for as well; a part a test, so that processes share them."""
    accelerators.install_nvdiffrast(monkeypatch)
    accelerators.install_tinycudann(monkeypatch)
    monkeypatch.setattr(exact_prior, "TRACED", 16)
    monkeypatch.setattr(deliver, "TURNTABLE_VIEWS", 2)
    output = tmp_path / "card.md"
    assert script.main(["--tiny", "--only", part, "--output", str(output)]) == 0, capsys.readouterr().out
    said = output.read_text(encoding="utf-8")
    assert f"## {part}: passed" in said and "rehearsal" in said
    for word in next((words for begin, words in SAID.items() if part.startswith(begin)), ()):
        assert word in said
    if part.startswith("Stages"):
        assert card.replays > 0


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
