"""What an iteration asks of the networks and how often it waits for the device: counted, on any machine."""

from __future__ import annotations

import pytest

from benchmarks.stages import Bench, counts

# how often Python waits for a device in a render: samples and pixels are lists whose lengths have to be known
RENDER_WAITS = {"nerf": 2, "geometry": 12, "texture": 12, "refine": 12}

# two looks for NaNs, which a card takes in every sixteenth iteration only, and the background's draw, or the nine
# lengths of a surface that is extracted
OTHER_WAITS = {"nerf": 3, "geometry": 11, "texture": 3, "refine": 3}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench("tiny", "cpu", tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("stage", ["nerf", "geometry", "texture", "refine"])
def test_an_iteration_wastes_nothing(stage: str, bench: Bench) -> None:
    found = counts(bench, stage)
    # guided D_p in one batched call, D_phi, and D_phi's step; stage 2a has D_p alone
    assert found["unet_forwards"] == (1 if stage == "geometry" else 3)
    assert found["vae_encodes"] == 1  # shared by D_phi's step and the update
    assert found["waits_elsewhere"] <= OTHER_WAITS[stage], found
    assert found["waits_in_render"] <= RENDER_WAITS[stage], found
