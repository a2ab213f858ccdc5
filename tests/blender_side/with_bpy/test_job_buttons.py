"""The buttons of a job and its result: less memory, mark as asset, another seed."""

from types import ModuleType

import addon_utils
import bpy
import pytest

from dreamflow_blender.client import command
from dreamflow_blender.ops import game
from dreamflow_blender.ops.generate import add_to_queue
from dreamflow_blender.scene import pictures
from dreamflow_blender.session import jobs, tasks
from dreamflow_blender.settings import addon
from dreamflow_blender.ui import history, sidebar
from tests.blender_side.with_bpy import layout
from tests.blender_side.with_bpy.user import generate, idle, posix, press, refused, set_up, tick_until, user

__all__ = ["user"]  # a fixture


@posix
def test_retry_with_less_memory(user):
    set_up(user, "good")
    generate("a red mug", "geometry.levels=3")
    tick_until(lambda: jobs.problem is not None)
    operators = layout.draw(sidebar.DREAMFLOW_PT_main).operators
    (retry,) = (chosen for name, _, chosen in operators if name == "dreamflow.retry_smaller")
    assert retry.stage == "geometry"
    with pytest.raises(RuntimeError, match="cannot be made smaller"):  # a stage whose size nobody wrote down
        bpy.ops.dreamflow.retry_smaller(job_id=retry.job_id, stage="nerf")
    assert bpy.ops.dreamflow.retry_smaller(job_id=retry.job_id, stage=retry.stage) == {"FINISHED"}
    assert jobs.problem is None
    tick_until(idle)
    newer, older = jobs.get_store().history()
    assert (newer.state, older.state) == ("finished", "failed") and newer.folder != older.folder
    assert dict(newer.job.overrides) == {"geometry.levels": 3, "geometry.size": 256}
    assert newer.job.seed == older.job.seed and "Red mug" in bpy.data.objects


@posix
def test_mark_as_asset(user, tmp_path, monkeypatch):
    set_up(user, "good")
    bpy.ops.mesh.primitive_cube_add()
    assert "Select an object made by DreamFlow" in refused("mark_asset")
    assert layout.draw(sidebar.DREAMFLOW_PT_selected) is None
    bpy.data.objects.remove(bpy.context.object)
    generate("a red mug with a blue handle")
    tick_until(idle)
    made = bpy.context.object
    assert "Mark as asset" in layout.draw(sidebar.DREAMFLOW_PT_selected).buttons() and made.asset_data is None
    for _ in range(2):
        assert bpy.ops.dreamflow.mark_asset() == {"FINISHED"}
        assert [tag.name for tag in made.asset_data.tags] == ["DreamFlow", "red", "mug", "blue", "handle"]
        assert made.asset_data.description == "a red mug with a blue handle"
        assert tuple(made.preview.image_size) == (64, 64)
    assert "Update asset" in layout.draw(sidebar.DREAMFLOW_PT_selected).buttons()

    made.asset_clear()  # a copy goes into the library, and this file has no second asset of it
    preferences = addon.preferences()
    preferences.asset_author, preferences.asset_license = "Zoë", "CC0"
    bpy.ops.preferences.asset_library_add(directory=str(tmp_path))
    library = bpy.context.preferences.filepaths.asset_libraries[-1].name
    try:
        assert bpy.ops.dreamflow.mark_asset(library=library) == {"FINISHED"} and made.asset_data is None
    finally:
        bpy.ops.preferences.asset_library_remove(
            index=len(bpy.context.preferences.filepaths.asset_libraries) - 1
        )
    with bpy.data.libraries.load(
        str(tmp_path / f"{bpy.path.clean_name(made.name)}.blend"), assets_only=True
    ) as (there, here):
        here.objects = there.objects
    assert (here.objects[0].asset_data.author, here.objects[0].asset_data.license) == ("Zoë", "CC0")
    bpy.data.objects.remove(here.objects[0])
    assert bpy.ops.dreamflow.mark_asset() == {"FINISHED"} and made.asset_data.author == "Zoë"

    (past,) = jobs.get_store().history()
    bpy.ops.dreamflow.import_result(job_id=past.job.id)
    (tmp_path / "preview.png").write_bytes((past.folder / "preview.png").read_bytes())
    monkeypatch.chdir(tmp_path)  # where Blender was started, beside somebody else's picture
    bpy.ops.dreamflow.delete_job(job_id=past.job.id)
    assert bpy.ops.dreamflow.mark_asset() == {"FINISHED"} and bpy.context.object != made
    assert bpy.context.object.asset_data and bpy.context.object.preview is None


