"""A run that was stopped and resumed gives the same bytes as one that was not."""

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from backend.config import resolve
from backend.errors import DeviceError, DiskError, NumericsError, SceneError
from backend.jobs import generate, resume
from backend.jobs.telemetry import RunClock
from backend.results import deliver
from backend.scene.scene import GridBox
from backend.stages import chain, checkpoint, checkpoint_writer
from backend.stages.damage import Damaged
from backend.stages.happenings import Stepped
from backend.stages.setup import set_up
from backend.stages.stages import Stage
from dreamflow_blender.contract import protocol as p
from tests.jobs.test_bad_disk import small_disk
from tests.tools.oracle import Oracle
from tests.tools.tiny import tiny_job

RESULTS = ("mesh.npz", "albedo.png", "views.png")


@pytest.fixture(autouse=True)
def oracle(monkeypatch):
    put_in_place(monkeypatch)


def put_in_place(patch):
    patch.setattr("backend.jobs.priors.open_prior", lambda *_: Oracle())
    for name in ("write_turntable", "write_curves"):  # a second each, and not what is compared
        patch.setattr(deliver, name, lambda path, _: path.touch())
    patch.setattr(deliver, "TURNTABLE_VIEWS", 1)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A whole run's results, and a copy of every checkpoint that it wrote."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch)
        patch.setattr(checkpoint_writer.clean, "__defaults__", (1000,))
        events = list(generate.generate(tiny_job(folder, checkpoint_seconds=0.0)))
    assert isinstance(events[-1], p.Finished)
    return folder


def results(folder):
    return {name: (folder / name).read_bytes() for name in RESULTS}


def resumed(kept, tmp_path, path):
    folder = tmp_path / "job"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(kept / "job.json", folder)
    shutil.copytree(path, folder / "checkpoints" / path.name)
    torch.manual_seed(99)  # whatever this process has drawn before
    events = list(resume.resume(folder))
    assert isinstance(events[-1], p.Finished)
    return folder


def at(kept, stage, iteration, ended=False):
    for path in checkpoint_writer.listed(kept):
        facts = json.loads((path / "state.json").read_text())
        if (facts["stage"], facts["iteration"], facts["ended"]) == (stage, iteration, ended):
            return path
    raise AssertionError("no such checkpoint")


@pytest.mark.parametrize(
    ("stage", "iteration", "ended"),
    [
        ("nerf", 4, False),
        ("nerf", 24, True),
        ("geometry", 6, False),  # its last iteration, without the colours that are settled after it
        ("geometry", 6, True),
        ("texture", 3, False),
        ("refine", 4, True),
    ],
)
def test_resumed_is_the_same(kept, tmp_path, stage, iteration, ended):
    path = at(kept, stage, iteration, ended)
    assert results(resumed(kept, tmp_path, path)) == results(kept)


