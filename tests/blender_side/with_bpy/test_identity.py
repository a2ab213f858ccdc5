"""A result goes to the object and materials that it was made for, and to no other; a copy stands for its original."""

import bpy
import pytest

from dreamflow_blender.gather import identity
from dreamflow_blender.gather.gather import gather
from dreamflow_blender.scene import decide
from dreamflow_blender.scene import refined as scene_refined
from dreamflow_blender.scene.objects import CannotImport
from tests.blender_side.with_bpy import hard
from tests.blender_side.with_bpy.walk import differences, walk
from tests.tools import refined_folder as refined


def gathered(obj, folder, **how):
    """What the job was begun with, and its result in `folder`."""
    bpy.context.view_layer.update()
    found = gather(bpy.context, obj)
    refined.deliver(folder, found.arrays, **how)
    return found.place


def apply(folder, target, active=None):
    obj = scene_refined.find_object(target, active)
    return scene_refined.apply_result(scene_refined.read(folder), target, obj, bpy.context)


def refused(folder, target, words):
    before = walk()
    with pytest.raises(CannotImport, match=words):
        apply(folder, target)
    assert differences(before, walk()) == set()


def names(obj):
    return [slot.material.name if slot.material else None for slot in obj.material_slots]


def painted(name="Cube"):
    obj = hard.cube(name)
    obj.data.materials.append(hard.painted())
    return obj


def move_slots_down(obj, first):
    """A material before the others, as the material list's buttons do it: faces keep theirs."""
    old = list(obj.data.materials)
    obj.data.materials.clear()
    for material in (first, *old):
        obj.data.materials.append(material)
    for polygon in obj.data.polygons:
        polygon.material_index += 1


def test_a_material_that_was_put_before_it_stays_what_it_is(tmp_path):
    obj = painted()
    target = gathered(obj, tmp_path)
    move_slots_down(obj, hard.plain("New", hard.RED))
    assert apply(tmp_path, target) == obj and names(obj) == ["New", "Paint refined"]
    move_slots_down(obj, hard.plain("Newer", hard.BLUE))  # and so does before / after
    decide.show_version(obj, "before")
    assert names(obj) == ["Newer", "New", "Paint"]
    decide.show_version(obj, "after")
    decide.discard(obj, bpy.context)
    assert names(obj) == ["Newer", "New", "Paint"] and "Paint refined" not in bpy.data.materials


def test_a_material_that_is_another_now_is_not_replaced(tmp_path):
    obj = painted()
    target = gathered(obj, tmp_path)
    obj.material_slots[0].material = hard.plain("Other", hard.RED)
    refused(tmp_path, target, "no longer has the material “Paint”")


def test_names_decide_nothing(tmp_path):
    obj = painted()
    target = gathered(obj, tmp_path)
    obj.name, obj.material_slots[0].material.name = "Renamed", "Other"
    bpy.data.objects["Renamed"].location.x = 3
    hard.cube("Cube").data.materials.append(hard.plain("Paint", hard.RED))
    assert apply(tmp_path, target) == obj and names(obj) == ["Other refined"]


def test_another_object_of_its_name_gets_nothing(tmp_path):
    obj = painted()
    target = gathered(obj, tmp_path)
    bpy.ops.object.delete()
    painted()
    refused(tmp_path, target, "“Cube” has been deleted")


def test_uvs_that_have_changed(tmp_path):
    obj = painted()
    target = gathered(obj, tmp_path)
    obj.data.uv_layers[0].uv[0].vector.x += 0.25
    refused(tmp_path, target, "UV map “UVMap” of Cube has changed")


def test_in_a_file_that_was_opened_later(tmp_path):
    obj = painted()
    hard.cube("Other").scale.x = 2
    target = gathered(obj, tmp_path / "job")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "file.blend"))
    obj.name = "Renamed"
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "file.blend"))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    identity.file_opened()
    refused(tmp_path / "job", target, "No object in this file has the faces")
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "file.blend"))
    identity.file_opened()
    obj = bpy.data.objects["Renamed"]
    twin = bpy.data.objects.new("Cube", obj.data)
    bpy.context.scene.collection.objects.link(twin)
    refused(tmp_path / "job", target, "2 objects have .* select the right one")
    assert apply(tmp_path / "job", target, active=obj) == obj and names(obj) == ["Paint refined"]
    assert names(twin) == ["Paint"]


