"""Where and when a result comes into the scene: its own scene, free ground, a collection that is seen, any colours."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import bpy
import numpy as np
import pytest
from mathutils import Vector

from dreamflow_blender.gather import colour_spaces, images, unwrap
from dreamflow_blender.ops import importing as ops_importing
from dreamflow_blender.scene import objects, placing, preview
from dreamflow_blender.session import importing, jobs
from dreamflow_blender.session import refine as refine_session
from dreamflow_blender.ui import refine as ui_refine
from dreamflow_blender.ui import sidebar
from tests.blender_side.with_bpy import hard, layout, made
from tests.blender_side.with_bpy.user import generate, idle, posix, set_up, tick_until, user  # noqa: F401  the fixture

ROOT = Path(__file__).resolve().parents[3]


def add(folder, collection="DreamFlow", scene=None):
    result = objects.read_result(made.result(folder))
    return objects.add_result(result, "a red mug", 1.0, (0, 0, 0), collection, scene or bpy.context.scene)


# scenes


@posix
@pytest.mark.parametrize("left", [False, True])
def test_a_scene_that_was_renamed_or_left(user, left):  # noqa: F811
    if left and bpy.app.version < (5, 0):
        pytest.skip(
            "an operator under temp_override(scene=...) ends a bpy module before 5.0; windows do not need it"
        )
    set_up(user, "good")
    home = bpy.context.scene
    generate("a red mug")
    tick_until(lambda: preview.shown() is not None)
    home.name = "Renamed"
    other = bpy.data.scenes.new("Scene")
    over = {"scene": other, "view_layer": other.view_layers[0]} if left else {}
    with bpy.context.temp_override(**over):
        tick_until(idle)
    assert jobs.problem is None and [o.name for o in home.objects] == ["Red mug"] and not other.objects


@posix
def test_a_scene_that_was_deleted(user):  # noqa: F811
    set_up(user, "good")
    home = bpy.context.scene
    home.dreamflow.extra = ""
    generate("a red mug")
    tick_until(lambda: jobs.running is not None)
    other = bpy.data.scenes.new("Scene")
    if bpy.context.window is not None:
        bpy.context.window.scene = other
    bpy.data.scenes.remove(home)
    tick_until(idle)
    assert "has been deleted" in jobs.problem.failed.message and not other.objects
    (past,) = jobs.get_store().history()
    bpy.ops.dreamflow.import_result(job_id=past.job.id)
    (obj,) = bpy.context.scene.objects
    assert [c.name for c in obj.users_collection] == ["DreamFlow"]


# what an import waits for


def running(idname, *options):
    return SimpleNamespace(bl_idname=idname, bl_options=set(options))


class DREAMFLOW_OT_test_watcher(bpy.types.Operator):  # noqa: N801
    """As add-ons that show pressed keys: modal for as long as Blender runs."""

    bl_idname = "dreamflow.test_watcher"
    bl_label = "Watcher"


def test_only_what_really_blocks():
    assert importing.blocks(running("TRANSFORM_OT_translate", "REGISTER", "UNDO", "BLOCKING"))
    assert importing.blocks(running("SCULPT_OT_brush_stroke", "BLOCKING"))
    assert importing.blocks(running("MESH_OT_knife_tool", "REGISTER", "UNDO"))
    assert not importing.blocks(running("VIEW3D_OT_rotate"))
    bpy.utils.register_class(DREAMFLOW_OT_test_watcher)
    try:
        assert not importing.blocks(running("DREAMFLOW_OT_test_watcher", "REGISTER", "UNDO"))
    finally:
        bpy.utils.unregister_class(DREAMFLOW_OT_test_watcher)
    options = bpy.types.Operator.bl_rna.properties["bl_options"].enum_items.keys()
    assert {"UNDO", "BLOCKING", "GRAB_CURSOR"} <= set(options)  # Blender's own words


@posix
def test_import_now_leaves_edit_mode(user):  # noqa: F811
    set_up(user, "good")
    assert not bpy.ops.dreamflow.import_now.poll()
    hard.cube()
    generate("a red mug")
    bpy.ops.object.mode_set(mode="EDIT")
    tick_until(lambda: importing.pending() and jobs.running is None)
    drawn = layout.draw(sidebar.DREAMFLOW_PT_main)
    assert "Will be imported after" in drawn.said().replace("\n", " ") and "Import now" in drawn.buttons()
    assert bpy.ops.dreamflow.import_now() == {"FINISHED"}
    assert bpy.context.mode == "OBJECT" and "Red mug" in bpy.context.scene.objects and not importing.pending()


def test_scripts_are_refused_before_the_job(user):  # noqa: F811
    hard.cube(uv=False)
    bpy.context.scene.dreamflow_refine.model = "BUILT_IN"
    bpy.ops.object.mode_set(mode="EDIT")
    for cls in (ops_importing.DREAMFLOW_OT_import_result,):
        assert "Object Mode" in cls.unavailable(bpy.context)
    for name in ("generate", "refine"):
        assert not getattr(bpy.ops.dreamflow, name).poll()
    bpy.ops.object.mode_set(mode="OBJECT")


# collections


def test_an_overridden_collection_of_the_name_takes_nothing(tmp_path):
    library = tmp_path / "set.blend"
    add(tmp_path / "one")
    bpy.ops.wm.save_as_mainfile(filepath=str(library))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    with bpy.data.libraries.load(str(library), link=True) as (_, here):
        here.collections = ["DreamFlow"]
    bpy.context.scene.collection.children.link(here.collections[0])
    here.collections[0].override_hierarchy_create(bpy.context.scene, bpy.context.view_layer)
    first, second = add(tmp_path / "two"), add(tmp_path / "three")
    (home,) = first.users_collection
    assert home.library is None and home.override_library is None and home.name.startswith("DreamFlow.")
    assert tuple(second.users_collection) == (home,) and first.visible_get() and second.visible_get()


@pytest.mark.parametrize(
    "how", ["excluded", "hidden with the eye", "disabled in viewports", "inside an excluded one"]
)
def test_a_collection_that_is_not_seen(tmp_path, how):
    add(tmp_path / "one")
    collection = bpy.data.collections["DreamFlow"]
    layer = bpy.context.view_layer.layer_collection.children["DreamFlow"]
    if how == "excluded":
        layer.exclude = True
    elif "eye" in how:
        layer.hide_viewport = True
    elif "disabled" in how:
        collection.hide_viewport = True
    else:
        outer = bpy.data.collections.new("Outer")
        bpy.context.scene.collection.children.link(outer)
        outer.children.link(collection)
        bpy.context.scene.collection.children.unlink(collection)
        bpy.context.view_layer.layer_collection.children["Outer"].exclude = True
    obj = add(tmp_path / "two")
    bpy.context.view_layer.update()
    assert tuple(obj.users_collection) == (bpy.context.scene.collection,) and obj.visible_get()


# colours


def test_a_configuration_without_the_name_srgb(tmp_path):
    """A studio's configuration: in a Blender of its own, which reads it when it starts."""
    config = tmp_path / "config.ocio"
    config.write_text(CONFIG)
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import bpy, pathlib
from tests.blender_side.with_bpy import made
import numpy as np
from dreamflow_blender.scene import objects
from dreamflow_blender.gather import images
bpy.ops.wm.read_factory_settings(use_empty=True)
folder = made.result(pathlib.Path({str(tmp_path / "job")!r}))
obj = objects.add_result(objects.read_result(folder), "a red mug", 1.0, (0, 0, 0), "", bpy.context.scene)
(image,) = bpy.data.images
print("SPACE", image.colorspace_settings.name)
print("PIXEL", images.pixels_of(image, False)[0, 0].tolist(), flush=True)
import os
os._exit(0)
"""
    environment = {**os.environ, "OCIO": str(config), "BLENDER_USER_RESOURCES": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert "SPACE sRGB - Texture" in ran.stdout, ran.stdout[-2000:] + ran.stderr[-2000:]
    assert "PIXEL [200, 40, 0, 255]" in ran.stdout


def test_spaces_of_blenders_own_configuration():
    image = bpy.data.images.new("x", 4, 4)
    assert colour_spaces.is_srgb(image) and not colour_spaces.is_linear(image)
    image.pixels.foreach_set(np.full(64, 0.5, np.float32))
    image.pack()  # or another space would bring back what it was made with
    assert images.pixels_of(image, False)[0, 0].tolist() == [128, 128, 128, 255]
    image.colorspace_settings.name = "Non-Color"
    assert colour_spaces.is_linear(image) and not colour_spaces.is_srgb(image)
    assert images.pixels_of(image, False)[0, 0, 0] == 188  # 0.5, shown


def test_an_import_that_fails_leaves_nothing_behind(tmp_path):
    scene, before = bpy.context.scene, len(bpy.data.user_map())
    result = objects.read_result(made.result(tmp_path))
    with pytest.raises(TypeError):  # what Blender refuses, late
        objects.add_result(result, "a red mug", 1.0, ("a", "b", "c"), "DreamFlow", scene)
    assert len(bpy.data.user_map()) == before and not bpy.data.collections and not bpy.data.images


# exports


@pytest.mark.parametrize("prompt", ["a red mug", "a café: mug/cup", "m" * 90])
def test_image_name_path_and_file_agree(tmp_path, prompt):
    first, second = (
        objects.pack_image(f"{objects.short_name(prompt)} albedo", made.png(np.zeros((2, 2, 3), np.uint8)))
        for _ in "ab"
    )
    for image in (first, second):
        assert image.name.endswith(".png") and image.filepath_raw == f"//{image.name}"
    assert first.name != second.name
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "file.blend"))
    first.unpack(method="WRITE_ORIGINAL")
    assert (tmp_path / first.name).is_file()


def test_usd_refers_to_the_file_that_it_writes(tmp_path):
    import re

    add(tmp_path / "job")
    out = tmp_path / "usd"
    out.mkdir()
    bpy.ops.wm.usd_export(filepath=str(out / "mug.usda"))
    named = re.findall(r"@([^@]*\.png)@", (out / "mug.usda").read_text())
    assert named and all((out / name).is_file() for name in named)


def test_textures_are_saved_next_to_the_file(user, tmp_path):  # noqa: F811
    obj = add(tmp_path / "job")
    bpy.context.view_layer.objects.active = obj
    assert not bpy.ops.dreamflow.save_textures.poll()  # the file is not saved
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "é file.blend"))
    obj = bpy.context.view_layer.objects.active
    assert "Save textures" in layout.draw(sidebar.DREAMFLOW_PT_selected).buttons()
    assert bpy.ops.dreamflow.save_textures() == {"FINISHED"}
    (image,) = bpy.data.images
    assert (tmp_path / image.name).read_bytes() == (tmp_path / "job" / "albedo.png").read_bytes()
    (tmp_path / "obj").mkdir()
    bpy.ops.wm.obj_export(filepath=str(tmp_path / "obj" / "mug.obj"), path_mode="COPY")
    assert (tmp_path / "obj" / image.name).is_file()
    assert not bpy.ops.dreamflow.save_textures.poll()


def test_saved_textures_overwrite_nothing_and_are_packed_until_they_are_there(tmp_path, monkeypatch):
    png = made.png(np.full((2, 2, 3), 9, np.uint8))
    first, second, third = (objects.pack_image("mug albedo", png) for _ in "abc")
    (tmp_path / "mug_albedo.png").write_bytes(b"the artist's own")
    (tmp_path / "mug_albedo_4.png").mkdir()
    assert objects.write_out(first, tmp_path).name == "mug_albedo_5.png"  # 2 and 3 are the others'
    assert objects.write_out(second, tmp_path).name == second.name == "mug_albedo_2.png"
    assert (tmp_path / "mug_albedo.png").read_bytes() == b"the artist's own"
    assert (tmp_path / first.name).read_bytes() == png and not first.packed_file

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(objects, "write_atomic", full)
    with pytest.raises(OSError, match="No space"):
        objects.write_out(third, tmp_path)
    assert bytes(third.packed_file.data) == png


# free ground


def test_the_first_result_stands_next_to_what_is_there():
    scene = bpy.context.scene
    assert placing.free_place(scene, 1.0, ()) == Vector()
    hard.cube()
    bpy.context.view_layer.update()
    place = placing.free_place(scene, 1.0, ())
    assert place.x > 1.5 and place.y == place.z == 0
    again = placing.free_place(scene, 1.0, [(place, 1.0)])
    assert again.x >= place.x + 1  # a job that waits has its place already
    scene.cursor.location = (3, 4, 5)
    assert placing.free_place(scene, 1.0, ()) == Vector((3, 4, 5))


def test_a_floor_takes_no_room():
    bpy.ops.mesh.primitive_plane_add(size=50)
    bpy.context.view_layer.update()
    assert placing.free_place(bpy.context.scene, 1.0, ()) == Vector()


def test_two_jobs_get_two_places(user):  # noqa: F811
    for _ in range(2):
        jobs.get_store()
        from dreamflow_blender.ops import generate as ops_generate

        job = ops_generate.make_job(bpy.context.scene.dreamflow)
        jobs.add(job, importing.import_target(bpy.context, jobs.open_entries()))
    one, two = (Vector(entry.place["location"]) for entry in jobs.get_store().waiting())
    assert (one - two).length >= 1


# folders in the preferences


@pytest.mark.filterwarnings("ignore:.*blend relative:RuntimeWarning")  # Blender says so too
def test_folders_relative_to_the_file_are_made_absolute(user, tmp_path):  # noqa: F811
    from dreamflow_blender.settings import addon

    preferences = addon.preferences()
    for name in (
        "environment_folder",
        "models_folder",
        "jobs_folder",
        "python",
        "prior_folder",
        "refiner_folder",
    ):
        setattr(preferences, name, "//here")
        assert getattr(preferences, name) == ""  # the file is not saved
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "é file.blend"))
    preferences.jobs_folder = "//jobs"
    assert Path(preferences.jobs_folder) == tmp_path.resolve() / "jobs"


# refine's dialog


def test_without_uvs_the_dialog_asks_and_unwraps_the_object_itself(user):  # noqa: F811
    obj = hard.cube("Crate", uv=False)
    obj.data.materials.append(hard.plain("Red", hard.RED))
    settings = bpy.context.scene.dreamflow_refine
    drawn = layout.Fake()
    ui_refine.draw_dialog(drawn, bpy.context)
    assert "without_uvs" not in drawn.props  # its own mesh takes new UVs
    obj.modifiers.new("Subdivision", "SUBSURF")
    obj.data.polygons[0].hide = True
    drawn = layout.Fake()
    ui_refine.draw_dialog(drawn, bpy.context)
    assert "without_uvs" in drawn.props and "Unwrap the object itself" in drawn.said().replace("\n", " ")
    bpy.context.view_layer.update()
    refine_session.prepare_uvs(bpy.context, obj, settings)
    assert not obj.data.uv_layers  # a copy is what is chosen first
    settings.without_uvs = "UNWRAP"
    bpy.ops.object.mode_set(mode="EDIT")
    refine_session.prepare_uvs(bpy.context, obj, settings)
    assert bpy.context.mode == "EDIT_MESH" and bpy.context.view_layer.objects.active == obj
    bpy.ops.object.mode_set(mode="OBJECT")
    assert obj.data.polygons[0].hide and len(bpy.data.meshes) == len(bpy.data.objects) == 1
    uv = np.array([corner.vector for corner in obj.data.uv_layers[0].uv])
    quads, following = uv.reshape(6, 4, 2), np.roll(uv.reshape(6, 4, 2), -1, 1)
    turned = quads[..., 0] * following[..., 1] - quads[..., 1] * following[..., 0]
    area = abs(turned.sum(1)).sum() / 2
    assert uv.min() >= 0 and uv.max() <= 1 and 0.3 < area < 1  # six faces that do not overlap
    assert not refine_session.must_choose(obj)
    with pytest.raises(ValueError, match="has UVs"):
        unwrap.unwrap(obj, bpy.context)


def test_the_dialog_takes_the_prompt_of_the_selected_object(user):  # noqa: F811
    settings = bpy.context.scene.dreamflow_refine
    crate, barrel = hard.cube("Old_crate"), hard.cube("Barrel.001")
    ui_refine.fill_prompt(settings, crate)
    assert settings.prompt == "old crate"
    settings.prompt = "a crate of oak"
    ui_refine.fill_prompt(settings, crate)
    assert settings.prompt == "a crate of oak"  # what was typed for it stays
    ui_refine.fill_prompt(settings, barrel)
    assert settings.prompt == "barrel"


CONFIG = """ocio_profile_version: 2
strictparsing: false
roles: {default: Raw, scene_linear: lin, rendering: lin, data: Raw, color_picking: sRGB - Texture,
  texture_paint: sRGB - Texture, default_byte: sRGB - Texture, default_float: lin, default_sequencer: sRGB - Texture,
  aces_interchange: ACES2065-1, cie_xyz_d65_interchange: XYZ}
