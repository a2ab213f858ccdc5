"""Stage 1 with a share of normal maps: who is asked about what, and that nothing is drawn where the share is 0."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backend.config import DRAFT, resolve
from backend.diffusion.prior import PoseRange
from backend.errors import InputError
from backend.stages.guides import Guide, NormalsSometimes, PhiOfColours
from tests.tools.here import generator
from tests.tools.oracle import Oracle


class Asked(Oracle):
    """Notes what it is asked about; its conditioning is the kind."""

    poses = PoseRange()

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def prepare(self, prompt: str, negative: str, kind: str, size: int) -> str:  # type: ignore[override]
        return kind

    def denoise(
        self,
        z: Tensor,
        level: object,
        camera: object,
        conditioning: str,
        guidance_scale: float,
        guidance_rescale: float = 0.0,
    ) -> Tensor:  # type: ignore[override]
        self.kinds.append(conditioning)
        return z


def views_of(share: float) -> tuple[Asked, NormalsSometimes]:
    prior = Asked()
    return prior, NormalsSometimes(Guide(prior, "colour", 1.0), Guide(prior, "normal", 1.0), share)


def test_the_share_is_kept_and_the_prior_of_what_is_shown_is_asked() -> None:
    prior, views = views_of(0.3)
    draws, shown, high = generator(2), [], {True: [], False: []}  # type: ignore[var-annotated]
    for _ in range(600):
        camera = views.camera(draws, 8)
        assert len(camera) == 1
        views.denoise(torch.zeros(1, 3, 8, 8), None, camera)  # type: ignore[arg-type]
        shown.append(views.shows_normals)
        high[views.shows_normals].append(float(camera.elevation))
    assert prior.kinds == ["normal" if normals else "colour" for normals in shown]
    assert sum(shown) / len(shown) == pytest.approx(0.3, abs=0.05)
    above = {kind: sum(e > 45 for e in found) / len(found) for kind, found in high.items()}
    # of eight cameras the highest: as often from above as one of eight is, 1 - 0.9^8
    assert above[False] == pytest.approx(0.1, abs=0.05) and above[True] == pytest.approx(0.57, abs=0.09)


def test_d_phi_learns_colours_alone() -> None:
    class Phi:
        fits = 0

        def fit(self, x: Tensor, level: object, camera: object, draws: object) -> Tensor:
            self.fits += 1
            return x.sum()

        def __call__(self, z: Tensor, level: object, camera: object) -> Tensor:
            return z + 1

    _, views = views_of(0.5)
    phi = Phi()
    fitted = PhiOfColours(phi, views)  # type: ignore[arg-type]
    x, z = torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
    for normals in (True, False, True):
        views.shows_normals = normals
        fitted.fit(x, None, None, None)  # type: ignore[arg-type]
        found = fitted(z, None, None)  # type: ignore[arg-type]
        assert torch.equal(found, x if normals else z + 1)
    assert phi.fits == 1


def test_without_a_share_cameras_are_drawn_as_ever() -> None:
    prior = Asked()
    plain = Guide(prior, "colour", 1.0)
    assert DRAFT.nerf.normal_share == 0
    a, b = generator(4), generator(4)
    assert torch.equal(plain.camera(a, 8).c2w, prior.spec.poses.sample(b, 1, 8, 8).c2w)
    assert torch.equal(a.get_state(), b.get_state())


def test_a_share_is_between_0_and_1() -> None:
    assert resolve("draft", {"job": {"nerf.normal_share": 1}}).preset.nerf.normal_share == 1.0
    with pytest.raises(InputError, match="normal_share must be 0 to 1"):
        resolve("draft", {"job": {"nerf.normal_share": 1.2}})
