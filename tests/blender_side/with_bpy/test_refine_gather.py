"""Difficult objects: each is read as it stands, or refused with a clear word; the user's file stays what it is."""

import os

import bpy
import numpy as np
import pytest

from dreamflow_blender.gather.gather import gather, needs_bake
from dreamflow_blender.gather.material import CannotRefine
from dreamflow_blender.gather.object import front_of
from tests.blender_side.with_bpy import hard
from tests.blender_side.with_bpy.walk import differences, walk


def read(made, **how):
    """What is gathered, and nothing of the file has changed by it."""
    if made is not None and made.data is not None and made.mode == "OBJECT":
        made.data.update_tag()  # as every operator does; scripts may forget
    bpy.context.view_layer.update()
    before = walk()
    try:
        return gather(bpy.context, made, **how)
    finally:
        assert differences(before, walk()) == set()


def refused(made, words, **how):
    with pytest.raises(CannotRefine, match=words):
        read(made, **how)


def outward(arrays):
    """Whether all faces of something convex round its middle look outwards."""
    a, b, c = (arrays.v_pos[arrays.t_pos_idx[:, k]] for k in range(3))
    middle = arrays.v_pos.mean(0)
    return bool(((np.cross(b - a, c - a) * (a + b + c - 3 * middle)).sum(1) > 0).all())


def test_a_painted_cube():
    made = hard.cube()
    made.data.materials.append(hard.painted())
    found = read(made)
    arrays, place = found.arrays, found.place
    assert arrays.t_pos_idx.shape == (12, 3) and arrays.polygon.tolist() == np.repeat(range(6), 2).tolist()
    assert outward(arrays) and np.abs(arrays.v_pos).max() == 1
    assert np.array_equal(arrays.images[0], hard.pixels()) and arrays.image.tolist() == [0]
    assert (arrays.weight == 1).all() and not len(arrays.colour) and not len(arrays.source_uv)
    uv = np.array([d.uv for d in made.data.uv_layers[0].data], np.float32)
    loops = {tuple(x) for x in np.round(uv, 5).tolist()}
    assert {tuple(x) for x in np.round(arrays.uv.reshape(-1, 2), 5).tolist()} == loops
    assert place["uv"] == ["UVMap"] and place["own_loops"] and place["slots"] == [[0]] and not found.notes


def test_nothing_but_a_cube():
    arrays = read(hard.cube(uv=False)).arrays
    assert (
        np.allclose(arrays.base, (0.8, 0.8, 0.8, 1)) and arrays.image.tolist() == [-1] and not len(arrays.uv)
    )


def test_plain_values_are_srgb():
    made = hard.cube()
    made.data.materials.append(hard.plain("Red", (0.5, 0.2140, 0.0, 1.0)))
    assert np.allclose(read(made).arrays.base[0], (0.7354, 0.5, 0.0, 1.0), atol=1e-3)


def test_negative_and_uneven_scale_under_a_turned_parent():
    parent = bpy.data.objects.new("Parent", None)
    bpy.context.scene.collection.objects.link(parent)
    parent.rotation_euler = (0, 0, np.pi / 2)
    parent.location = (400, 0, 0)
    made = hard.cube()
    made.parent, made.scale = parent, (-2, 1, 3)
    arrays = read(made).arrays
    assert outward(arrays)
    assert np.allclose(np.ptp(arrays.v_pos, axis=0), (2, 4, 6), atol=1e-5)  # turned: x is y
    assert np.abs(arrays.v_pos).max() == pytest.approx(3, abs=1e-5)  # from its own origin, not the world's


def test_mirrored_by_a_modifier():
    made = hard.cube()
    made.data.materials.append(hard.painted())
    for vertex in made.data.vertices:
        vertex.co.x = max(vertex.co.x, 0)
    made.modifiers.new("Mirror", "MIRROR").use_clip = True
    found = read(made)
    assert np.allclose(np.ptp(found.arrays.v_pos, axis=0), 2) and not found.place["own_loops"]
    assert any("share" in note for note in found.notes)


def test_subdivided_and_shape_keys():
    made = hard.cube()
    made.shape_key_add(name="Basis")
    key = made.shape_key_add(name="Up")
    for point in key.data:
        point.co.z += 5
    key.value = 1.0
    made.modifiers.new("Subdivision", "SUBSURF").levels = 1
    arrays = read(made).arrays
    assert len(arrays.t_pos_idx) == 48 and arrays.v_pos[:, 2].min() > 4


