"""The buttons of set-up: check, remove; the backend is the real one, from an environment where Set up
makes it."""

import os

from dreamflow_blender.session import findings, jobs, service, tasks
from dreamflow_blender.settings import addon
from dreamflow_blender.ui import setup as ui_setup
from dreamflow_blender.ui import sidebar
from tests.blender_side.with_bpy import layout
from tests.blender_side.with_bpy.user import (
    generate,
    mends,
    posix,
    preferences,
    press,
    real,
    refused,
    said,
    set_up,
    tick_until,
    user,
)

__all__ = ["user"]  # a fixture
MODELS = (
    "sd", "sd-phi", "sdxl", "sdxl-refiner", "mvdream", "controlnet-depth-sd15", "controlnet-normal-sd15",
    "controlnet-depth-sd21", "controlnet-depth-sdxl", "controlnet-union-sdxl", "mv-adapter", "ip-adapter",
)  # fmt: skip


@real
def test_check_setup(user, tmp_path, monkeypatch):
    set_up(user)
    (tmp_path / "a file").write_text("")
    python = service.python()
    addon.preferences().jobs_folder = str(tmp_path / "a file" / "jobs")
    press("check_setup")
    assert "a file" in tasks.problem.message and "another folder" in tasks.problem.todo
    for drawn in (layout.draw(sidebar.DREAMFLOW_PT_main), preferences()):
        assert said(drawn, tasks.problem.message, tasks.problem.todo) and "Copy report" in drawn.buttons()
    addon.preferences().jobs_folder = str(tmp_path / "other disk")
    monkeypatch.setenv("HOME", str(tmp_path / "a file"))
    press("check_setup")
    assert tasks.problem is None
    found = {check["name"]: check for check in findings.checks}
    assert {"Python", "packages", "torch", "hash grid", "rasteriser", "memory", *MODELS} <= set(found)
    assert str(python.parents[1]) in found["Python"]["message"] and found["torch"]["state"] == "good"
    assert str(tmp_path / "other disk") in found["jobs"]["message"]
    drawn = preferences()
    for check in findings.checks:  # each model once: under Models, with its size and its license
        listed = check["name"] in MODELS
        assert said(drawn, f"{check['name']}: {check['message']}") != listed
    assert [text for text in drawn.buttons() if text == "Fetch"] == ["Fetch"] * len(MODELS)
    assert "rich 0.1" in found["packages"]["message"]
    assert mends(found["packages"])[1] == [("dreamflow.set_up", {"repair": True})]
    assert mends({**found["packages"], "fix": "setup"})[1] == [("dreamflow.set_up", {})]
    for name in MODELS:
        assert mends(found[name])[1] == [("dreamflow.fetch_model", {"model": name})]
    if os.name == "posix":
        drawn, buttons = mends(found["home"])
        assert not buttons and said(drawn, ui_setup.MENDS["folder"]) and "df -h" not in drawn.said()
    assert {model["name"] for model in findings.models} == {*MODELS}  # so that Fetch can tell their licences


@posix
def test_remove_while_one_job_runs_and_another_waits(user):
    set_up(user, "slow")
    (user / "models").mkdir()
    findings.checks[:] = [{"name": "Python", "message": "is well", "state": "good", "fix": ""}]
    for name in ("a red mug", "a duck"):
        generate(name)
    tick_until(lambda: jobs.running and jobs.running.stage)
    press("remove_setup")
    for _ in range(20):
        jobs.tick()
    assert tasks.problem is None and jobs.problem is None and not (user / "environment").exists()
    (stopped,) = jobs.get_store().history()
    (waits,) = jobs.get_store().waiting()
    assert stopped.state == "interrupted" and waits.job.prompt == "a duck"
    assert (stopped.folder / "job.json").is_file() and (user / "models").is_dir()
    drawn = layout.draw(sidebar.DREAMFLOW_PT_main)
    assert "Set up DreamFlow" in drawn.buttons() and "Generate" not in drawn.buttons()
    drawn = preferences()
    assert "Set up DreamFlow" in drawn.buttons() and "Remove" not in drawn.buttons()
    assert not said(drawn, "is well")  # of a Python that has gone
    for name in ("check_setup", "list_models"):
        assert "Set up DreamFlow first" in refused(name)
    set_up(user, "good")
    assert {"Resume", "Generate"} <= set(layout.draw(sidebar.DREAMFLOW_PT_main).buttons())
    assert "Start the queue" in layout.draw(sidebar.DREAMFLOW_PT_main).buttons()