@posix
def test_candidates_wait_on_the_disk_until_one_is_chosen(user):
    set_up(user, "good")
    bpy.context.scene.dreamflow.candidates, bpy.context.scene.dreamflow.extra = "4", "geometry.size=64"
    add_to_queue(bpy.context)
    tick_until(idle)
    (group,) = jobs.get_store().to_choose()
    assert [entry.job.seed for entry in group] == [42, 43, 44, 45] and not jobs.get_store().history()
    assert len({tuple(entry.place["location"]) for entry in group}) == 1 and not bpy.data.objects
    jobs.store.close()
    jobs.store = None  # Blender is closed, and opened again
    drawn = layout.draw(sidebar.DREAMFLOW_PT_main)
    tick_until(lambda: not pictures.wanted())
    assert len(drawn.icons) == 4 and all(entry.job.id in pictures._icons for entry in group)
    _, second, *_ = (chosen for name, _, chosen in drawn.operators if name == "dreamflow.choose_candidate")
    assert bpy.ops.dreamflow.choose_candidate(job_id=second.job_id) == {"FINISHED"}
    with pytest.raises(RuntimeError, match="not waiting to be chosen"):
        bpy.ops.dreamflow.choose_candidate(job_id=second.job_id)
    tick_until(idle)
    (made,) = jobs.get_store().history()
    assert made.state == "finished" and made.job.seed == 43 and "Red mug" in bpy.data.objects
    (rest,) = jobs.get_store().to_choose()
    assert [entry.job.seed for entry in rest] == [42, 44, 45]
    assert bpy.ops.dreamflow.leave_candidates(group=rest[0].candidate_of) == {"FINISHED"}
    assert not jobs.get_store().to_choose() and not jobs.get_store().to_offer()
    left = next(entry for entry in jobs.get_store().history() if entry.state == "cancelled")
    assert history.what_became(left).startswith("candidate, not chosen") and left.can_resume
    assert bpy.ops.dreamflow.resume_job(job_id=left.job.id) == {
        "FINISHED"
    }  # later all the same, and to its end
    tick_until(idle)
    assert jobs.get_store().find(left.job.id).state == "finished"


@posix
def test_more_like_this_begins_with_the_seed_that_the_other_began_with(user):
    set_up(user, "good")
    generate("a red mug")
    tick_until(idle)
    (first,) = jobs.get_store().history()
    drawn = layout.draw(history.DREAMFLOW_PT_history)
    (button,) = (chosen for name, _, chosen in drawn.operators if name == "dreamflow.more_like_this")
    assert bpy.ops.dreamflow.more_like_this(job_id=button.job_id) == {"FINISHED"}
    tick_until(idle)
    second, _ = jobs.get_store().history()
    assert second.state == "finished" and second.folder != first.folder
    assert (second.job.like, second.job.seed != 42) == (42, True)
    assert bpy.ops.dreamflow.more_like_this(job_id=second.job.id) == {
        "FINISHED"
    }  # of what is like it already
    tick_until(idle)
    assert jobs.get_store().history()[0].job.like == 42
    (second.folder / "job.json").unlink()
    with pytest.raises(RuntimeError, match="no longer exist"):
        bpy.ops.dreamflow.more_like_this(job_id=second.job.id)


