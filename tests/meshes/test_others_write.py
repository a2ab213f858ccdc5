"""GLB files as other programs write them: colours, poses and faces are what the standard says."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.meshes.glb import Glb, parse
from backend.meshes.glb_edit import repainted
from backend.meshes.glb_scene import read_glb
from backend.scene.mesh import Sheet
from dreamflow_blender.contract.meshfile import BadMeshFile
from tests.meshes.test_hostile import a_triangle

FLOAT = {"componentType": 5126}
SQUARE = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], "<f4")


def png(colour: tuple[int, int, int] = (200, 10, 10), kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(out, kind)
    return out.getvalue()


def a_square(material: dict, **texture: object) -> Glb:
    """A square of two triangles with UVs, in this material; its image is red."""
    glb = Glb({"asset": {"version": "2.0"}})
    glb.add_accessor(SQUARE, FLOAT | {"type": "VEC3"})
    glb.add_accessor(SQUARE[:, :2], FLOAT | {"type": "VEC2"})
    glb.add_accessor(
        np.array([[0], [1], [2], [2], [1], [3]], "<u2"), {"componentType": 5123, "type": "SCALAR"}
    )
    primitive = {"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "indices": 2, "material": 0}
    glb.document |= {
        "meshes": [{"primitives": [primitive]}], "nodes": [{"mesh": 0}], "scenes": [{"nodes": [0]}],
        "materials": [material], "textures": [texture or {"source": 0}],
        "images": [{"bufferView": glb.append(png()), "mimeType": "image/png", "name": "red"}],
    }  # fmt: skip
    return glb


def whole_sheet(arrays, new_uvs: bool) -> Sheet:
    faces = np.arange(len(arrays.t_pos_idx))
    corners = np.arange(3 * len(faces)).reshape(-1, 3)
    v_tex = np.linspace(0, 1, 6 * len(faces), dtype=np.float32).reshape(-1, 2)
    image = None if new_uvs else arrays.images[0]
    return Sheet(faces, v_tex, corners, np.zeros(len(faces), bool), 8, 8, image, (0,), new_uvs, "")


SPECULAR = "KHR_materials_pbrSpecularGlossiness"
PLAIN = {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}


@pytest.mark.parametrize(
    ("material", "texture", "kind"),
    [
        (PLAIN, {}, "PNG"),
        (PLAIN, {}, "JPEG"),
        (PLAIN, {"extensions": {"EXT_texture_webp": {"source": 0}}}, "WEBP"),
        (PLAIN, {"extensions": {"EXT_texture_avif": {"source": 0}}}, "AVIF"),
        ({"extensions": {SPECULAR: {"diffuseTexture": {"index": 0}}}}, {}, "PNG"),
    ],
)
def test_the_image_is_seen(material: dict, texture: dict, kind: str) -> None:
    glb = a_square(material, **texture)
    glb.document["images"][0]["bufferView"] = glb.append(png(kind=kind))
    notes: list[str] = []
    arrays = read_glb(glb.content(), notes)
    assert (
        np.abs(arrays.images[arrays.image[0]][4, 4, :3] - np.array([200.0, 10, 10])).max() < 12 and not notes
    )


def test_specular_glossiness_is_painted_where_it_was_read() -> None:
    content = a_square(
        {"extensions": {SPECULAR: {"diffuseTexture": {"index": 0}, "glossinessFactor": 0.5}}}
    ).content()
    arrays = read_glb(content, [])
    new = parse(repainted(content, arrays, [whole_sheet(arrays, False)], [png((0, 0, 255))]))
    material = new.document["materials"][0]
    places = (
        material["pbrMetallicRoughness"]["baseColorTexture"],
        material["extensions"][SPECULAR]["diffuseTexture"],
    )
    for used in places:
        assert new.document["textures"][used["index"]]["source"] == 1
    assert material["extensions"][SPECULAR]["glossinessFactor"] == 0.5
    assert read_glb(new.content(), []).images[0][0, 0].tolist() == [0, 0, 255, 255]


def test_ktx2_is_refused_by_name_and_other_silence_is_said() -> None:
    with pytest.raises(BadMeshFile, match=r"KTX2.*export with PNG or JPEG"):
        read_glb(a_square(PLAIN, extensions={"KHR_texture_basisu": {"source": 0}}).content(), [])
    notes: list[str] = []
    read_glb(a_square(PLAIN, extensions={"MSFT_texture_dds": {"source": 0}}).content(), notes)
    read_glb(a_square({"emissiveTexture": {"index": 0}}).content(), notes)
    assert "MSFT_texture_dds" in notes[0] and "emission" in notes[1]


def test_each_axis_wraps_as_it_says_and_vertex_colours_have_alpha() -> None:
    glb = a_square(PLAIN, source=0, sampler=0)
    glb.document["samplers"] = [{"wrapS": 10497, "wrapT": 33071}]
    alpha = np.array([[255, 255, 255, 51]] * 4, "u1")
    glb.document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"] = glb.add_accessor(
        alpha, {"componentType": 5121, "type": "VEC4", "normalized": True}
    )
    arrays = read_glb(glb.content(), [])
    assert arrays.wrap[0].tolist() == [0, 1] and np.allclose(arrays.colour, (1, 1, 1, 0.2))


@pytest.mark.parametrize(("mode", "rows"), [(5, [[0, 1, 2], [1, 3, 2]]), (6, [[1, 2, 0], [2, 3, 0]])])
def test_strips_and_fans_are_triangles(mode: int, rows: list) -> None:
    glb = a_square(PLAIN)
    primitive = glb.document["meshes"][0]["primitives"][0]
    primitive["mode"] = mode
    del primitive["indices"]
    content = glb.content()
    arrays = read_glb(content, [])
    assert arrays.t_pos_idx.tolist() == rows
    new = parse(repainted(content, arrays, [whole_sheet(arrays, True)], [png()]))
    assert "mode" not in new.document["meshes"][0]["primitives"][0]
    back = read_glb(new.content(), [])
    assert np.array_equal(back.v_pos[back.t_pos_idx], arrays.v_pos[arrays.t_pos_idx])


def test_rest_pose_is_morphed_then_skinned_and_ignores_the_node() -> None:
    """The file's mesh lies on its back in centimetres; its joint puts it right, its node would move it away."""
    glb = a_triangle()
    add = glb.add_accessor
    joints = add(np.zeros((3, 4), "u1"), {"componentType": 5121, "type": "VEC4"})
    weights = add(np.tile(np.array([[0.5, 0.5, 0, 0]], "<f4"), (3, 1)), FLOAT | {"type": "VEC4"})
    raised = add(np.tile(np.array([[0, 0, 100]], "<f4"), (3, 1)), FLOAT | {"type": "VEC3"})
    primitive = glb.document["meshes"][0]["primitives"][0]
    primitive["attributes"] |= {"JOINTS_0": joints, "WEIGHTS_0": weights}
    primitive["targets"] = [{"POSITION": raised}]
    bind = np.eye(4, dtype="<f4").reshape(1, 16)
    half = np.sqrt(0.5)
    glb.document |= {
        "skins": [{"joints": [1], "inverseBindMatrices": add(bind, FLOAT | {"type": "MAT4"})}],
        "nodes": [{"mesh": 0, "skin": 0, "weights": [1], "translation": [50, 0, 0]},
                  {"rotation": [-half, 0, 0, half], "scale": [0.01] * 3}],
        "scenes": [{"nodes": [0, 1]}],
    }  # fmt: skip
    # (x, y, z) of the file is raised by 100 to z, shrunk, turned to (x, z, -y), and is our (x, y, z) then
    expected = np.array([[0, 0, 1], [0.01, 0, 1], [0, 0.01, 1]])
    assert np.allclose(read_glb(glb.content(), []).v_pos, expected, atol=1e-6)