def test_posed_by_an_armature():
    found = read(hard.posed())
    assert np.allclose(found.arrays.v_pos[:, 2].mean(), 1, atol=1e-5)
    assert found.place["own_loops"]


def test_five_materials_in_seven_slots():
    made = hard.cube()
    paint = hard.painted()
    red, blue, more = hard.plain("Red", hard.RED), hard.plain("Blue", hard.BLUE), hard.plain("x", hard.RED)
    for material in (paint, red, paint, blue, None, None, more):
        made.data.materials.append(material)
    for number, polygon in enumerate(made.data.polygons):
        polygon.material_index = (0, 1, 2, 3, 4, 40)[number]  # the last one is beyond all slots
    found = read(made)
    assert found.place["names"] == ["Paint", "Red", "Blue", "", "x"]
    assert found.place["slots"] == [[0, 2], [1], [3], [4, 5], [6]]
    assert found.arrays.material[::2].tolist() == [0, 1, 0, 2, 3, 4]
    assert found.arrays.image.tolist() == [0, -1, -1, -1, -1]


def test_two_uv_maps_and_the_image_on_the_second():
    made = hard.cube()
    layer = made.data.uv_layers.new(name="Other")
    uv = np.arange(48, dtype=np.float32) / 48
    layer.uv.foreach_set("vector", uv)
    made.data.materials.append(hard.painted(uv_map="Other"))
    found = read(made)
    assert found.place["uv"] == ["Other"]
    assert np.isin(np.round(found.arrays.uv, 6), np.round(uv, 6)).all()
    made.material_slots[0].material = hard.painted("Lost", uv_map="Nowhere")
    refused(made, "UV map “Nowhere”")


@pytest.mark.parametrize("domain", ["POINT", "CORNER"])
@pytest.mark.parametrize("kind", ["BYTE_COLOR", "FLOAT_COLOR"])
def test_vertex_colours_alone(domain, kind):
    made = hard.cube(uv=False)
    layer = made.data.color_attributes.new("Col", kind, domain)
    for number, value in enumerate(layer.data):
        value.color_srgb = (number / 24, 0.5, 0.25, 1)
    made.data.materials.append(hard.by_attribute())
    arrays = read(made).arrays
    rows = np.array([c.vertex_index for c in made.data.loops]) if domain == "POINT" else np.arange(24)
    made.data.calc_loop_triangles()
    loops = np.array([t.loops for t in made.data.loop_triangles])
    assert np.allclose(arrays.colour[..., 0], rows[loops] / 24, atol=0.003)
    assert np.allclose(arrays.colour[..., 1:], (0.5, 0.25, 1), atol=0.003) and np.allclose(arrays.base, 1)
    made.data.color_attributes.remove(made.data.color_attributes["Col"])
    refused(made, "“Col”")


def test_a_missing_image():
    made = hard.cube()
    lost = bpy.data.images.new("lost", 8, 8)
    lost.source = "FILE"
    lost.filepath = "//nowhere/gone.png"
    made.data.materials.append(hard.painted(picture=lost))
    refused(made, r"“lost” \(//nowhere/gone.png\) is missing")
    made.data.materials.append(hard.plain("Red", hard.RED))
    made.data.polygons[0].material_index = 1
    made.active_material_index = 1
    found = read(made, faces="SLOT")  # the image is on faces that stay as they are
    assert "missing" in found.notes[0] and found.arrays.image.tolist() == [-1, -1]
    assert found.arrays.weight.max(1).sum() == 2


def test_tiles_are_refused():
    made = hard.cube()
    tiled = bpy.data.images.new("tiles", 8, 8, tiled=True)
    made.data.materials.append(hard.painted(picture=tiled))
    refused(made, "UDIM")


def test_alpha_counts_where_the_material_reads_it():
    values = hard.pixels()
    values[:8, :, 3] = 0
    made = hard.cube()
    picture = hard.image("see-through", values=values)
    made.data.materials.append(hard.painted(picture=picture))
    assert (read(made).arrays.images[0][..., 3] == 255).all()
    made.material_slots[0].material = hard.painted("Leaf", picture, alpha=True)
    assert np.array_equal(read(made).arrays.images[0][..., 3], values[..., 3])