@posix
def test_a_game_mesh_is_asked_for_and_comes_in_beside_its_object(user, tmp_path, monkeypatch):
    """The backend's own baking has tests of its own (tests/game); here its answer is a GLB that Blender wrote."""
    set_up(user, "good")
    generate("a red mug")
    tick_until(idle)
    made = bpy.context.object
    assert "Make ready" in layout.draw(sidebar.DREAMFLOW_PT_selected).buttons()
    bpy.ops.mesh.primitive_cube_add(size=0.5)
    assert "Select an object made by DreamFlow" in refused("deliver")
    light = tmp_path / "a-red-mug.glb"
    bpy.ops.export_scene.gltf(filepath=str(light), use_selection=True)
    bpy.data.objects.remove(bpy.context.object)
    made.location, made.dimensions = (2, 3, 0), (1, 1, 0.25)
    bpy.context.view_layer.update()
    bpy.context.view_layer.objects.active = made
    asked = []

    def answer(python, code, root, arguments, stop, **more):
        asked.append(list(arguments))
        yield {"files": [str(tmp_path / "a.png"), str(light)], "faces": [12]}

    monkeypatch.setattr(command, "run_backend", answer)
    press("deliver", faces=800, texture_size="512")
    (words,) = asked
    (entry,) = jobs.get_store().history()
    assert words[:4] == ["export", str(entry.folder), "--deliver", "game"]
    assert words[words.index("--faces") + 1] == "800" and words[words.index("--texture-size") + 1] == "512"
    assert float(words[words.index("--height") + 1]) == pytest.approx(0.25)
    (new,) = (obj for obj in bpy.data.objects if obj != made)
    assert tuple(new.location) == pytest.approx((2 + 1.3, 3, 0)) and len(new.data.polygons) in (6, 12)
    assert new.users_collection == made.users_collection
    assert new.name == f"{made.name} game" and new["dreamflow_job"] == entry.job.id
    bpy.context.view_layer.objects.active = new
    assert {"Mark as asset", "Make ready"} <= set(layout.draw(sidebar.DREAMFLOW_PT_selected).buttons())
    comes_in_as_quads_with_the_maps_of_the_glb(made, light)
    goes_to_the_printer(made, asked)
    lands_beside_its_object_alone(made)
    with monkeypatch.context() as without_window:  # a script is told FINISHED when the mesh is there
        without_window.setattr(jobs, "has_timer", lambda: False)
        before = set(bpy.data.objects)
        bpy.context.view_layer.objects.active = made
        assert bpy.ops.dreamflow.deliver() == {"FINISHED"} and tasks.current is None
        assert len(set(bpy.data.objects) - before) == 1

        def fails(*_arguments, **_variables):
            raise command.CommandError("The disk is full.", "Free some space.")
            yield

        without_window.setattr(command, "run_backend", fails)
        bpy.context.view_layer.objects.active = made
        assert "The disk is full. Free some space." in refused("deliver")
        assert bpy.ops.dreamflow.roll_seed() == {"FINISHED"}  # whatever failed before it
        tasks.dismiss()
    bpy.ops.dreamflow.delete_job(job_id=entry.job.id)
    bpy.context.view_layer.objects.active = made
    assert "no longer exist" in refused("deliver")


def comes_in_as_quads_with_the_maps_of_the_glb(made, light):
    for one in bpy.context.selected_objects:
        one.select_set(False)
    bpy.ops.mesh.primitive_cube_add(size=0.5, location=(0, 0, 0))
    cube = bpy.context.object
    for vertex in cube.data.vertices:
        vertex.co.z = 2 * vertex.co.z + 0.3
    cube.data.materials.append(bpy.data.materials.new("maps"))
    bpy.ops.export_scene.gltf(filepath=str(light.with_name("quads.glb")), use_selection=True)
    bpy.ops.wm.obj_export(filepath=str(light.with_name("quads.obj")), export_selected_objects=True)
    wanted = bounds([v.co for v in cube.data.vertices])
    bpy.data.objects.remove(cube)
    before, materials = set(bpy.data.objects), len(bpy.data.materials)
    game.add_game_mesh(
        made.session_uid, [{"files": [str(light.with_name(f"quads.{end}")) for end in ("obj", "glb")]}]
    )
    (new,) = set(bpy.data.objects) - before
    assert [len(face.vertices) for face in new.data.polygons] == [4] * 6 and new.name == f"{made.name} quads"
    assert new.data.materials[0].name.startswith("maps") and len(bpy.data.materials) == materials + 1
    corners = [new.matrix_world @ v.co - new.location for v in new.data.vertices]
    assert bounds(corners) == pytest.approx(wanted, abs=1e-3)
    bpy.data.objects.remove(new)


