"""A result becomes one object; nothing else in the file changes; the import is quick."""

import json
import time
from pathlib import Path

import bpy
import numpy as np
import pytest

from dreamflow_blender.contract import meshfile
from dreamflow_blender.scene import assets, objects
from tests.blender_side.with_bpy import made


def add(folder: Path, height: float = 1.0, location=(0, 0, 0), collection="DreamFlow", name="a red mug"):
    return objects.add_result(
        objects.read_result(folder), name, height, location, collection, bpy.context.scene
    )


def test_the_object(tmp_path):
    scene = bpy.context.scene
    look = scene.view_settings.view_transform
    obj = add(made.result(tmp_path / "jöb 1"), height=0.25, location=(1, 2, 3))
    bpy.context.view_layer.update()
    assert obj.name == "Red mug"
    assert [c.name for c in obj.users_collection] == ["DreamFlow"]
    assert tuple(obj.location) == (1, 2, 3) and tuple(obj.scale) == (1, 1, 1)
    co = np.empty(3 * len(obj.data.vertices), np.float32)
    obj.data.vertices.foreach_get("co", co)
    co = co.reshape(-1, 3)
    assert co[:, 2].min() == 0 and co[:, 2].max() == pytest.approx(0.25)
    assert np.abs(co[:, :2].min(axis=0) + co[:, :2].max(axis=0)).max() < 1e-6
    assert len(obj.data.polygons) == len(made.ball().t_pos_idx)
    assert all(p.use_smooth for p in obj.data.polygons)
    assert [layer.name for layer in obj.data.uv_layers] == ["UVMap"]
    assert scene.view_settings.view_transform == look


def test_uvs_and_normals_are_the_files(tmp_path):
    arrays = made.ball()
    mesh = add(made.result(tmp_path, arrays=arrays)).data
    uv = np.empty(2 * len(mesh.loops), np.float32)
    mesh.uv_layers[0].uv.foreach_get("vector", uv)
    assert np.array_equal(uv.reshape(-1, 2), arrays.v_tex[arrays.t_tex_idx.ravel()])
    normals = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.vertex_normals.foreach_get("vector", normals)
    assert (normals.reshape(-1, 3) * arrays.normal).sum(axis=1).min() > 0.99  # outward, smooth


def test_material(tmp_path):
    obj = add(made.result(tmp_path))
    (material,) = obj.data.materials
    tree = material.node_tree
    principled = next(n for n in tree.nodes if n.type == "BSDF_PRINCIPLED")
    (link,) = principled.inputs["Base Color"].links
    image = link.from_node.image
    assert image.packed_file is not None and image.colorspace_settings.name == "sRGB"
    assert tuple(image.size) == (64, 64)
    assert image.packed_file.size == (tmp_path / "albedo.png").stat().st_size  # the very bytes
    assert principled.inputs["Roughness"].default_value == pytest.approx(0.8)
    assert next(n for n in tree.nodes if n.type == "OUTPUT_MATERIAL").inputs["Surface"].is_linked
    assert material.diffuse_color[0] > 0.5 > material.diffuse_color[1]  # red in Solid shading


def test_provenance_without_this_machines_paths(tmp_path):
    obj = add(made.result(tmp_path, seed=7))
    assert obj["dreamflow_prompt"] == "a red mug" and obj["dreamflow_seed"] == 7
    record = json.loads(obj["dreamflow_record"])
    assert record["models"]["prior"]["sha256"] == "abc"
    assert str(tmp_path) not in obj["dreamflow_record"]


def test_cycles_shows_the_albedo(tmp_path):
    obj = add(made.result(tmp_path))
    scene = bpy.context.scene
    camera = bpy.data.objects.new("c", bpy.data.cameras.new("c"))
    scene.collection.objects.link(camera)
    camera.location, camera.rotation_euler = (0, -3, 0.5), (np.pi / 2, 0, 0)
    scene.camera, scene.render.engine = camera, "CYCLES"
    scene.cycles.samples, scene.cycles.device = 4, "CPU"
    scene.world = bpy.data.worlds.new("w")
    if bpy.app.version < (5, 0):
        scene.world.use_nodes = True
    scene.world.node_tree.nodes.get("Background").inputs[0].default_value = (1, 1, 1, 1)
    scene.render.resolution_x = scene.render.resolution_y = 32
    scene.render.filepath = str(tmp_path / "shot.png")
    scene.view_settings.view_transform = "Standard"
    bpy.ops.render.render(write_still=True)
    shot = bpy.data.images.load(scene.render.filepath)
    pixels = np.array(shot.pixels[:]).reshape(32, 32, 4)
    middle = pixels[12:20, 12:20, :3].mean(axis=(0, 1))
    assert middle[0] > 0.5 and middle[0] > 2 * middle[2], (middle, obj)