def test_linear_and_grey_and_float_images():
    made = hard.cube()
    data = hard.image("data")
    data.colorspace_settings.name = "Non-Color"
    made.data.materials.append(hard.painted(picture=data))
    values = hard.pixels() / 255
    srgb = np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)
    assert np.abs(read(made).arrays.images[0][..., :3] - srgb[..., :3] * 255).max() <= 1
    bright = bpy.data.images.new("bright", 4, 4, float_buffer=True)
    bright.pixels.foreach_set(np.tile(np.float32([0.2140, 2.0, 0.0, 1.0]), 16))
    made.material_slots[0].material = hard.painted("Bright", bright)
    assert np.allclose(read(made).arrays.images[0][0, 0], (128, 255, 0, 255), atol=1)


def test_selected_faces_in_edit_mode():
    made = hard.cube("Кубик 🦆")
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.mesh.select_all(action="DESELECT")
    bpy.ops.object.mode_set(mode="OBJECT")
    made.data.polygons[2].select = True
    bpy.ops.object.mode_set(mode="EDIT")
    found = read(made, faces="SELECTED")
    assert made.mode == "EDIT" and found.place["object"] == "Кубик 🦆"
    assert found.arrays.weight.max(1).tolist() == [0, 0, 0, 0, 1, 1] + [0] * 6
    bpy.ops.object.mode_set(mode="OBJECT")
    made.data.polygons[2].select = False
    refused(made, "No face is selected", faces="SELECTED")


def test_a_vertex_group_is_a_soft_mask():
    made = hard.cube()
    refused(made, "no vertex group", faces="GROUP")
    group = made.vertex_groups.new(name="soft")
    refused(made, "are zero", faces="GROUP")
    for vertex in made.data.vertices:
        group.add([vertex.index], 0.5 + 0.5 * vertex.co.z * 0.5, "REPLACE")
    arrays = read(made, faces="GROUP").arrays
    assert np.allclose(arrays.weight, 0.5 + 0.25 * arrays.v_pos[arrays.t_pos_idx][..., 2])


def test_what_is_not_a_mesh():
    bpy.ops.object.text_add()
    refused(bpy.context.object, "convert it first")
    bpy.ops.object.camera_add()
    refused(bpy.context.object, "not a mesh")
    bpy.ops.object.empty_add()
    made = bpy.context.object
    made.instance_type, made.instance_collection = "COLLECTION", bpy.data.collections.new("Trees")
    refused(made, "Make Instances Real")
    refused(None, "Select")


def test_hidden_empty_and_broken():
    made = hard.cube()
    made.hide_set(True)
    refused(made, "hidden")
    made.hide_set(False)
    made.data.vertices[0].co.x = float("nan")
    refused(made, "invalid coordinates")
    bare = bpy.data.objects.new("Bare", bpy.data.meshes.new("Bare"))
    bpy.context.scene.collection.objects.link(bare)
    refused(bare, "no faces")


def test_linked_from_a_library(tmp_path):
    linked = hard.linked(tmp_path / "lib.blend")
    found = read(linked)
    assert found.place["copy"] and any("copy" in note for note in found.notes)
    assert np.array_equal(found.arrays.images[0], hard.pixels())


def test_fronts():
    made = hard.cube()
    assert front_of(made, "OBJECT", bpy.context) == 0
    made.rotation_euler = (0, 0, np.pi / 2)
    bpy.context.view_layer.update()
    assert front_of(made, "OBJECT", bpy.context) == pytest.approx(90, abs=1e-4)
    made.rotation_euler = (np.pi / 2, 0, 0)  # as files come in whose Y is up
    bpy.context.view_layer.update()
    assert front_of(made, "OBJECT", bpy.context) == pytest.approx(0, abs=1e-4)
    with pytest.raises(CannotRefine, match="no camera"):
        front_of(made, "CAMERA", bpy.context)
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    bpy.context.scene.collection.objects.link(camera)
    bpy.context.scene.camera = camera
    camera.location = (7, 0, 3)
    bpy.context.view_layer.update()
    assert front_of(made, "CAMERA", bpy.context) == pytest.approx(90, abs=1e-4)
    with pytest.raises(CannotRefine, match="not a 3D viewport"):
        front_of(made, "VIEW", bpy.context)


