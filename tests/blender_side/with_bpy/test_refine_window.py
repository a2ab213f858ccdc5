"""Refine as the window does it: the button, the queue, the texture that changes on the object, before / after, undo."""

import time
from pathlib import Path

import bpy
import pytest

import dreamflow_blender
from dreamflow_blender.ops import refine as ops_refine
from dreamflow_blender.scene import decide, preview
from dreamflow_blender.session import findings, importing, jobs, models, service, tasks
from dreamflow_blender.session import refine as refine_session
from dreamflow_blender.settings import addon
from dreamflow_blender.settings.refine import frozen
from dreamflow_blender.ui import history, sidebar
from dreamflow_blender.ui import refine as ui_refine
from tests.blender_side.with_bpy import fake, hard, layout
from tests.blender_side.with_bpy.walk import differences, walk


@pytest.fixture
def enabled(tmp_path, monkeypatch):
    """Registered, with folders of its own and a fake backend whose behaviour a test may choose."""
    monkeypatch.setattr(addon, "user_folder", lambda: tmp_path / "ö ü")
    entry = bpy.context.preferences.addons.new()
    entry.module = addon.NAME

    def use(behaviour="good", seconds=0.4):
        place = tmp_path / behaviour
        place.mkdir(exist_ok=True)
        monkeypatch.setenv(service.PYTHON, str(fake.python(place, behaviour, seconds)))
        service.forget_state()

    use()
    dreamflow_blender.register()
    bpy.context.scene.dreamflow_refine.model = "BUILT_IN"
    bpy.context.scene.dreamflow_refine.prompt = "a red mug"
    yield use
    dreamflow_blender.unregister()
    bpy.context.preferences.addons.remove(entry)
    service.forget_state()


def tick_until(done, seconds=60.0):
    """The longest tick, in ms of the CPU."""
    longest, until = 0.0, time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, (jobs.running, jobs.problem, tasks.problem)
        began = time.thread_time()
        jobs.tick()
        longest = max(longest, 1000 * (time.thread_time() - began))
        time.sleep(0.02)
    return longest


def gone(folder, seconds=20):
    """Deleted, by a thread."""
    until = time.monotonic() + seconds
    while folder.exists() and time.monotonic() < until:
        time.sleep(0.01)
    return not folder.exists()


def idle():
    return (
        jobs.running is None and not jobs.get_store().waiting() and not importing.due() and not tasks.current
    )


def painted():
    made = hard.cube()
    made.data.materials.append(hard.painted())
    bpy.context.view_layer.update()
    return made


def press(made):
    """As `execute` does it with a window."""
    return refine_session.begin(bpy.context, made, bpy.context.scene.dreamflow_refine)


def test_from_the_button_to_before_and_after_and_one_undo(enabled):
    made = painted()
    enabled("good", 2.0)
    bpy.ops.ed.undo_push(message="before")
    before = walk()
    press(made)
    assert differences(before, walk()) == set()
    seen = []

    def done():
        shell = preview.shown()
        if shell is not None:
            seen.append((shell.parts[0].file.name, round(255 * float(shell.parts[0].picture[0, 0, 1]))))
            assert (
                len(bpy.data.objects) == 1 and len(bpy.data.images) == 1
            )  # an exporter meets the user's own
            assert made.material_slots[0].material.name == "Paint"  # until the end
        return idle()

    print(f"\nrefine: longest tick {tick_until(done):.1f} ms of the CPU")
    assert jobs.problem is None and preview.shown() is None
    assert seen[0][0] == "snapshot.png" and len({green for _, green in seen}) >= 2  # it changes
    assert made.material_slots[0].material.name == "Paint refined"
    drawn = layout.draw(ui_refine.DREAMFLOW_PT_refine)
    assert drawn.buttons() == ["Show before", "Apply", "Discard"]
    assert not bpy.ops.dreamflow.refine.poll()
    bpy.ops.dreamflow.before_after()
    assert made.material_slots[0].material.name == "Paint"
    assert layout.draw(ui_refine.DREAMFLOW_PT_refine).buttons()[0] == "Show after"
    bpy.ops.dreamflow.before_after()
    bpy.ops.ed.undo()
    made = bpy.data.objects["Cube"]
    assert made.material_slots[0].material.name == "Paint" and decide.state_of(made) is None
    bpy.context.view_layer.update()
    assert differences(before, walk()) == set()
    bpy.ops.ed.redo()
    assert bpy.data.objects["Cube"].material_slots[0].material.name == "Paint refined"
    bpy.ops.dreamflow.discard_refined()
    bpy.context.view_layer.update()
    assert differences(before, walk()) == set()


def test_apply(enabled):
    made = painted()
    press(made)
    tick_until(idle)
    assert ui_refine.estimate(bpy.context.scene.dreamflow_refine).startswith("about ")
    bpy.ops.dreamflow.apply_refined()
    assert decide.state_of(made) is None and made.material_slots[0].material.name == "Paint refined"
    assert bpy.ops.dreamflow.refine.poll()