displays:
  Screen:
    - !<View> {name: Standard, colorspace: sRGB - Texture}
active_displays: [Screen]
active_views: [Standard]
colorspaces:
  - !<ColorSpace> {name: Raw, isdata: true, bitdepth: 32f}
  - !<ColorSpace> {name: XYZ, isdata: false, bitdepth: 32f}
  - !<ColorSpace>
    name: lin
    isdata: false
    bitdepth: 32f
    to_scene_reference: !<MatrixTransform> {matrix: [0.4124, 0.3576, 0.1805, 0, 0.2126, 0.7152, 0.0722, 0, 0.0193, 0.1192, 0.9505, 0, 0, 0, 0, 1]}
  - !<ColorSpace>
    name: ACES2065-1
    isdata: false
    bitdepth: 32f
    from_scene_reference: !<MatrixTransform> {matrix: [1.0635, 0.0064, -0.0158, 0, -0.4921, 1.3683, 0.0913, 0, -0.0028, 0.0046, 0.9164, 0, 0, 0, 0, 1]}
  - !<ColorSpace>
    name: sRGB - Texture
    isdata: false
    bitdepth: 8ui
    to_scene_reference: !<GroupTransform>
      children:
        - !<ExponentWithLinearTransform> {gamma: [2.4, 2.4, 2.4, 1], offset: [0.055, 0.055, 0.055, 0]}
        - !<MatrixTransform> {matrix: [0.4124, 0.3576, 0.1805, 0, 0.2126, 0.7152, 0.0722, 0, 0.0193, 0.1192, 0.9505, 0, 0, 0, 0, 1]}
"""  # noqa: E501
