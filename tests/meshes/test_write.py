"""What is delivered reads back right, in our reader, in trimesh and in Khronos's validator."""

import io
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from backend.errors import DiskError, NumericsError
from backend.meshes import write as mesh_write
from backend.meshes.write import png_bytes
from backend.scene.mesh import Mesh

ROOT = Path(__file__).parents[2]
VALIDATOR = ROOT / ".build" / "npm" / "node_modules" / "gltf-validator"
VALIDATE = """
const fs = require('fs');
require(process.argv[1]).validateBytes(new Uint8Array(fs.readFileSync(process.argv[2])))
    .then(report => console.log(JSON.stringify(report.issues)));
"""
INFO = {"prompt": "a réd mug 🐟", "seed": 42}


def ball(subdivisions=2):
    """A ball with a nose on -Y, each triangle with its own piece of the texture (so every edge is a seam)."""
    sphere = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.4)
    v = torch.from_numpy(sphere.vertices).float()
    v[v[:, 1].argmin()] = torch.tensor([0, -0.5, 0.1])
    t = torch.from_numpy(sphere.faces).long()
    side = int(len(t) ** 0.5) + 1
    cell = torch.stack((torch.arange(len(t)) % side, torch.arange(len(t)) // side), -1)
    corners = torch.tensor([[0.1, 0.1], [0.9, 0.1], [0.1, 0.9]])
    uv = ((cell[:, None] + corners) / side).reshape(-1, 2)
    return Mesh(v, t, uv, torch.arange(len(uv)).reshape(-1, 3))


def texture(size=64):
    """Red grows to the right, green downwards."""
    ramp = torch.linspace(0, 1, size)
    return torch.stack(
        (ramp.expand(size, size), ramp[:, None].expand(size, size), torch.zeros(size, size)), -1
    )


@pytest.fixture
def result(tmp_path):
    return {k: Path(v) for k, v in mesh_write.write_result(tmp_path, ball(), texture(), INFO).items()}


def test_the_three_files_and_nothing_else(result, tmp_path):
    assert (
        sorted(result) == ["albedo.png", "mesh.glb", "mesh.npz"] == sorted(p.name for p in tmp_path.iterdir())
    )


def test_the_same_mesh_gives_the_same_bytes(result, tmp_path):
    (tmp_path / "again").mkdir()
    again = mesh_write.write_result(tmp_path / "again", ball(), texture(), INFO)
    for name, path in again.items():
        assert Path(path).read_bytes() == result[name].read_bytes(), name


def test_npz_reads_back(result):
    back, mesh = mesh_write.read_npz(result["mesh.npz"]), ball()
    for name in ("v_pos", "t_pos_idx", "v_tex", "t_tex_idx"):
        assert torch.equal(getattr(back, name), getattr(mesh, name)), name
    result["mesh.npz"].write_bytes(b"no")
    with pytest.raises(DiskError, match="cannot be used"):
        mesh_write.read_npz(result["mesh.npz"])
    with pytest.raises(DiskError):
        mesh_write.read_npz(result["mesh.npz"].with_name("none.npz"))


def test_png_is_eight_bit_srgb(result):
    image = Image.open(result["albedo.png"])
    assert image.mode == "RGB" and image.size == (64, 64) and image.info["srgb"] == 0
    pixels = np.asarray(image).astype(float) / 255
    assert np.abs(pixels - texture().numpy()).max() <= 0.5 / 255 + 1e-6


def test_trimesh_sees_our_object_turned_to_y_up(result):
    mesh = trimesh.load(result["mesh.glb"], force="mesh", process=False)
    ours = ball()
    turned = ours.v_pos[ours.t_pos_idx].numpy()[..., [0, 2, 1]] * np.array([1, 1, -1])
    assert np.allclose(mesh.triangles, turned, atol=1e-6)
    assert np.allclose(
        mesh.vertices[mesh.vertices[:, 2].argmax()], [0, 0.1, 0.5], atol=1e-6
    )  # the nose: front, +Z
    merged = trimesh.Trimesh(mesh.vertices, mesh.faces)
    merged.merge_vertices(merge_tex=True, merge_norm=True)
    assert merged.is_watertight and merged.volume > 0
    smooth = (mesh.vertex_normals * mesh.vertices).sum(1) / np.linalg.norm(mesh.vertices, axis=1)
    assert smooth.min() > 0 and np.median(smooth) > 0.98


def test_a_triangle_wears_the_texels_under_its_uvs(result):
    mesh = trimesh.load(result["mesh.glb"], force="mesh", process=False)
    material = mesh.visual.material
    assert material.metallicFactor == 0 and material.roughnessFactor == pytest.approx(0.8)
    middle = ball().v_tex[ball().t_tex_idx].mean(1).numpy()  # v upwards, as is trimesh's
    assert np.allclose(mesh.visual.uv[mesh.faces].mean(1), middle, atol=1e-6)
    seen = np.asarray(material.baseColorTexture)[
        ((1 - middle[:, 1]) * 64).astype(int), (middle[:, 0] * 64).astype(int)
    ]
    assert np.abs(seen[:, 0] / 255 - middle[:, 0]).max() < 0.02
    assert np.abs(seen[:, 1] / 255 - (1 - middle[:, 1])).max() < 0.02


def test_the_glb_holds_the_png_and_the_prompt(result):
    content = result["mesh.glb"].read_bytes()
    assert result["albedo.png"].read_bytes() in content
    length = int.from_bytes(content[12:16], "little")
    document = json.loads(content[20 : 20 + length])
    assert document["asset"]["extras"] == INFO and document["nodes"][0]["name"] == INFO["prompt"]


def test_shared_uvs_stay_shared():
    """A quad with one chart: four corners, not six."""
    v = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1]])
    t = torch.tensor([[0, 1, 2], [0, 2, 3]])
    arrays = mesh_write.to_arrays(Mesh(v, t, v[:, [0, 2]].contiguous(), t))
    loaded = trimesh.load(
        io.BytesIO(mesh_write.glb_bytes(arrays, png_bytes(texture(8)), {})), "glb", force="mesh"
    )
    assert len(loaded.vertices) == 4


