"""A refined texture comes to its object and goes again: only what is said changes, and Discard takes it all back."""

import bpy
import numpy as np
import pytest

from dreamflow_blender.gather.gather import gather
from dreamflow_blender.scene import decide
from dreamflow_blender.scene import refined as scene_refined
from dreamflow_blender.scene.objects import CannotImport
from tests.blender_side.with_bpy import hard
from tests.blender_side.with_bpy.walk import differences, walk
from tests.tools import refined_folder as refined


def settle():
    bpy.context.view_layer.update()


def put(made, folder, keep="NEW", **how):
    """Gathered, delivered, put on the object: (the object that shows it, the walk before, what was gathered)."""
    settle()
    found = gather(bpy.context, made, keep=keep)
    refined.deliver(folder, found.arrays, **how)
    before = walk()
    shown = scene_refined.apply_result(scene_refined.read(folder), found.place, made, bpy.context)
    settle()
    return shown, before, found


def uv_of(made, name):
    return np.array([corner.vector for corner in made.data.uv_layers[name].uv], np.float32)


def base_colour(material):
    (link,) = hard.principled(material.node_tree).inputs["Base Color"].links
    return link.from_node


def discarded(shown, before):
    back = decide.discard(shown, bpy.context)
    settle()
    assert differences(before, walk()) == set()
    return back


def test_a_new_material_beside_the_old(tmp_path):
    made = hard.cube()
    old = hard.painted()
    hard.principled(old.node_tree).inputs["Roughness"].default_value = 0.123
    made.data.materials.append(old)
    bystander = hard.cube("Other")
    bystander.data.materials.append(old)
    shown, before, _ = put(made, tmp_path)
    assert shown == made
    new = made.material_slots[0].material
    node = base_colour(new)
    assert node.image.packed_file and tuple(node.image.size) == (8, 8)
    assert node.inputs["Vector"].links[0].from_node.uv_map == "UVMap"
    assert hard.principled(new.node_tree).inputs["Roughness"].default_value == pytest.approx(0.123)
    assert old.use_fake_user and not new.use_fake_user and bystander.material_slots[0].material == old
    changed = differences(before, walk())
    assert {c for c in changed if not c.startswith("+")} == {
        "objects/Cube.material_slots", "objects/Cube.active_material", "objects/Cube.custom",
        "meshes/Cube.materials", "materials/Paint.use_fake_user",
    }  # fmt: skip
    assert {c for c in changed if c.startswith("+")} == {
        "+materials/Paint refined",
        "+images/Cube_refined.png",
    }
    decide.show_version(made, "before")
    assert made.material_slots[0].material == old
    decide.show_version(made, "after")
    assert made.material_slots[0].material == new
    with pytest.raises(CannotImport, match="Apply or Discard"):
        scene_refined.apply_result(scene_refined.read(tmp_path), {}, made, bpy.context)
    discarded(shown, before)


def test_apply_keeps_the_old_one_in_the_file(tmp_path):
    made = hard.cube()
    made.data.materials.append(hard.painted())
    shown, before, _ = put(made, tmp_path)
    decide.show_version(shown, "before")
    decide.apply(shown)
    changed = differences(before, walk())
    assert "objects/Cube.custom" not in changed and decide.state_of(made) is None
    assert made.material_slots[0].material.name == "Paint refined"
    assert bpy.data.materials["Paint"].use_fake_user and bpy.data.materials["Paint"].users == 1


def test_a_new_image_in_the_old_material(tmp_path):
    made = hard.cube()
    old = hard.painted()
    made.data.materials.append(old)
    shown, before, _ = put(made, tmp_path, keep="IMAGE")
    assert made.material_slots[0].material == old and base_colour(old).image.name == "Cube_refined.png"
    assert {c for c in differences(before, walk()) if c.startswith("+")} == {"+images/Cube_refined.png"}
    decide.show_version(made, "before")
    assert base_colour(old).image.name == "paint"
    decide.show_version(made, "after")
    assert base_colour(old).image.name == "Cube_refined.png"
    discarded(shown, before)