def test_other_node_trees_have_to_be_baked():
    made = hard.cube()
    made.data.materials.append(hard.procedural())
    made.data.materials.append(hard.painted())
    assert needs_bake(made) == [0]


@pytest.mark.skipif(os.environ.get("DREAMFLOW_NO_BAKE") == "1", reason="asked not to")
def test_baked_in_a_blender_of_its_own(tmp_path, monkeypatch):
    """A checker of the object's own coordinates beside an image: what is baked is what Cycles sees."""
    from dreamflow_blender.session import refine as refine_session
    from dreamflow_blender.settings import addon

    monkeypatch.setattr(addon, "user_folder", lambda: tmp_path / "ö x")
    made = hard.cube("Würfel 🎲", uv=True, location=(3, 4, 5))
    made.data.materials.append(hard.procedural())
    made.data.materials.append(hard.painted())
    made.data.polygons[0].material_index = 1
    made.modifiers.new("Subdivision", "SUBSURF").levels = 1
    bpy.context.view_layer.update()
    before = walk()
    dirty = bpy.data.is_dirty
    baked = refine_session.bake_now(made, 1)
    assert differences(before, walk()) == set() and bpy.data.is_dirty == dirty
    assert not list((tmp_path / "ö x" / "bake").iterdir())
    arrays = read(made, baked=baked).arrays
    assert arrays.image.tolist() == [0, 1] or arrays.image.tolist() == [1, 0]
    here = arrays.material == 0
    texture = arrays.images[arrays.image[0]]
    size = len(texture)
    uv = arrays.source_uv[here].mean(1)
    seen = texture[((1 - uv[:, 1]) * size).astype(int), (uv[:, 0] * size).astype(int), :3].astype(float)
    middle = arrays.v_pos[arrays.t_pos_idx[here]].mean(1)
    is_red = (np.floor(middle).sum(1) % 2) == 1
    red, blue = seen[is_red], seen[~is_red]
    wanted = [255 * np.array([_srgb(c) for c in colour[:3]]) for colour in (hard.RED, hard.BLUE)]
    right = [np.abs(found - want).max(1) < 8 for found, want in ((red, wanted[0]), (blue, wanted[1]))]
    print(f"\nbaked: {np.mean(np.concatenate(right)):.0%} of the faces' middles have the checker's colour")
    assert np.concatenate(right).mean() > 0.9
    other = arrays.material == 1
    assert np.array_equal(arrays.source_uv[other], arrays.uv[other])


def _srgb(c):
    return c * 12.92 if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055


def with_nodes(obj, kind):
    """A Geometry Nodes modifier with one node between input and output, and that node."""
    tree = bpy.data.node_groups.new("GN", "GeometryNodeTree")
    for way in ("INPUT", "OUTPUT"):
        tree.interface.new_socket("Geometry", in_out=way, socket_type="NodeSocketGeometry")
    begin, node, end = (tree.nodes.new(name) for name in ("NodeGroupInput", kind, "NodeGroupOutput"))
    tree.links.new(begin.outputs[0], node.inputs[0])
    tree.links.new(node.outputs[0], end.inputs[0])
    obj.modifiers.new("GN", "NODES").node_group = tree
    return node


def test_a_material_that_nodes_set_is_refused():
    obj = hard.cube()
    obj.data.materials.append(hard.painted())
    node = with_nodes(obj, "GeometryNodeSetMaterial")
    node.inputs["Material"].default_value = hard.plain("Other", hard.BLUE)
    bpy.context.view_layer.update()
    refused(obj, "Set Material node.*apply the modifiers")


def test_instances_alone_are_refused():
    obj = hard.cube()
    with_nodes(obj, "GeometryNodeInstanceOnPoints")
    bpy.context.view_layer.update()
    refused(obj, "Realize Instances")


def test_an_image_that_repeats_says_which_size_keeps_its_detail():
    obj = hard.cube()
    obj.data.materials.append(hard.painted())
    uv = np.array([corner.vector for corner in obj.data.uv_layers[0].uv], np.float32)
    area = 6 * 0.25 * 0.25  # the cube's cross
    obj.data.uv_layers[0].uv.foreach_set("vector", (uv * 8).ravel())
    bpy.context.view_layer.update()
    (note,) = gather(bpy.context, obj).notes
    assert f"repeated {64 * area:.0f} times" in note and "about 128 px" in note  # 16 px * sqrt(24) = 78