def test_draco_is_unpacked_and_comes_back_plain() -> None:
    draco = pytest.importorskip("DracoPy", reason="DracoPy is not installed")
    glb = a_square(PLAIN)
    primitive = glb.document["meshes"][0]["primitives"][0]
    packed = draco.encode(
        SQUARE,
        np.array([[0, 1, 2], [2, 1, 3]], "u4"),
        preserve_order=True,
        tex_coord=SQUARE[:, :2].astype(float),
    )
    ids = {a["attribute_type"]: a["unique_id"] for a in draco.decode(packed).attributes}
    names = {"POSITION": ids[0], "TEXCOORD_0": ids[3]}
    primitive["extensions"] = {
        "KHR_draco_mesh_compression": {"bufferView": glb.append(packed), "attributes": names}
    }
    for row in (0, 1, 2):
        del glb.document["accessors"][row]["bufferView"]
    glb.document["extensionsRequired"] = ["KHR_draco_mesh_compression"]
    unpacked = parse(glb.content())
    arrays = read_glb(glb.content(), [])
    corners = np.sort(arrays.v_pos[arrays.t_pos_idx].reshape(-1, 3), 0)
    assert np.allclose(corners, np.sort(SQUARE[[0, 1, 2, 2, 1, 3]][:, [0, 2, 1]] * (1, -1, 1), 0), atol=1e-3)
    assert "extensionsRequired" not in unpacked.document and "Draco" not in str(unpacked.document)
    glb.document["accessors"][2]["count"] = 30
    with pytest.raises(BadMeshFile, match="another number of faces"):
        read_glb(glb.content(), [])