def test_nothing_else_changes(tmp_path):
    scene = bpy.context.scene
    mine = bpy.data.objects.new("Red mug", bpy.data.meshes.new("Red mug"))  # the name is taken
    scene.collection.objects.link(mine)
    bpy.data.materials.new("unused").use_fake_user = False
    before = {
        name: set(getattr(bpy.data, name).keys()) for name in ("objects", "meshes", "materials", "images")
    }
    obj = add(made.result(tmp_path))
    assert mine.name == "Red mug" and obj.name == "Red mug.001"
    for name, keys in before.items():
        assert keys <= set(getattr(bpy.data, name).keys())
    again = add(tmp_path)
    assert again.users_collection == obj.users_collection
    assert [c.name for c in bpy.data.collections] == ["DreamFlow"]


@pytest.mark.parametrize("name", ["x" * 300, "ein schöner Krug 🏺" * 9, "a 💡", "  ", "\u202e"])
def test_names(tmp_path, name):
    obj = add(made.result(tmp_path), name=name)
    assert obj.name and len(obj.name.encode()) < 64


def test_flat_things_and_no_height(tmp_path):
    arrays = made.ball()
    flat = meshfile.MeshArrays(
        arrays.v_pos * np.float32([1, 1, 0]), arrays.t_pos_idx, arrays.v_tex, arrays.t_tex_idx, arrays.normal
    )
    assert add(made.result(tmp_path / "flat", arrays=flat), height=2.0).dimensions.x == pytest.approx(
        1, abs=0.01
    )
    assert add(made.result(tmp_path / "as it is"), height=0).dimensions.z == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: (f / "mesh.npz").unlink(),
        lambda f: (f / "mesh.npz").write_bytes(b"PK\x03\x04 not a zip"),
        lambda f: (f / "mesh.npz").write_bytes((f / "mesh.npz").read_bytes()[:900]),
        lambda f: (f / "albedo.png").unlink(),
        lambda f: (f / "albedo.png").write_bytes(b"GIF89a"),
    ],
)
def test_bad_files_change_nothing(tmp_path, spoil):
    folder = made.result(tmp_path)
    spoil(folder)
    with pytest.raises(objects.CannotImport):
        add(folder)
    assert not bpy.data.objects and not bpy.data.images and not bpy.data.meshes


def test_without_job_json(tmp_path):
    folder = made.result(tmp_path)
    (folder / "job.json").write_text("{")
    assert add(folder)["dreamflow_prompt"] == "Red mug"


def test_what_there_is_so_far(tmp_path):
    folder = made.result(tmp_path)
    (folder / "mesh.npz").unlink()
    result = objects.read_partial(folder)
    obj = objects.add_result(result, "a red mug", 1.0, (0, 0, 0), "DreamFlow", bpy.context.scene)
    assert [a.name for a in obj.data.color_attributes] == [objects.COLOUR] and not obj.data.uv_layers
    principled = obj.data.materials[0].node_tree.nodes["Principled BSDF"]
    assert principled.inputs["Base Color"].is_linked and not bpy.data.images
    (folder / "snapshot.npz").unlink()
    with pytest.raises(objects.CannotImport, match="taken shape"):
        objects.read_partial(folder)


def test_asset(tmp_path):
    obj = add(made.result(tmp_path))
    assets.mark(obj, "a red mug with a blue handle", tmp_path / "preview.png")
    assets.mark(obj, "a red mug with a blue handle", tmp_path / "preview.png")
    assert obj.asset_data.description == "a red mug with a blue handle"
    assert [t.name for t in obj.asset_data.tags] == ["DreamFlow", "red", "mug", "blue", "handle"]
    assert tuple(obj.preview.image_size) == (64, 64)


@pytest.fixture
def library(tmp_path):
    """The folder of an asset library "Prôps" in Blender's preferences."""
    folder = tmp_path / "a librâry"
    folder.mkdir()
    before = set(assets.libraries())
    bpy.ops.preferences.asset_library_add(directory=str(folder))
    (made_now,) = (
        item for item in bpy.context.preferences.filepaths.asset_libraries if item.name not in before
    )
    made_now.name = "Prôps"
    yield folder
    bpy.ops.preferences.asset_library_remove(index=len(before))