def rigged():
    """A mesh without UVs whose modifiers make faces, in a collection, with a parent and all that goes with it."""
    bpy.ops.object.armature_add()
    rig = bpy.context.object
    obj = hard.cube("Crate", uv=False)
    obj.data.materials.append(hard.plain("Red", hard.RED))
    obj.parent = rig
    obj["price"] = 7
    obj.constraints.new("LIMIT_SCALE")
    obj.modifiers.new("Armature", "ARMATURE").object = rig
    obj.modifiers.new("Subdivision", "SUBSURF")
    kit = bpy.data.collections.new("Kit")
    bpy.context.scene.collection.children.link(kit)
    kit.objects.link(obj)
    for collection in [c for c in obj.users_collection if c != kit]:
        collection.objects.unlink(obj)
    rig.location.x = 2
    bpy.context.view_layer.update()
    bpy.context.view_layer.objects.active = obj
    obj.select_set(True)
    return obj, rig, kit


def test_a_copy_has_what_its_original_has_and_stands_for_it_in_renders(tmp_path):
    obj, rig, kit = rigged()
    target = gathered(obj, tmp_path, new_uvs=True)
    before = walk()
    copy = apply(tmp_path, target)
    bpy.context.view_layer.update()
    assert copy != obj and obj.hide_render and obj.hide_get() and not copy.hide_render
    assert copy.parent == rig and copy["price"] == 7 and len(copy.constraints) == 1
    assert tuple(copy.users_collection) == (kit,) and not copy.modifiers
    assert copy.matrix_world == obj.matrix_world and len(copy.data.polygons) == 24
    assert names(obj) == ["Red"] and names(copy) == ["Red refined"]
    assert decide.discard(copy, bpy.context) == obj
    bpy.context.view_layer.update()
    assert differences(before, walk()) == set()


def test_after_apply_only_the_copy_is_rendered(tmp_path):
    obj, _, _ = rigged()
    copy = apply(tmp_path, gathered(obj, tmp_path, new_uvs=True))
    obj.name = "Renamed"
    decide.apply(copy)
    assert obj.hide_render and obj.hide_get() and not copy.hide_render and copy["dreamflow_original"] == obj


def test_an_original_that_was_hidden_from_renders_stays_so(tmp_path):
    obj, _, _ = rigged()
    obj.hide_render = True
    copy = apply(tmp_path, gathered(obj, tmp_path, new_uvs=True))
    obj.name = "Renamed"  # found by what it is
    decide.discard(copy, bpy.context)
    assert obj.hide_render and not obj.hide_get()


def test_a_linked_original_is_not_rendered_in_the_saved_file_either(tmp_path):
    linked = hard.linked(tmp_path / "lib.blend")
    copy = apply(tmp_path / "job", gathered(linked, tmp_path / "job"))
    assert [o.name for o in bpy.context.scene.objects] == [copy.name]
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "file.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "file.blend"))
    (copy,) = bpy.context.scene.objects
    original = decide.discard(copy, bpy.context)
    assert original.library is not None and list(bpy.context.scene.objects) == [original]


def test_in_a_scene_that_was_left(tmp_path):
    obj, _, kit = rigged()
    target = gathered(obj, tmp_path, new_uvs=True)
    home, other = bpy.context.scene, bpy.data.scenes.new("Other")
    with bpy.context.temp_override(scene=other, view_layer=other.view_layers[0]):
        copy = apply(tmp_path, target)
    assert list(copy.users_collection) == [kit] and list(copy.users_scene) == [home]
    assert obj.hide_get(view_layer=home.view_layers[0]) and not other.objects


def test_what_is_in_edit_mode_is_refused_before_anything_is_changed(tmp_path):
    obj = hard.cube(uv=False)
    target = gathered(obj, tmp_path, new_uvs=True)
    bpy.ops.object.mode_set(mode="EDIT")
    with pytest.raises(CannotImport, match="Object Mode"):
        apply(tmp_path, target)
    bpy.ops.object.mode_set(mode="OBJECT")
    assert not obj.data.uv_layers
