"""Usable UVs are found usable, and what is wrong with others is named."""

import numpy as np
import pytest
import torch

from backend.texture.uv_check import check_uvs
from tests.tools import strict_nvdiffrast
from tests.tools.made_meshes import grid_ball


def check(uv, keep=None):
    uv = np.asarray(uv, np.float32)
    keep = np.zeros(len(uv), bool) if keep is None else keep
    return check_uvs(uv, np.ones(len(uv)), keep)


def quads(n: int) -> np.ndarray:
    """[2 n n,3,2] a regular grid over the whole square: its edges pass through texels' centres."""
    a = np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 1, 2)
    first, second = np.array([[0, 0], [1, 0], [1, 1]]), np.array([[0, 0], [1, 1], [0, 1]])
    return np.concatenate((a + first, a + second)) / n


@pytest.mark.parametrize("n", [1, 4, 32, 100])
def test_a_grid_over_the_whole_square_is_usable(n: int) -> None:
    report = check(quads(n))
    assert report.usable and report.overlapping < 1e-3 and not report.copy.any()


def test_a_ball_of_latitude_and_longitude_is_usable() -> None:
    assert check(grid_ball()[2]).usable


@pytest.mark.parametrize(
    ("uv", "words"),
    [
        (quads(4) * 2, "outside the unit square"),
        (quads(4) - 0.1, "outside the unit square"),
        (np.concatenate((quads(4), quads(3) * 0.9)), "share their place"),
        (np.concatenate((quads(4), np.full((16, 3, 2), 0.5))), "no area"),
        (np.full((4, 3, 2), -9.0), "outside"),
    ],
)
def test_what_is_wrong_is_said(uv: np.ndarray, words: str) -> None:
    report = check(uv)
    assert not report.usable and words in report.why


def test_no_uvs() -> None:
    report = check_uvs(np.zeros((0, 3, 2), np.float32), np.ones(5), np.zeros(5, bool))
    assert not report.usable and report.why == "It has no UVs."


def test_copies_share_their_texels_and_are_no_overlap() -> None:
    uv = np.concatenate((quads(4), quads(4)[:, ::-1]))  # as a mirror modifier leaves them
    report = check(uv)
    assert report.usable and report.copy.sum() == 32 and not report.copy[:32].any()
    kept = np.arange(64) < 32
    assert not check(uv, kept).usable  # one of the two must not change: they cannot share


def test_one_face_that_overlaps_another_by_half() -> None:
    uv = np.array([[[0, 0], [1, 0], [0, 1]], [[0, 0], [1, 0], [0, 0.5]]])
    report = check(uv)
    assert not report.usable and report.overlapping == pytest.approx(0.75, abs=0.03)


def test_it_draws_nothing() -> None:
    before = torch.get_rng_state()
    check(quads(8))
    assert torch.equal(before, torch.get_rng_state())


def test_they_are_checked_by_the_cpus_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """UVs are on the CPU, also in a job on a card; nvdiffrast refuses tensors on the CPU."""
    uvs = quads(32), np.concatenate((quads(4), quads(3) * 0.9))
    before = [check(uv).overlapping for uv in uvs]
    strict_nvdiffrast.install(monkeypatch)
    assert [check(uv).overlapping for uv in uvs] == before
