"""Which settings a job runs with, who set them, and that a resumed job keeps them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from backend import __main__ as cli
from backend import config
from backend.errors import InputError
from backend.jobs import generate, resume
from backend.jobs.drive import begin_again
from backend.jobs.record import check_settings, resolve_job
from backend.stages import setup
from dreamflow_blender.contract.protocol import Finished, Job, Refine, Started
from tests.tools.command import tree
from tests.tools.made_meshes import a_glb
from tests.tools.oracle import Oracle
from tests.tools.refine_run import OVERRIDES, shorten
from tests.tools.tiny import tiny_job

SETTINGS = [part for name, value in OVERRIDES.items() for part in ("--set", f"{name}={value}")]


def refine_job(**changes: object) -> Job:
    return Job("1", "refine", "a ball", "unused", stages=("refine",), mesh="a.glb", **changes)  # type: ignore[arg-type]


def test_a_texture_from_nothing_begins_in_high_noise_and_only_that_does() -> None:
    """Else a grey object stays greyish; with draft's few steps they are larger. What is asked for wins."""
    anew = dataclasses.replace(refine_job(), stages=("texture", "refine"))
    draft = resolve_job(anew, Oracle(), {})
    assert (draft.preset.texture.start, draft.preset.texture.grid_rate) == (0.9, 3e-2)
    assert draft.set_by["texture.start"] == "anew"
    long = resolve_job(dataclasses.replace(anew, preset="paper"), Oracle(), {}).preset.texture
    assert (long.start, long.grid_rate) == (0.9, config.PAPER.texture.grid_rate)
    told = dataclasses.replace(anew, overrides={"texture.start": 0.6})
    assert resolve_job(told, Oracle(), {}).preset.texture.start == 0.6
    for other in (refine_job(), Job("1", "generate", "a ball", "unused")):
        found, draft_s = resolve_job(other, Oracle(), {}).preset.texture, config.PRESETS["draft"].texture
        assert (found.start, found.grid_rate) == (draft_s.start, draft_s.grid_rate)