def bounds(corners):
    return [pick(corner[axis] for corner in corners) for pick in (min, max) for axis in range(3)]


def goes_to_the_printer(made, asked):
    bpy.context.view_layer.objects.active = made
    before = set(bpy.data.objects)
    press("deliver", profile="print", height=0.08, flat_base=True)
    assert asked[-1][2:] == ["--deliver", "print", "--json", "--height", asked[-1][6], "--flat-base"]
    assert float(asked[-1][6]) == pytest.approx(0.08) and set(bpy.data.objects) == before
    press("deliver", profile="quads", quads=4000, origin="middle")
    assert asked[-1][3] == "quads" and asked[-1][asked[-1].index("--faces") + 1] == "4000"
    assert asked[-1][asked[-1].index("--origin") + 1] == "middle"
    bpy.data.objects.remove((set(bpy.data.objects) - before).pop())
    bpy.context.view_layer.objects.active = made
    press("deliver", profile="detailed", format="obj", up="z", size=0.5, origin="centre")
    words = dict(zip(asked[-1][5::2], asked[-1][6::2], strict=True))
    assert asked[-1][2:5] == ["--deliver", "detailed", "--json"] and set(bpy.data.objects) == before
    assert words.pop("--blender") and words == {
        "--height": "0.5", "--origin": "centre", "--format": "obj", "--up": "z",
    }  # fmt: skip
    press("deliver", profile="detailed", format="glb", up="z")  # which it cannot have
    assert "--up" not in asked[-1]
    press("deliver", profile="detailed", format="ply")
    assert "--up" not in asked[-1] and float(asked[-1][6]) == pytest.approx(0.25)


def lands_beside_its_object_alone(made):
    """In Edit Mode it waits; from another scene it comes into its object's; without its object it is nowhere."""
    bpy.context.view_layer.objects.active = made
    bpy.ops.dreamflow.deliver()
    bpy.ops.object.mode_set(mode="EDIT")
    before = set(bpy.data.objects)
    tick_until(lambda: tasks.current.held == "Finished. Will be imported after: Object Mode")
    assert "Import now" in layout.draw(sidebar.DREAMFLOW_PT_main).buttons()
    assert bpy.ops.dreamflow.import_now() == {"FINISHED"} and bpy.context.mode == "OBJECT"
    other, scene = bpy.data.scenes.new("other"), bpy.context.scene
    bpy.context.window.scene = other
    tick_until(lambda: tasks.current is None)
    (new,) = set(bpy.data.objects) - before
    assert new.users_collection == made.users_collection and not other.objects
    bpy.context.window.scene = scene
    game.add_game_mesh(made.session_uid + 1_000_000, [{"files": ["light.glb"]}])  # as in another file
    assert "not in this file" in jobs.problem.failed.message and "light.glb" in jobs.problem.failed.todo
    assert set(bpy.data.objects) - before == {new}
    jobs.problem = None
    bpy.data.objects.remove(new)
    bpy.data.scenes.remove(other)


def test_another_seed_and_the_way_to_the_preferences(user, monkeypatch):
    settings, seeds = bpy.context.scene.dreamflow, set()
    for _ in range(4):
        assert bpy.ops.dreamflow.roll_seed() == {"FINISHED"}
        seeds.add(settings.seed)
    assert len(seeds) > 1 and all(0 <= seed < 100_000 for seed in seeds)
    with pytest.raises(RuntimeError, match="no log yet"):  # before Set up
        bpy.ops.dreamflow.open_log()
    assert not bpy.ops.dreamflow.cancel_task.poll()
    module = ModuleType(addon.NAME)
    module.bl_info = {"name": "Ours", "show_expanded": False}
    monkeypatch.setattr(addon_utils, "modules_refresh", lambda *_, **__: None)
    monkeypatch.setitem(addon_utils.addons_fake_modules, addon.NAME, module)
    assert "userpref_show" in refused("open_preferences")  # all but the window, which there is none of
    assert bpy.context.window_manager.addon_search == "Ours"
    assert bpy.context.preferences.active_section == "ADDONS"