def test_a_plain_value_gets_an_image_and_back(tmp_path):
    made = hard.cube()
    made.data.materials.append(hard.plain("Red", hard.RED))
    shown, before, _ = put(made, tmp_path, keep="IMAGE")
    assert base_colour(made.material_slots[0].material).image
    discarded(shown, before)


@pytest.mark.parametrize("uv", [True, False])
def test_new_uvs_beside_the_old(tmp_path, uv):
    made = hard.cube(uv=uv)
    shown, before, _ = put(made, tmp_path, new_uvs=True)
    names = [layer.name for layer in made.data.uv_layers]
    assert names == (["UVMap", "DreamFlow"] if uv else ["DreamFlow"])
    assert (
        base_colour(made.material_slots[0].material).inputs["Vector"].links[0].from_node.uv_map == "DreamFlow"
    )
    if uv:
        assert made.data.uv_layers.active.name == "UVMap" and made.data.uv_layers[0].active_render
    delivered = scene_refined.read(tmp_path).arrays
    made.data.calc_loop_triangles()
    loops = np.array([t.loops for t in made.data.loop_triangles])
    assert np.array_equal(uv_of(made, "DreamFlow")[loops], delivered.v_tex[delivered.t_tex_idx])
    assert len(made.material_slots) == 1
    discarded(shown, before)


def test_new_uvs_find_their_corners_under_a_pose_and_a_mirroring_scale(tmp_path):
    made = hard.posed()
    made.scale = (-1, 1, 1)
    shown, before, _ = put(made, tmp_path, new_uvs=True)
    vertex = np.array([loop.vertex_index for loop in made.data.loops])
    polygon = np.repeat(range(6), 4)
    key = polygon.astype(np.int64) * (8 + 1) + vertex
    wanted = np.stack((key % 97 / 97, key % 89 / 89), 1)
    assert np.allclose(uv_of(made, "DreamFlow"), wanted)
    discarded(shown, before)


def test_new_uvs_where_a_modifier_makes_faces_come_with_a_copy(tmp_path):
    made = hard.cube()
    made.data.materials.append(hard.painted())
    made.modifiers.new("Array", "ARRAY")
    shown, before, _ = put(made, tmp_path, new_uvs=True)
    assert shown != made and not shown.modifiers and len(shown.data.polygons) == 12
    assert made.hide_get() and made.material_slots[0].material.name == "Paint"
    assert shown.matrix_world == made.matrix_world
    decide.show_version(shown, "before")
    assert discarded(shown, before) == made


def test_own_uvs_where_a_modifier_makes_faces(tmp_path):
    made = hard.cube()
    made.data.materials.append(hard.painted())
    made.modifiers.new("Array", "ARRAY")
    shown, before, _ = put(made, tmp_path)
    assert shown == made and made.material_slots[0].material.name == "Paint refined"
    discarded(shown, before)


def test_five_materials_and_a_texture_each(tmp_path):
    made = hard.cube()
    old = [
        hard.painted(),
        hard.plain("Red", hard.RED),
        None,
        hard.by_attribute(),
        hard.plain("Blue", hard.BLUE),
    ]
    made.data.color_attributes.new("Col", "BYTE_COLOR", "POINT")
    for material in old:
        made.data.materials.append(material)
    for number, polygon in enumerate(made.data.polygons):
        polygon.material_index = number % 5
    shown, before, _ = put(made, tmp_path, split=True)
    images = [base_colour(slot.material).image for slot in made.material_slots]
    assert len({image.name for image in images}) == 5
    assert [slot.material.name for slot in made.material_slots][1] == "Red refined"
    discarded(shown, before)


def test_a_mesh_that_others_show_keeps_its_material_for_them(tmp_path):
    made = hard.cube()
    made.data.materials.append(hard.painted())
    twin = bpy.data.objects.new("Twin", made.data)
    bpy.context.scene.collection.objects.link(twin)
    shown, before, _ = put(made, tmp_path)
    assert twin.material_slots[0].material.name == "Paint"
    assert made.material_slots[0].material.name == "Paint refined" and made.material_slots[0].link == "OBJECT"
    discarded(shown, before)