def test_history_pause_stop_and_discard(enabled):
    made = painted()
    enabled("good", 3.0)
    press(made)
    tick_until(lambda: jobs.running and jobs.running.stage == "fit")
    assert "Learning the colours" in layout.draw(sidebar.DREAMFLOW_PT_main).said()
    bpy.ops.dreamflow.pause_job()
    tick_until(lambda: jobs.running.paused)
    bpy.ops.dreamflow.pause_job()
    tick_until(lambda: preview.shown() is not None)
    bpy.ops.dreamflow.finish_job()
    tick_until(idle)
    assert made.material_slots[0].material.name == "Paint refined"
    bpy.ops.dreamflow.discard_refined()
    drawn = layout.draw(history.DREAMFLOW_PT_history)
    assert {"Put on the object", "Vary"} <= set(drawn.buttons()) and "Import" not in drawn.buttons()
    (past,) = jobs.get_store().history()
    bpy.ops.dreamflow.show_refined(job_id=past.job.id)  # again
    assert made.material_slots[0].material.name == "Paint refined"
    with pytest.raises(RuntimeError, match="Apply or Discard"):
        bpy.ops.dreamflow.show_refined(job_id=past.job.id)
    bpy.ops.dreamflow.discard_refined()
    bpy.ops.dreamflow.vary_job(job_id=past.job.id)
    tick_until(lambda: preview.shown() is not None)
    bpy.ops.dreamflow.discard_job()
    tick_until(idle)
    assert made.material_slots[0].material.name == "Paint" and preview.shown() is None
    bpy.ops.dreamflow.delete_job(job_id=past.job.id)
    assert gone(past.folder)


def test_the_mesh_is_written_once_and_into_the_jobs_own_folder(enabled):
    """A varied job has a copy: its first may be deleted; a job that leaves the queue leaves nothing."""
    made = painted()
    press(made)
    (first,) = jobs.get_store().waiting()
    assert Path(first.job.mesh) == first.folder / "object.npz" and Path(first.job.mesh).is_file()
    assert not (addon.user_folder() / "objects").exists()
    jobs.requeue(first, "new", seed=7)
    _, second = jobs.get_store().waiting()
    assert second.folder != first.folder and Path(second.job.mesh) == second.folder / "object.npz"
    bpy.ops.dreamflow.remove_queued(job_id=first.job.id)
    assert gone(first.folder)
    tick_until(idle)
    assert jobs.problem is None and made.material_slots[0].material.name == "Paint refined"
    bpy.ops.dreamflow.discard_refined()
    jobs.forget(second.job.id)
    assert gone(second.folder)
    with pytest.raises(ValueError, match="no longer"):
        jobs.requeue(second, "new")


def test_several_selected_objects_are_one_job_each(enabled):
    first, second, third = painted(), painted(), painted()
    third.data.clear_geometry()  # which cannot be refined
    bpy.ops.object.select_all(action="SELECT")
    bpy.context.view_layer.objects.active = second
    drawn = layout.Fake()
    ui_refine.draw_dialog(drawn, bpy.context)
    assert f"One job for each, with one prompt: {second.name}, {first.name}" in drawn.said().replace(
        "\n", " "
    )
    refine_session.begin_all(bpy.context, bpy.context.scene.dreamflow_refine)
    waiting = jobs.get_store().waiting()
    assert [entry.title for entry in waiting] == [f"{obj.name}: a red mug" for obj in (second, first)]
    assert len({entry.job.folder for entry in waiting}) == 2 and waiting[0].matches("MUG cube")
    for entry in waiting:
        jobs.forget(entry.job.id)


@pytest.mark.parametrize("behaviour", ["dies once", "dies in between", "fails"])
def test_failures_are_shown_and_resumed(enabled, behaviour):
    made = painted()
    enabled(behaviour, 0.2)
    press(made)
    tick_until(lambda: jobs.problem is not None)
    assert made.material_slots[0].material.name == "Paint" and preview.shown() is None
    assert "Retry" in layout.draw(sidebar.DREAMFLOW_PT_main).buttons()
    (past,) = jobs.get_store().history()
    enabled("good", 0.2)
    bpy.ops.dreamflow.resume_job(job_id=past.job.id)
    tick_until(idle)
    assert made.material_slots[0].material.name == "Paint refined"


def test_the_object_is_gone_or_in_edit_mode_at_the_end(enabled):
    made = painted()
    press(made)
    bpy.ops.object.mode_set(mode="EDIT")
    tick_until(lambda: importing.pending() and jobs.running is None)
    for _ in range(5):
        jobs.tick()
    assert made.material_slots[0].material.name == "Paint"
    bpy.ops.object.mode_set(mode="OBJECT")
    tick_until(idle)
    assert made.material_slots[0].material.name == "Paint refined"
    bpy.ops.dreamflow.discard_refined()
    press(made)
    tick_until(lambda: jobs.running is not None)
    bpy.data.objects.remove(made)
    tick_until(idle)
    assert "“Cube” has been deleted" in jobs.problem.failed.message and "History" in jobs.problem.failed.todo