def test_a_copy_in_an_asset_library_overwrites_nothing(tmp_path, library):
    (library / "Red_mug.blend").write_bytes(b"of somebody else")
    (library / assets.CATALOGS).write_text("# mine\nVERSION 1\n\n1-2:Chairs:Chairs", encoding="utf-8")
    obj = add(made.result(tmp_path))
    assets.mark(obj, "a red mug", tmp_path / "preview.png")
    obj.asset_data.author = "Zoë"
    paths = [assets.save_copy(obj, "Prôps").name for _ in range(2)]
    assert paths == ["Red_mug_2.blend", "Red_mug_3.blend"] and len(list(library.iterdir())) == 4
    assert (library / "Red_mug.blend").read_bytes() == b"of somebody else"
    text = (library / assets.CATALOGS).read_text(encoding="utf-8")
    assert text == f"# mine\nVERSION 1\n\n1-2:Chairs:Chairs\n{assets.CATALOG}:DreamFlow:DreamFlow\n"
    bpy.ops.wm.read_factory_settings(use_empty=True)
    with bpy.data.libraries.load(str(library / "Red_mug_2.blend"), assets_only=True) as (there, here):
        here.objects = there.objects
    (copy,) = here.objects
    data = copy.asset_data
    assert (data.author, data.catalog_id, data.tags[0].name) == ("Zoë", assets.CATALOG, "DreamFlow")
    assert bpy.data.images["Red_mug_albedo.png"].packed_file and tuple(copy.preview.image_size) == (64, 64)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("VERSION 1\n\n7:DreamFlow:DreamFlow\n", "7"),  # of the user's own
        (f"VERSION 1\n{assets.CATALOG}:Props/Made:Made\n", assets.CATALOG),  # moved in Blender
        ("VERSION 2\n", None),
        ("", None),
    ],
)
def test_a_catalog_that_is_there_is_kept(tmp_path, text, expected):
    (tmp_path / assets.CATALOGS).write_text(text)
    if expected is None:
        with pytest.raises(ValueError, match="another version"):
            assets.add_catalog(tmp_path)
    else:
        assert assets.add_catalog(tmp_path) == expected
    assert (tmp_path / assets.CATALOGS).read_text() == text


def test_an_asset_library_that_cannot_be_written(tmp_path, library, monkeypatch):
    obj = add(made.result(tmp_path))
    assets.mark(obj, "a red mug", tmp_path / "preview.png")
    with pytest.raises(ValueError, match="is not there"):
        assets.save_copy(obj, "another")
    obj.name = "Mug"
    monkeypatch.setattr(type(library), "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    (library / assets.CATALOGS).write_text(f"VERSION 1\n{assets.CATALOG}:DreamFlow:DreamFlow\n")
    with pytest.raises(OSError, match="disk full"):
        assets.save_copy(obj, "Prôps")
    assert [path.name for path in library.iterdir()] == [assets.CATALOGS]


def test_a_file_in_a_library_uses_its_catalogs(tmp_path, library):
    obj = add(made.result(tmp_path))
    bpy.ops.wm.save_as_mainfile(filepath=str(library / "shop.blend"))
    assets.mark(obj, "a red mug", tmp_path / "preview.png")
    assert obj.asset_data.catalog_id in (library / assets.CATALOGS).read_text()


def test_select_only(tmp_path):
    scene, layer = bpy.context.scene, bpy.context.view_layer
    other = bpy.data.objects.new("other", None)
    scene.collection.objects.link(other)
    other.select_set(True)
    obj = add(made.result(tmp_path))
    objects.select_only(obj, layer)
    assert [o.name for o in layer.objects.selected] == ["Red mug"] and layer.objects.active == obj
    layer.layer_collection.children["DreamFlow"].exclude = True
    hidden = add(tmp_path)
    objects.select_only(hidden, layer)  # nothing to select, and no error


def test_import_is_quick(tmp_path):
    arrays = made.ball(100, 200)  # 39,600 faces
    folder = made.result(tmp_path, arrays=arrays, size=2048)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (2048, 2048, 3), np.uint8)
    (folder / "albedo.png").write_bytes(made.png(noise))
    add(folder)
    began = time.thread_time()
    add(folder)
    took = 1000 * (time.thread_time() - began)
    print(f"\nimport: {took:.0f} ms with {len(arrays.t_pos_idx):,} faces and 2048 px (promised: 300 ms)")
    assert took < 3 * 300