def test_meshopt_is_unpacked() -> None:
    meshopt = pytest.importorskip("meshoptimizer", reason="meshoptimizer is not installed")
    glb = a_square(PLAIN)
    packed = meshopt.encode_vertex_buffer(SQUARE, 4, 12)
    packed = packed if isinstance(packed, bytes) else np.asarray(packed).tobytes()
    view = glb.append(packed)
    held = glb.document["bufferViews"][view]
    glb.document["bufferViews"][0] = {
        "buffer": 0, "byteLength": 48, "extensions": {"EXT_meshopt_compression": {
            "buffer": 0, "byteOffset": held["byteOffset"], "byteLength": len(packed), "byteStride": 12, "count": 4,
            "mode": "ATTRIBUTES"}},
    }  # fmt: skip
    assert (
        np.array_equal(parse(glb.content()).accessor(0), SQUARE) and sys.modules["meshoptimizer"] is meshopt
    )


@pytest.mark.parametrize("new_uvs", [False, True])
def test_every_accessor_comes_back(new_uvs: bool) -> None:
    """Skin, morph targets, a custom attribute, an animation: their values are what they were, corner by corner."""
    glb = a_square(PLAIN)
    chance = np.random.default_rng(0)
    add, primitive = glb.add_accessor, glb.document["meshes"][0]["primitives"][0]
    primitive["attributes"] |= {
        "NORMAL": add(chance.random((4, 3), np.float32), FLOAT | {"type": "VEC3"}),
        "TANGENT": add(chance.random((4, 4), np.float32), FLOAT | {"type": "VEC4"}),
        "JOINTS_0": add(np.zeros((4, 4), "u1"), {"componentType": 5121, "type": "VEC4"}),
        "WEIGHTS_0": add(np.tile(np.array([[1, 0, 0, 0]], "<f4"), (4, 1)), FLOAT | {"type": "VEC4"}),
        "_TEMPERATURE": add(chance.integers(0, 9, (4, 3), np.uint8), {"componentType": 5121, "type": "VEC3"}),
    }
    primitive["targets"] = [{"POSITION": add(chance.random((4, 3), np.float32), FLOAT | {"type": "VEC3"})}]
    times = add(np.array([[0], [1]], "<f4"), FLOAT | {"type": "SCALAR"})
    glb.document |= {
        "skins": [{"joints": [0]}],
        "extras": {"é": [1]},
        "animations": [{"samplers": [{"input": times}]}],
    }
    glb.document["nodes"] = [{"mesh": 0, "skin": 0}]
    content = glb.content()
    arrays = read_glb(content, [])
    old, new = parse(content), parse(repainted(content, arrays, [whole_sheet(arrays, new_uvs)], [png()]))
    for row in range(len(old.document["accessors"])):
        assert np.array_equal(old.accessor(row), new.accessor(row)), row
    before, after = (g.document["meshes"][0]["primitives"][0] for g in (old, new))
    for name in ("attributes", "targets"):
        pairs = zip(np.atleast_1d(before[name]), np.atleast_1d(after[name]), strict=True)
        for a, b in pairs:
            for key, row in a.items():
                left = old.accessor(row)[old.accessor(before["indices"])[:, 0]]
                right = new.accessor(b[key])[new.accessor(after["indices"])[:, 0]]
                assert np.array_equal(left, right), key
    for key in ("nodes", "skins", "animations", "extras", "scenes"):
        assert new.document[key] == old.document[key], key


def test_images_and_buffers_beside_a_gltf_are_taken_in(tmp_path: Path) -> None:
    glb = a_square(PLAIN)
    glb.document["images"] = [{"uri": "tex/skin%20a.png"}]
    (tmp_path / "tex").mkdir()
    (tmp_path / "tex" / "skin a.png").write_bytes(png())
    from backend.meshes.read import kept_source

    (tmp_path / "a.glb").write_bytes(glb.content())
    kept = kept_source(tmp_path / "a.glb")["object.glb"]
    (tmp_path / "tex" / "skin a.png").unlink()
    assert read_glb(kept, []).images[0][0, 0, :3].tolist() == [200, 10, 10]