def test_what_cannot_be_refined_says_why(enabled):
    bpy.ops.object.camera_add()
    assert not bpy.ops.dreamflow.refine.poll()
    drawn = layout.draw(ui_refine.DREAMFLOW_PT_refine)
    assert "is not a mesh" in drawn.said() and "Refine with built-in..." in drawn.buttons()
    bpy.ops.object.select_all(action="DESELECT")
    bpy.context.view_layer.objects.active = None
    assert layout.draw(ui_refine.DREAMFLOW_PT_refine) is None


def test_models(enabled, monkeypatch):
    settings = bpy.context.scene.dreamflow_refine
    monkeypatch.setattr(models, "_look", lambda name: False)
    monkeypatch.setattr(models, "known_kinds", lambda: ("mug", "duck"))
    models._seen.clear()
    settings.model = "SDXL"
    painted()
    assert not bpy.ops.dreamflow.refine.poll()
    drawn = layout.draw(ui_refine.DREAMFLOW_PT_refine)
    assert {"Refine with SDXL...", "Fetch it (6.1 GB)", "Use built-in"} <= set(
        drawn.buttons()
    ) and "model" in drawn.props
    said = layout.Fake()
    said.panel = None  # it ends Blender 4.3 in a dialog
    ui_refine.draw_dialog(said, bpy.context)
    assert "extra" not in said.props
    settings.advanced = True
    said = layout.Fake()
    ui_refine.draw_dialog(said, bpy.context)
    assert {"extra", "from_scratch", "seed"} <= set(said.props)
    assert "not on this machine" in said.said().replace("\n", " ")
    assert {"Fetch it (6.1 GB)", "Use built-in"} <= set(said.buttons())
    with pytest.raises(ValueError, match="not on this machine"):
        press(bpy.context.object)
    assert not jobs.get_store().entries()
    findings.models[:] = [{"name": "sdxl-refiner", "folder": None, "size": 6.1e9}]
    settings.prompt = "a teapot of gold"
    said = layout.Fake()
    ui_refine.draw_dialog(said, bpy.context)
    assert said.buttons() == ["Fetch it (6.1 GB)"]
    findings.models[:] = [{"name": "sdxl-refiner", "folder": "/somewhere", "size": 6.1e9}]
    assert bpy.ops.dreamflow.refine.poll()
    assert models.choose(settings) == {"prior": "sdxl-refiner", "refiner": ""}
    settings.from_scratch = True
    assert "Stable Diffusion" in models.cannot_refine_reason(settings)
    findings.models.append({"name": "sd", "folder": "/there"})
    assert models.choose(settings) == {"prior": "sd", "refiner": "sdxl-refiner"}
    findings.models.clear()
    settings.model = "BUILT_IN"
    assert "Nearest known: mug" in models.cannot_refine_reason(settings)
    bpy.ops.dreamflow.refine_built_in()
    assert settings.model == "BUILT_IN" and bpy.ops.dreamflow.refine.poll()
    settings.prompt = "A photo of a red duck with a blue beak."
    assert models.cannot_refine_reason(settings) == ""
    settings.model = "FOLDER"
    assert "file or folder" in models.cannot_refine_reason(settings)


def test_settings_reach_the_job(enabled):
    made = painted()
    settings = bpy.context.scene.dreamflow_refine
    settings.strength, settings.texture_size, settings.keep_uvs, settings.keep = 0.45, "2048", False, "IMAGE"
    settings.from_scratch, settings.seed = True, 7
    made.rotation_euler.z = 1.5707963
    bpy.context.view_layer.update()
    job, place = refine_session.make(bpy.context, made, frozen(settings), 90.0)
    assert (job.kind, job.strength, job.texture_size, job.keep_uvs, job.front) == (
        "refine",
        0.45,
        2048,
        False,
        90,
    )
    assert job.stages == ("texture", "refine") and job.seed == 7
    assert place["refine"]["keep"] == "IMAGE" and Path(job.mesh).is_file()
    assert ui_refine.first_prompt(made) == "cube"
    made["dreamflow_prompt"] = "a blue cube"
    assert ui_refine.first_prompt(made) == "a blue cube"


def test_colours_are_baked_first(enabled, monkeypatch):
    made = hard.cube()
    made.data.materials.append(hard.procedural())
    bpy.context.view_layer.update()
    said = press(made)
    assert "Checks are baked first" in said and tasks.current.name == "bake"
    with pytest.raises(ValueError, match="wait until"):
        press(made)
    tick_until(idle, 120)
    assert tasks.problem is None and jobs.problem is None
    assert made.material_slots[0].material.name == "Checks refined"
    assert not list((addon.user_folder() / "bake").iterdir())


def test_blocking(enabled):
    made = painted()
    bpy.context.view_layer.objects.active = made
    assert bpy.ops.dreamflow.refine() == {"FINISHED"}
    assert made.material_slots[0].material.name == "Paint refined"
    bpy.ops.dreamflow.discard_refined()
    enabled("fails", 0.1)
    with pytest.raises(RuntimeError, match="out of memory"):
        bpy.ops.dreamflow.refine()
    assert made.material_slots[0].material.name == "Paint"
    assert {cls.bl_idname for cls in ops_refine.CLASSES} >= {"dreamflow.refine", "dreamflow.before_after"}