def test_the_strength_is_where_the_last_stage_starts_with_levels_as_close_as_the_preset_s() -> None:
    draft = config.PRESETS["draft"].refine
    resolved = resolve_job(refine_job(strength=0.15), Oracle(), {})
    assert (resolved.preset.refine.start, resolved.preset.refine.levels) == (0.15, draft.levels // 2)
    assert resolved.set_by["refine.start"] == "strength"
    finer = Oracle()
    finer.spec = dataclasses.replace(finer.spec, settings={"refine.levels": 40})
    resolved = resolve_job(refine_job(strength=0.15), Oracle(), {"refine": finer})
    assert resolved.preset.refine.levels == 20
    told = refine_job(strength=0.15, overrides={"refine.levels": 7})
    assert resolve_job(told, Oracle(), {"refine": finer}).preset.refine.levels == 7
    plain = resolve_job(refine_job(), Oracle(), {}).preset.refine
    assert (plain.start, plain.levels) == (draft.start, draft.levels)


@pytest.mark.parametrize("strength", [None, "0.3"])
def test_refine_start_is_obeyed_and_both_are_refused(
    strength: str | None, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch)
    (tmp_path / "a.glb").write_bytes(a_glb())
    said = [
        "refine",
        str(tmp_path / "a.glb"),
        "a ball",
        "--out",
        str(tmp_path / "out"),
        *SETTINGS,
        "--threads",
        "1",
    ]
    said += ["--set", "refine.start=0.15", "--json"]
    if strength is None:
        assert cli.main(said) == 0
        record = json.loads((tmp_path / "out" / "job.json").read_text(encoding="utf-8"))
        assert record["settings"]["refine"]["start"] == 0.15 and record["set_by"]["refine.start"] == "job"
        return
    assert cli.main([*said, "--strength", strength]) == 2
    failed = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert "strength is 0.3 and refine.start is 0.15" in failed["message"] and failed["todo"]
    assert not (tmp_path / "out").exists()


def test_a_mistake_is_found_before_anything_is_loaded() -> None:
    for job in (
        Job("1", "generate", "a ball", "unused", overrides={"nerf.level": 3}),
        refine_job(strength=0.2, overrides={"refine.start": 0.2}),
        refine_job(strength=0.2, overrides={"refine.end": 0.2}),
    ):
        with pytest.raises(InputError):
            check_settings(job)


def test_a_resumed_job_keeps_its_settings_when_presets_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.jobs.priors.open_prior", lambda *_: Oracle())
    events = generate.generate(tiny_job(tmp_path))
    for event in events:
        if isinstance(event, Started) and event.stage == "geometry":
            break
    before = json.loads((tmp_path / "job.json").read_text(encoding="utf-8"))
    events.close()
    draft = config.PRESETS["draft"]
    changed = dataclasses.replace(draft, texture=dataclasses.replace(draft.texture, grid_rate=0.5))
    monkeypatch.setitem(config.PRESETS, "draft", changed)
    seen = []
    monkeypatch.setattr(
        setup, "make_plan", lambda left, preset, *a: seen.append(preset) or real_plan(left, preset, *a)
    )
    assert isinstance(list(resume.resume(tmp_path))[-1], Finished)
    assert seen[0].texture.grid_rate == draft.texture.grid_rate
    after = json.loads((tmp_path / "job.json").read_text(encoding="utf-8"))
    assert (after["settings"], after["set_by"]) == (before["settings"], before["set_by"])


real_plan = setup.make_plan


class Described(Oracle):
    weights = "a"

    def describe(self):
        return {"name": self.name, "folder": self.weights * 9, "sha256": {"unet/a.safetensors": self.weights}}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A job that was cancelled in its first stage, and what came before its first checkpoint: two folders."""
    root = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backend.jobs.priors.open_prior", lambda *_: Described())
        list(generate.generate(tiny_job(root / "late", stages=("nerf",)), lambda: "cancel"))
        events = generate.generate(tiny_job(root / "early", stages=("nerf",)))
        next(events)
        events.close()
    assert (root / "late" / "checkpoints").exists() and not (root / "early" / "checkpoints").exists()
    return root


WAYS = {
    "job.seed was 42 and is 7": ("job", "seed", 7),
    "job.prompt was 'a ball' and is 'a cone'": ("job", "prompt", "a cone"),
    "geometry.levels was 3 and is 9": ("settings", "geometry", "levels", 9),
}


@pytest.mark.parametrize("difference", WAYS)
def test_a_job_file_that_was_edited_is_refused(stopped, tmp_path, monkeypatch, difference) -> None:
    monkeypatch.setattr("backend.jobs.priors.open_prior", lambda *_: Described())
    shutil.copytree(stopped / "late", tmp_path / "job")
    file = tmp_path / "job" / "job.json"
    record = json.loads(file.read_text())
    *path, last, value = WAYS[difference]
    place = record
    for name in path:
        place = place[name]
    place[last] = value
    file.write_text(json.dumps(record))
    before = tree(tmp_path)
    with pytest.raises(InputError, match=f"job.json has been changed.*{difference}.*--overwrite"):
        list(resume.resume(tmp_path / "job"))
    assert tree(tmp_path) == before


@pytest.mark.parametrize("when", ["early", "late"])
def test_other_weights_are_refused_and_the_same_elsewhere_are_not(
    stopped, tmp_path, monkeypatch, when
) -> None:
    monkeypatch.setattr("backend.jobs.priors.open_prior", lambda *_: Described())
    monkeypatch.setattr(Described, "weights", "b")
    shutil.copytree(stopped / when, tmp_path / "job")
    with pytest.raises(
        InputError, match=r"models are not those.*a.safetensors was 'a' and is 'b'.*--overwrite"
    ):
        list(resume.resume(tmp_path / "job"))
    monkeypatch.setattr(Described, "weights", "a")
    events = resume.resume(tmp_path / "job")
    assert next(events)
    events.close()


def test_overrides_that_were_edited_before_the_first_checkpoint_are_refused(stopped, tmp_path) -> None:
    shutil.copytree(stopped / "early", tmp_path / "job")
    file = tmp_path / "job" / "job.json"
    record = json.loads(file.read_text())
    record["job"]["overrides"]["nerf.levels"] = 9
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"nerf.levels was 12 and is 9"):
        list(resume.resume(tmp_path / "job"))


def test_begun_again_it_is_another_job_on_the_object_that_it_has_kept(tmp_path) -> None:
    job = refine_job(seed=5)
    for name in ("object.npz", "object.obj"):
        (tmp_path / name).touch()
    again = begin_again(dataclasses.replace(job, folder=str(tmp_path)))
    assert isinstance(again, Refine) and again.job.id != job.id
    assert (again.job.mesh, again.job.seed) == (str(tmp_path / "object.obj"), 5)
