"""The figures of what came back, on pictures whose figures are known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backend.errors import InputError
from backend.evidence import recovery
from backend.evidence.known_objects import true_mesh
from backend.evidence.recovery import compare, compare_surfaces, judge_job, nearest_kind
from backend.objects.grammar import parse_object
from backend.objects.kinds import COLOURS
from backend.objects.shapes import KINDS, build
from backend.scene.mesh import Mesh


def test_figures_of_a_square_that_is_known() -> None:
    true = torch.zeros(1, 8, 8, 1)
    true[:, :4] = 1.0
    half = torch.zeros(1, 8, 8, 1)
    half[:, 2:4] = 1.0  # half of it, nothing beside it
    colour = torch.full((1, 8, 8, 3), 0.5)
    found = compare(colour + 0.1, half, colour, true)
    assert found.iou == pytest.approx(0.5) and found.psnr == pytest.approx(20, abs=1e-3)
    assert found.colour == pytest.approx(0.1)


def test_surfaces_that_lie_a_known_way_apart() -> None:
    def plate(height: float, side: float = 1.0) -> Mesh:
        corners = torch.tensor([(0.0, 0, height), (side, 0, height), (side, side, height), (0, side, height)])
        return Mesh(corners, torch.tensor([(0, 1, 2), (0, 2, 3)]))

    level, raised = plate(0.0), plate(0.25)
    found = compare_surfaces(level, raised)
    assert found.chamfer == pytest.approx(0.25, abs=1e-3) and found.normals == pytest.approx(1)
    upright = Mesh(level.v_pos[:, [0, 2, 1]], level.t_pos_idx)
    across = compare_surfaces(level, upright)
    assert across.normals == pytest.approx(0, abs=1e-6)
    assert across.chamfer == pytest.approx(
        0.5, abs=0.01
    )  # from a point of one square to the edge that they share
    assert compare_surfaces(level, level).chamfer < 0.006  # two samples of one surface


def test_the_kind_that_looks_most_like_a_ball_is_the_ball(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "KIND_VIEWS", 2)
    monkeypatch.setattr(recovery, "KIND_SIZE", 24)
    monkeypatch.setattr(recovery, "KINDS", {kind: KINDS[kind] for kind in ("cube", "ball", "mug")})
    ball = true_mesh(build(parse_object("a red ball")), 24)
    wrapped = Mesh(ball.v_pos, ball.t_pos_idx, torch.zeros(1, 2), torch.zeros_like(ball.t_pos_idx))
    assert nearest_kind(wrapped, torch.tensor(COLOURS["red"]).expand(2, 2, 3), "a red ball") == "ball"


def test_a_folder_without_a_result_is_met_with_a_clear_word(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no mesh\.npz in it") as caught:
        judge_job(tmp_path, "a ball")
    assert caught.value.todo
