"""What the judge of rooms calls found, and that a short run of the exact prior goes the right way."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from backend.objects import room as rooms
from backend.objects.room import RoomPrior, build_room
from backend.objects.sphere_trace import render
from benchmarks.room import FOUND, PROMPT, inside_cameras, judge, recover, seen
from dreamflow_blender.contract.protocol import Job


def test_a_room_without_an_object_has_not_found_it() -> None:
    room, camera = build_room("a room with a red mug and a blue chair"), inside_cameras()[:8].resized(12, 12)
    true = render(room, camera).colour
    judged = judge(true, room, camera)
    assert judged.psnr > 100 and judged.shares == dict.fromkeys(judged.shares, 0.0) and not judged.missing
    without = render(replace(room, objects=room.objects[1:]), camera).colour
    judged = judge(without, room, camera)
    assert judged.missing == ["mug"] and judged.shares["mug"] == pytest.approx(1)
    half = judge((true + without) / 2, room, camera)
    assert half.shares["mug"] == pytest.approx(FOUND, abs=0.01)  # a ghost of half its colour is the limit


@pytest.mark.slow
def test_a_short_run_sees_the_room_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifteenth of the updates of the preset."""
    monkeypatch.setattr(rooms, "TRACED", 16)
    job = Job(
        "room", "generate", PROMPT, "room", seed=1, prior="exact", stages=("nerf",), scene=True, threads=1,
        overrides={"nerf.levels": 50, "nerf.views": 2, "nerf.size": 16, "nerf.samples": 48},
    )  # fmt: skip
    scene = recover(job, RoomPrior(views=96))
    camera, room = inside_cameras().resized(16, 16), build_room(PROMPT)
    grey = torch.full((24, 16, 16, 3), 0.5)
    assert judge(seen(scene, camera), room, camera).psnr > judge(grey, room, camera).psnr + 2
    assert scene.mesh is not None and float(scene.mesh.v_pos.abs().max()) < scene.field.extent