@pytest.mark.parametrize("subdivisions", [2, 5])  # 16- and 32-bit indices
def test_khronos_finds_nothing_to_say(subdivisions, tmp_path):
    node = shutil.which("node")
    if node is None or not VALIDATOR.is_dir():
        pytest.skip("needs node and `npm install --prefix .build/npm gltf-validator`, as .ci/run does")
    mesh = ball(subdivisions)
    if subdivisions == 5:
        assert len(mesh.v_tex) > 60_000
    path = Path(mesh_write.write_result(tmp_path, mesh, texture(), INFO)["mesh.glb"])
    ran = subprocess.run(
        [node, "-e", VALIDATE, str(VALIDATOR), str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    issues = json.loads(ran.stdout)
    assert issues["messages"] == [] and issues["numErrors"] == issues["numWarnings"] == 0


def test_a_flat_vertex_still_gets_a_unit_normal():
    v = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 0, 1], [5, 5, 5]])
    t = torch.tensor([[0, 1, 2]])
    normal = mesh_write.to_arrays(Mesh(v, t, torch.zeros(3, 2), t)).normal
    assert np.allclose(np.linalg.norm(normal, axis=1), 1) and np.allclose(normal[0], [0, -1, 0])


def test_nans_and_missing_uvs_are_refused_and_nothing_is_written(tmp_path):
    mesh, nan = ball(0), torch.full((8, 8, 3), float("nan"))
    with pytest.raises(NumericsError, match="texture"):
        mesh_write.write_result(tmp_path, mesh, nan, {})
    with pytest.raises(NumericsError, match="The mesh has a NaN"):
        mesh_write.write_result(tmp_path, replace(mesh, v_pos=mesh.v_pos * nan[0, 0]), texture(8), {})
    with pytest.raises(ValueError, match="UVs"):
        mesh_write.write_result(tmp_path, Mesh(mesh.v_pos, mesh.t_pos_idx), texture(8), {})
    with pytest.raises(ValueError, match=r"\[H,W,3\]"):
        mesh_write.write_result(tmp_path, mesh, texture(8)[..., 0], {})
    assert not list(tmp_path.iterdir())
    with pytest.raises(DiskError):
        mesh_write.write_result(tmp_path / "none", mesh, texture(8), {})


def test_a_png_has_alpha_only_where_something_is_transparent() -> None:
    pixels = torch.full((2, 3, 4), 255, dtype=torch.uint8)
    pixels[..., 0] = 51
    opaque = Image.open(io.BytesIO(png_bytes(pixels)))
    assert opaque.mode == "RGB" and np.asarray(opaque).tolist() == pixels[..., :3].tolist()
    assert png_bytes(pixels) == png_bytes(
        pixels[..., :3].float() / 255
    )  # uint8 or in [0,1]: the same picture
    pixels[0, 0, 3] = 7
    clear = Image.open(io.BytesIO(png_bytes(pixels)))
    assert clear.mode == "RGBA" and np.asarray(clear).tolist() == pixels.tolist() and "srgb" in clear.info
    with pytest.raises(ValueError, match="got \\[2, 3\\]"):
        png_bytes(pixels[..., 0])