@pytest.mark.slow
def test_a_job_whose_last_stage_had_ended_is_delivered_as_it_was(tmp_path, monkeypatch):
    """Killed between the end of its geometry and its delivery: what is left to do is the same as without a break."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    stages = ("nerf", "geometry")
    list(generate.generate(tiny_job(whole, stages=stages)))
    shutil.copytree(whole, cut)
    for name in (*RESULTS, "events.jsonl"):
        (cut / name).unlink(missing_ok=True)
    record = json.loads((cut / "job.json").read_text())
    record["job"]["folder"] = str(cut)
    (cut / "job.json").write_text(json.dumps(record))
    assert isinstance(list(resume.resume(cut))[-1], p.Finished)
    assert results(cut) == results(whole)


def test_everything_of_a_stage_is_reachable():
    assert {f.name for f in dataclasses.fields(Stage)} == {
        "name", "schedule", "optimizer", "phi", "generator", "updates", "after", "finish"
    }  # fmt: skip


@pytest.mark.slow
def test_the_second_attempt_resumes(tmp_path, monkeypatch):
    """A first seed that gives no surface, and a run stopped in the second."""
    real = chain.extract_surface
    calls = []

    def fails_once(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise SceneError("The scene is empty.")
        return real(*arguments)

    monkeypatch.setattr(chain, "extract_surface", fails_once)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    few = {"nerf.levels": 4}
    events = list(generate.generate(tiny_job(whole, overrides=few)))
    assert any(isinstance(e, p.Warning) and "another seed" in e.message for e in events)

    calls.clear()
    started = 0

    def asked():
        return "cancel" if started == 2 and seen == 5 else None

    seen = 0
    run = generate.generate(tiny_job(cut, checkpoint_seconds=0.0, overrides=few), asked)
    for event in run:
        if isinstance(event, p.Started):
            started, seen = started + 1, 0
        seen += isinstance(event, p.Checkpoint)
    assert isinstance(event, p.Cancelled)
    assert checkpoint.load(checkpoint_writer.listed(cut)[0]).attempt == 1
    assert isinstance(list(resume.resume(cut))[-1], p.Finished)
    assert results(cut) == results(whole)


def test_two_are_kept_and_others_cleaned(tmp_path):
    (tmp_path / "checkpoints" / ".000009-nerf-1.part").mkdir(parents=True)
    list(generate.generate(tiny_job(tmp_path, checkpoint_seconds=0.0, overrides={"nerf.levels": 2})))
    left = sorted(f.name for f in (tmp_path / "checkpoints").iterdir())
    assert len(left) == 2 and left[-1].endswith("refine-4")


def test_a_damaged_one_is_passed_over(kept, tmp_path):
    folder = tmp_path / "job"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(kept / "job.json", folder)
    older, newer = at(kept, "texture", 2), at(kept, "texture", 4)
    for path in (older, newer):
        shutil.copytree(path, folder / "checkpoints" / path.name)
    blob = folder / "checkpoints" / newer.name / "state.safetensors"
    blob.write_bytes(blob.read_bytes()[:-100])
    events = list(resume.resume(folder))
    assert "damaged" in next(e for e in events if isinstance(e, p.Warning)).message
    assert results(folder) == results(kept)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["fsync", "rename"])
def test_a_full_disk_leaves_nothing_corrupt(kept, tmp_path, monkeypatch, where):
    full = tmp_path / "full"

    def fails(self, *_, **__):
        if where == "fsync" or "texture" in str(self):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, *_, **__)

    if where == "fsync":
        monkeypatch.setattr(checkpoint, "_to_the_disk", fails)
    else:
        real = getattr(Path, where)
        monkeypatch.setattr(Path, where, fails)
    with pytest.raises(DiskError, match="disk is full"):
        list(generate.generate(tiny_job(full, checkpoint_seconds=0.0)))
    monkeypatch.undo()
    put_in_place(monkeypatch)
    for path in (full / "checkpoints").glob("*"):
        checkpoint.load(path)
    assert not list((full / "checkpoints").glob(".*"))
    assert isinstance(list(resume.resume(full))[-1], p.Finished)
    assert results(full) == results(kept)


@pytest.mark.slow
def test_clocks_change_nothing(tmp_path, kept, monkeypatch):
    """Previews, snapshots and checkpoints after every iteration, or none."""
    monkeypatch.setattr(RunClock, "PREVIEW_EVERY", 0.0)
    job = tiny_job(tmp_path, checkpoint_seconds=0.0, snapshot_seconds=0.0)
    events = list(generate.generate(job))
    assert sum(isinstance(e, p.Snapshot) for e in events) > 10
    assert results(tmp_path) == results(kept)


def test_every_kind_of_tensor_comes_back(tmp_path):
    tensors = {
        "a": torch.randn(3, 4), "b": torch.tensor(7), "c": torch.zeros(0, 3), "d": torch.tensor([True, False]),
        "e": torch.arange(5, dtype=torch.uint8), "f": torch.randn(2).bfloat16(),
    }  # fmt: skip
    saved = checkpoint.RunState("nerf", 3, 0, False, 0.5, None, tensors, {})
    checkpoint.write(tmp_path / "000003-nerf-3", saved)
    found = checkpoint.load(tmp_path / "000003-nerf-3").tensors
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert all(found[name].dtype == tensors[name].dtype for name in tensors)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
def test_others_of_a_farm_may_read_it(tmp_path):
    """As the umask has it, like every other file of the job; safetensors itself makes it 0600."""
    checkpoint.write(
        tmp_path / "000001-nerf-3",
        checkpoint.RunState("nerf", 3, 0, False, 0.5, None, {"a": torch.ones(3)}, {}),
    )
    (tmp_path / "plain").touch()
    files = [tmp_path / "000001-nerf-3" / name for name in ("state.safetensors", "state.json")]
    assert {path.stat().st_mode for path in files} == {(tmp_path / "plain").stat().st_mode}


def test_a_disk_that_is_really_full_is_said_so(tmp_path):
    """safetensors writes from Rust: what it meets is "os error 28" in a text."""
    saved = checkpoint.RunState("nerf", 3, 0, False, 0.5, None, {"a": torch.ones(40_000)}, {})
    with small_disk(tmp_path / "disk", "64k"):
        with pytest.raises(DiskError, match="disk is full"):
            checkpoint.write(tmp_path / "disk" / "000003-nerf-3", saved)
        assert not list((tmp_path / "disk").iterdir())
        small = dataclasses.replace(saved, tensors={"a": torch.ones(4)})
        checkpoint.write(tmp_path / "disk" / "000003-nerf-3", small)  # there is room for this one
        assert checkpoint.load(tmp_path / "disk" / "000003-nerf-3").tensors["a"].tolist() == [1.0] * 4


class Elsewhere(torch.Generator):
    """Draws as a card does: its state is a seed and an offset."""

    def get_state(self):
        return torch.zeros(16, dtype=torch.uint8)


def after_two(tmp_path):
    """(where the run is after two iterations, the job's folder)."""
    job = tiny_job(tmp_path / "job", stages=("nerf",))
    preset = resolve("draft", {"job": job.overrides}).preset
    for happening in chain.run_stages(set_up(job, preset, Oracle(), {}, torch.device("cpu"))):
        if isinstance(happening, Stepped) and happening.at.done == 2:
            return happening.at, Path(job.folder)
    raise AssertionError("a stage has two iterations")


def take(at):
    return checkpoint.capture(at, {"curve.nerf.loss": torch.ones(2)}, {})


@pytest.mark.parametrize("where", ["moments", "field", "curve"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_nan_is_never_saved_and_the_older_checkpoint_stays(tmp_path, where, value):
    at, folder = after_two(tmp_path)
    writer = checkpoint_writer.CheckpointWriter(folder)
    writer.save(take(at))
    writer.wait()
    before = [
        (path.name, (path / "state.safetensors").read_bytes()) for path in checkpoint_writer.listed(folder)
    ]
    assert len(before) == 1
    optimizer = at.stage.optimizer
    others = {"curve.nerf.loss": torch.ones(2)}
    if where == "moments":
        optimizer.state[optimizer.param_groups[0]["params"][0]]["exp_avg_sq"].view(-1)[5] = value
    elif where == "field":
        at.scene.field.table.data[3] = value
    else:
        others["curve.nerf.loss"][1] = value
    named = {"moments": r"optimizer\.0\.exp_avg_sq", "field": r"field\.table", "curve": r"curve\.nerf\.loss"}[
        where
    ]
    with pytest.raises(NumericsError, match=rf"stage nerf, iteration 2: {named} holds a NaN or an infinity"):
        writer.save(checkpoint.capture(at, others, {}))
    writer.wait()
    after = [
        (path.name, (path / "state.safetensors").read_bytes()) for path in checkpoint_writer.listed(folder)
    ]
    assert after == before


def test_a_checkpoint_of_another_kind_of_device_is_refused_with_a_sentence(tmp_path):
    """A card draws in another way than the processor, and torch would only say that a state has the wrong size."""
    at, _ = after_two(tmp_path)
    saved = take(at)
    elsewhere = dataclasses.replace(at.stage, generator=Elsewhere())
    with pytest.raises(DeviceError, match=r"begun on another device.*Resume it on the device"):
        checkpoint.restore_stage(saved, elsewhere)


def two(kept, tmp_path, stage, change):
    """A job with two checkpoints of a stage, of which the newer one is whole but is not what a run of it writes."""
    folder = tmp_path / "job"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(kept / "job.json", folder)
    older, newer = at(kept, stage, 1), at(kept, stage, 2)
    shutil.copytree(older, folder / "checkpoints" / older.name)
    saved = checkpoint.load(newer)
    tensors, facts = dict(saved.tensors), {"notes": dict(saved.notes)}
    change(tensors, facts)
    checkpoint.write(
        folder / "checkpoints" / newer.name, dataclasses.replace(saved, tensors=tensors, **facts)
    )
    return folder


def cut(name, rows):
    return lambda tensors, _: tensors.update({name: tensors[name][:rows].clone()})


def put(name, tensor):
    return lambda tensors, _: tensors.update({name: tensor})


def drop(prefix):
    return lambda tensors, _: [tensors.pop(name) for name in list(tensors) if name.startswith(prefix)]


def noted(**notes):
    return lambda _, facts: facts["notes"].update(notes)


def boxed(cells, side):
    return lambda _, facts: facts.update(box=GridBox(cells, (-side,) * 3, (side,) * 3))


def outwards(tensors, _):
    tensors["mesh.t_pos_idx"][3, 1] = len(tensors["mesh.v_pos"])


WRONG = {
    "a moment that AdamW would write beyond": ("nerf", cut("optimizer.1.exp_avg", 1)),
    "a moment of a parameter that there is not": ("nerf", put("optimizer.99.exp_avg", torch.ones(3))),
    "a field of half its size": ("nerf", cut("field.table", 7)),
    "a field of another type": ("nerf", lambda t, _: t.update({"field.table": t["field.table"].double()})),
    "no backdrop": ("nerf", drop("backdrop")),
    "no generator": ("nerf", drop("generator")),
    "a generator that is none": ("nerf", lambda t, _: t["generator"].fill_(255)),
    "a curve that is a surface": ("nerf", put("curve.nerf.loss", torch.ones(2, 2))),
    "a curve of no stage": ("nerf", put("curve.x/y.loss", torch.ones(2))),
    "an iteration after the last": ("nerf", lambda _, facts: facts.update(iteration=10**6)),
    "an sdf of fewer vertices": ("geometry", cut("sdf", 9)),
    "a grid that takes all memory": ("geometry", boxed(1000, 1.0)),
    "a grid of too many cells": ("geometry", boxed(10**6, 1.0)),
    "a grid without a box": ("geometry", boxed(10, 0.0)),
    "a view without opacity": ("geometry", drop("seen.opacity")),
    "a face that leads out of the mesh": ("texture", outwards),
    "a NaN": ("nerf", lambda tensors, _: tensors["field.table"].view(-1)[:1].fill_(float("nan"))),
    "no mesh": ("texture", drop("mesh.v_pos")),
    "a hundred thousand threads": ("nerf", noted(threads=100_000)),
    "a rung that there is not": ("nerf", noted(rung=99)),
    "seconds in words": ("nerf", noted(seconds={"nerf": "long"})),
    "no kernels": ("nerf", noted(kernels=None)),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_damaged_and_the_older_one_is_used(kept, tmp_path, what):
    """Whatever its checksums say, nothing is taken from it."""
    began: list[p.Event] = []
    for event in resume.resume(two(kept, tmp_path, *WRONG[what]), lambda: "cancel" if began else None):
        if isinstance(event, p.Started):
            began.append(event)
        if isinstance(event, p.Warning) and "is damaged" in event.message:
            assert "An older one is used." in event.message and not began
            break
    else:
        raise AssertionError("it was taken")


def test_a_changed_bit_anywhere_is_damaged(kept, tmp_path):
    """A bit of a tensor once went on into the result without a word."""
    path = tmp_path / "000002-nerf-2"
    shutil.copytree(at(kept, "nerf", 2), path)
    for name in ("state.safetensors", "state.json"):
        whole = (path / name).read_bytes()
        for place in range(11, len(whole), len(whole) // 30):
            changed = bytearray(whole)
            changed[place] ^= 4
            (path / name).write_bytes(changed)
            with pytest.raises(Damaged, match="is damaged"):
                checkpoint.load(path)
        (path / name).write_bytes(whole)
    assert checkpoint.load(path).iteration == 2