def test_a_linked_object_gets_a_copy(tmp_path):
    linked = hard.linked(tmp_path / "lib.blend")
    shown, before, _ = put(linked, tmp_path / "job")
    assert shown.library is None and shown.name == "Linked refined" and not linked.users_scene
    assert shown.material_slots[0].material.library is None
    assert discarded(shown, before) == linked


def test_a_library_override_keeps_its_linked_mesh(tmp_path):
    linked = hard.linked(tmp_path / "lib.blend")
    override = linked.override_create(remap_local_usages=True)
    settle()
    shown, before, found = put(override, tmp_path / "job")
    assert not found.place["copy"] and shown == override and override.data.library is not None
    assert override.material_slots[0].link == "OBJECT" and override.material_slots[0].material.library is None
    decide.show_version(shown, "before")
    assert override.material_slots[0].material.library is not None
    discarded(shown, before)


def test_a_procedural_material_becomes_a_plain_one(tmp_path):
    made = hard.cube()
    made.data.materials.append(hard.plain("Glass", hard.RED))
    tree = made.material_slots[0].material.node_tree
    glass = tree.nodes.new("ShaderNodeBsdfGlass")
    settle()
    found = gather(bpy.context, made)
    tree.links.new(glass.outputs[0], tree.get_output_node("CYCLES").inputs["Surface"])
    refined.deliver(tmp_path, found.arrays)
    before = walk()
    scene_refined.apply_result(
        scene_refined.read(tmp_path), {**found.place, "keep": "IMAGE"}, made, bpy.context
    )
    assert base_colour(made.material_slots[0].material).image
    discarded(made, before)


def test_one_undo_step(tmp_path):
    made = hard.cube()
    made.data.materials.append(hard.painted())
    settle()
    bpy.ops.ed.undo_push(message="before")
    _shown, before, _ = put(made, tmp_path, new_uvs=True)
    bpy.ops.ed.undo_push(message="Refine")
    bpy.ops.ed.undo()
    settle()
    assert differences(before, walk()) == set()
    bpy.ops.ed.redo()
    made = bpy.data.objects["Cube"]
    assert made.material_slots[0].material.name == "Paint refined"
    decide.show_version(made, "before")
    assert made.material_slots[0].material.name == "Paint"
    discarded(made, before)


def test_what_does_not_fit_any_more_is_refused_whole(tmp_path):
    made = hard.cube()
    made.data.materials.append(hard.painted())
    settle()
    found = gather(bpy.context, made)
    refined.deliver(tmp_path, found.arrays, new_uvs=True)
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.mesh.select_all(action="SELECT")
    bpy.ops.mesh.subdivide()
    bpy.ops.object.mode_set(mode="OBJECT")
    before = walk()
    with pytest.raises(CannotImport, match="have changed"):
        scene_refined.apply_result(scene_refined.read(tmp_path), found.place, made, bpy.context)
    assert differences(before, walk()) == set()
    (tmp_path / "mesh.npz").write_bytes(b"x")
    with pytest.raises(CannotImport, match="cannot be read"):
        scene_refined.read(tmp_path)
    with pytest.raises(CannotImport, match="no result"):
        scene_refined.read(tmp_path / "nowhere")


def test_eight_uv_maps_are_all_that_there_can_be(tmp_path):
    made = hard.cube()
    for number in range(7):
        made.data.uv_layers.new(name=f"x{number}")
    made.data.update_tag()
    settle()
    found = gather(bpy.context, made)
    refined.deliver(tmp_path, found.arrays, new_uvs=True)
    with pytest.raises(CannotImport, match="eight UV maps"):
        scene_refined.apply_result(scene_refined.read(tmp_path), found.place, made, bpy.context)
    assert len(made.data.uv_layers) == 8 and not len(made.material_slots) and not bpy.data.materials


def test_found_under_another_name(tmp_path):
    made = hard.cube("One")
    settle()
    target = gather(bpy.context, made).place
    made.name = "Two"
    hard.cube("One")
    assert scene_refined.find_object(target, None) == made
    bpy.data.objects.remove(made)
    with pytest.raises(CannotImport, match="“One” has been deleted"):  # the other is not it
        scene_refined.find_object(target, None)
