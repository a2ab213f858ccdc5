"""Running out of memory between the stages: without networks once more, and then the setting to lower is named."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.errors import OutOfMemory
from backend.jobs import generate
from backend.models import latent_prior
from backend.stages import chain
from dreamflow_blender.contract.protocol import Finished, Job
from tests.tools.tiny import tiny_job
from tests.tools.tiny_models import build

FEW = {"nerf.levels": 2, "nerf.views": 2, "geometry.levels": 1, "delivery.texture_size": 256}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("models")
    return build(root / "base", "sd21-base"), build(root / "own", "sd21", seed=1)


@pytest.fixture
def job(folders: tuple[Path, Path], tmp_path: Path) -> Job:
    stages = ("nerf", "geometry")
    return tiny_job(
        tmp_path / "job", prior=str(folders[0]), phi=str(folders[1]), stages=stages, overrides=FEW
    )


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref]:
    """Those that were loaded."""
    real, seen = latent_prior.load_network, []

    def load(*args: Any) -> Any:
        network = real(*args)
        seen.append(weakref.ref(network.unet))
        return network

    monkeypatch.setattr(latent_prior, "load_network", load)
    return seen


class Short:
    """Calls through, but runs out of memory the first `times`; `beside` is how many networks there were each time."""

    def __init__(self, real: Any, networks: list[weakref.ref], times: int) -> None:
        self.real, self.networks, self.left = real, networks, times
        self.beside: list[int] = []

    def __call__(self, *args: Any) -> Any:
        self.beside.append(sum(network() is not None for network in self.networks))
        self.left -= 1
        if self.left >= 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.real(*args)


@pytest.mark.slow
def test_the_hand_over_is_tried_again_without_networks(
    job: Job, networks: list[weakref.ref], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Short(chain.extract_surface, networks, 1)
    monkeypatch.setattr(chain, "extract_surface", short)
    assert isinstance(list(generate.generate(job))[-1], Finished)
    assert short.beside == [2, 0]  # D_p's and D_phi's own
    assert len(networks) == 3  # and geometry, which has no D_phi, loads D_p's again


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("extract_surface", r"hand-over to a surface ran out of memory.*--set geometry\.cells=5"),
        ("settle_colours", r"Colouring the surface ran out of memory.*--set geometry\.size=8"),
    ],
)
def test_where_that_is_not_enough_it_says_what_to_lower(
    where: str, told: str, job: Job, networks: list[weakref.ref], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, where, Short(getattr(chain, where), networks, 2))
    with pytest.raises(OutOfMemory, match=told):
        list(generate.generate(job))


@pytest.mark.slow
def test_the_delivery_has_no_networks_beside_it_and_says_what_to_lower(
    job: Job, networks: list[weakref.ref], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Short(generate.deliver_generated, networks, 1)

    def deliver_generated(*args: Any) -> Iterator[int]:
        yield 0
        yield from short(*args)

    monkeypatch.setattr(generate, "deliver_generated", deliver_generated)
    with pytest.raises(OutOfMemory, match=r"delivery ran out of memory.*--set delivery\.texture_size=128"):
        list(generate.generate(job))
    assert short.beside == [0] and len(networks) == 2
