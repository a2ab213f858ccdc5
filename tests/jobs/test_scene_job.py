"""A scene as it is typed: the exact prior's room, delivered as views from its middle and the faces that they see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from backend import __main__ as cli
from backend.meshes.write import read_npz
from backend.objects import room as rooms
from backend.results import deliver
from backend.scene.mesh import is_closed
from tests.jobs.test_run import FILES
from tests.tools.command import OVERRIDES, ask

ROOM = "a room with a red mug and a blue chair"
SETTINGS = OVERRIDES | {"nerf.levels": 30, "geometry.cells": 16, "nerf.density_bias": -60.0}


def typed(*more: str) -> list[str]:
    return [ROOM, "--scene", "--prior", "exact", "--seed", "3", *more]


@pytest.mark.slow
def test_a_scene_is_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rooms, "TRACED", 16)
    monkeypatch.setattr(rooms.RoomPrior.__init__, "__defaults__", ("cpu", 12))
    monkeypatch.setattr(deliver, "WITHIN_SIZE", 24)
    out = tmp_path / "room"
    sets = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    assert ask(capfd, *typed("--out", str(out), *sets)).code == 0
    assert {path.name for path in out.iterdir()} >= FILES and not (out / "snapshot.npz").exists()
    record = json.loads((out / "job.json").read_text(encoding="utf-8"))
    assert record["job"]["scene"] is True and record["job"]["stages"] == ["nerf"]
    assert (
        record["set_by"]["nerf.density_bias"] == "job" and record["settings"]["nerf"]["density_bias"] == -60
    )
    mesh = read_npz(out / "mesh.npz")
    assert not is_closed(mesh) and 20 < len(mesh.t_pos_idx) <= 500  # delivery.max_faces
    assert (
        float(mesh.v_pos.abs().max()) <= 0.6 and float(mesh.v_pos.norm(dim=1).min()) > 0.1
    )  # not where they stand
    with Image.open(out / "turntable.webp") as turning:
        assert (turning.size, getattr(turning, "n_frames", 1)) == ((24, 24), deliver.TURNTABLE_VIEWS)
    assert torch.isfinite(mesh.v_pos).all()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--stages", "nerf,geometry"], "nerf alone, for a scene"),
        pytest.param(["--prior", "mini"], "knows single objects alone", marks=pytest.mark.slow),
        (["--negative", "dark"], "no negative prompts"),
    ],
)
def test_what_no_scene_can_be_is_refused(
    more: list[str], says: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    answer = ask(capfd, *typed(*more, "--out", str(tmp_path / "room")))
    assert (answer.code, answer.kind) == (2, "input") and says in answer.message


def test_a_scene_has_its_bias_from_a_layer_of_its_own() -> None:
    from backend.jobs.record import resolve_job

    job = cli.to_job(cli.parser().parse_args(["generate", *typed()]))
    assert (job.stages, job.snapshot_faces) == (("nerf",), 0)
    resolved = resolve_job(job, rooms.RoomPrior(views=1), {})
    assert (resolved.preset.nerf.density_bias, resolved.set_by["nerf.density_bias"]) == (-10, "scene")
