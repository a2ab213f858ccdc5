"""A GLB comes back with new colours and everything else as it was."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from backend.meshes.glb import parse
from backend.meshes.glb_scene import read_glb
from dreamflow_blender.contract.meshfile import BadMeshFile
from tests.tools.made_meshes import a_glb, stripes
from tests.tools.refine_run import run_file, shorten


@pytest.fixture(autouse=True, scope="module")
def short():
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        yield


def test_read_in_our_axes() -> None:
    arrays = read_glb(a_glb(), [])
    assert np.allclose(arrays.v_pos.mean(0), (5, -7, 6), atol=0.2)  # (x, y, z) of theirs is (x, -z, y)
    assert arrays.images[0].shape == (64, 64, 4) and np.array_equal(arrays.images[0], stripes())


def test_all_but_the_image_comes_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a.glb").write_bytes(a_glb())
    run_file(tmp_path / "job", tmp_path / "a.glb")
    old, new = parse(a_glb()), parse((tmp_path / "job" / "mesh.glb").read_bytes())
    assert new.blobs[0].startswith(old.blobs[0])
    changed = {k for k in new.document if new.document[k] != old.document.get(k)}
    assert changed == {"images", "textures", "materials", "bufferViews", "buffers"}
    assert new.document["images"][0] == old.document["images"][0]
    before, after = read_glb(a_glb(), []), read_glb(new.content(), [])
    material = new.document["materials"][0]
    assert material["pbrMetallicRoughness"]["baseColorTexture"] == {"index": 1}
    material["pbrMetallicRoughness"]["baseColorTexture"] = {"index": 0}
    assert material == old.document["materials"][0]
    for name in ("v_pos", "t_pos_idx", "uv", "material", "names"):
        assert np.array_equal(getattr(before, name), getattr(after, name)), name
    assert (before.images[0] != after.images[0]).any()


def test_new_uvs_stand_beside_the_old_and_double_vertices_with_all_they_have(tmp_path: Path) -> None:
    (tmp_path / "a.glb").write_bytes(a_glb(baseColorFactor=[0.5, 1, 1, 1]))
    run_file(tmp_path / "job", tmp_path / "a.glb", keep_uvs=False)
    content = (tmp_path / "job" / "mesh.glb").read_bytes()
    old, new = parse(a_glb()), parse(content)
    primitives = [g.document["meshes"][0]["primitives"][0] for g in (old, new)]
    assert set(primitives[1]["attributes"]) == {*primitives[0]["attributes"], "TEXCOORD_1"}
    pbr = new.document["materials"][0]["pbrMetallicRoughness"]
    assert pbr["baseColorTexture"]["texCoord"] == 1 and "baseColorFactor" not in pbr
    for name in primitives[0]["attributes"]:
        a, b = (
            g.accessor(p["attributes"][name])[g.accessor(p["indices"])[:, 0].astype(int)]
            for g, p in zip((old, new), primitives, strict=True)
        )
        assert np.array_equal(a, b), name
    assert json.loads(json.dumps(new.document["nodes"])) == old.document["nodes"]


@pytest.mark.parametrize("cut", [3, 11, 40, 700, 5000])
def test_a_file_cut_short_is_refused(cut: int) -> None:
    with pytest.raises(BadMeshFile):
        read_glb(a_glb()[:cut], [])


@pytest.mark.parametrize(
    ("extension", "package"),
    [("KHR_draco_mesh_compression", "DracoPy"), ("EXT_meshopt_compression", "meshoptimizer")],
)
def test_compressed_meshes_name_the_package_that_is_missing(
    extension: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    glb = parse(a_glb())
    if package == "DracoPy":
        packed: dict = {"bufferView": 0, "attributes": {"POSITION": 0}}
        glb.document["meshes"][0]["primitives"][0]["extensions"] = {extension: packed}
    else:
        packed = {"buffer": 0, "byteLength": 8, "byteStride": 4, "count": 4, "mode": "ATTRIBUTES"}
        glb.document["bufferViews"][0]["extensions"] = {extension: packed}
    with pytest.raises(BadMeshFile, match=f"{extension}.*{package} is not installed.*without compression"):
        read_glb(glb.content(), [])
